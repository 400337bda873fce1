"""Answers about clothes: asked of several views of a picture, and brought to a form in which equal is equal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ....core.vision.protocols import VQA

# (top, left) of a crop in eighths of what a crop leaves over, None for the whole picture; and whether it is mirrored
_VIEWS = (
    (None, False),
    (None, True),
    ((4, 4), False),
    ((0, 4), False),
    ((4, 0), True),
    ((8, 4), True),
    ((4, 8), False),
)
VIEWS = len(_VIEWS)
_CROP = 7 / 8  # of a side
_EMPTY = {"a", "an", "the", "it", "is", "are", "they", "color", "colors", "colour", "colours", "of"}


def canonical(answer: str) -> str:
    """An answer without what doesn't matter: case, punctuation, articles, and the order of a list's parts (ours).

    "Red and white." and "white, the red" are both "red, white"; "" is no answer.
    """
    parts = re.split(r",|;|/|&|\band\b|\bwith\b", answer.lower())
    words = (re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", part) for part in parts)
    kept = (" ".join(word for word in each if word not in _EMPTY) for each in words)
    return ", ".join(sorted({part for part in kept if part}))


def views(image: Tensor, count: int) -> Tensor:
    """A picture (3, H, W) seen `count` times, (count, 3, H, W): as it is, mirrored, and cropped a little (ours)."""
    height, width = image.shape[-2:]
    h, w = max(1, round(height * _CROP)), max(1, round(width * _CROP))
    seen = []
    for place, mirrored in _VIEWS[:count]:
        view = image
        if place is not None:
            y, x = (height - h) * place[0] // 8, (width - w) * place[1] // 8
            view = image[:, y : y + h, x : x + w][None]
            view = torch.nn.functional.interpolate(view, (height, width), mode="bilinear", antialias=True)[0]
        seen.append(view.flip(-1) if mirrored else view)
    return torch.stack(seen)


def ask(vqa: VQA, images: Tensor, questions: Sequence[str], count: int, agreement: float) -> list[list[str]]:
    """Each picture's answers, canonical: of most views, "" where fewer than a share of `agreement` give it (ours).

    Args:
        images: (B, 3, H, W) in 0..1.
        count: views of each, 1..7; one is the picture as it is, as in the paper.
        agreement: 0..1.

    Raises:
        ValueError: a model that doesn't answer every question.
    """
    given = vqa(torch.cat([views(image, count) for image in images]), questions)
    if len(given) != len(images) * count or {len(each) for each in given} != {len(questions)}:
        raise ValueError(f"not every one of {len(questions)} questions about {len(images) * count} views has an answer")
    found = []
    for i in range(len(images)):
        columns = zip(*([canonical(answer) for answer in each] for each in given[i * count : (i + 1) * count]))
        votes = (Counter(column).most_common(1)[0] for column in columns)  # of equals the first view's
        found.append([answer if n >= agreement * count else "" for answer, n in votes])
    return found
