"""Pictures measured inside ComfyUI, by the same code as `likeness evaluate pictures`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
from torch import Tensor

from ..core.metrics.diversity import QUESTIONS
from ..training import evaluate
from ..training.evaluate import Models, Scores
from . import vision, vision_model
from .metrics_model import NOT_MEASURED
from .segmentation import pictures
from .toffee_model import check_mask

NAMES = ("clip_i", "clip_t", "dino", "seg_clip_i", "seg_dino", "vqa")


def measure(
    images: Tensor,
    references: Tensor,
    prompts: str = "",
    clip: str = vision.DEMO,
    dino: str = vision.DEMO,
    vqa: str = vision.NONE,
    pair: str = "vqa x clip_i",
    mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    questions: str = "",
) -> tuple[float | str, ...]:
    """Means over pictures in the order of `NAMES`, SWD of the pair, and all of it in words; -1 is not measured.

    Args:
        images, references: (B, H, W, C) in 0..1.
        prompts: a line for all pictures, or a line a picture.
        mask, reference_mask: (1 or B, H, W), both or neither.
        questions: a line each.

    Raises:
        FileNotFoundError, ValueError: each message names the input.
    """
    drawn, shown = (pictures(images), pictures(references))
    asked = asked_of(prompts, images)
    masks = _masks((("mask", mask, images), ("reference_mask", reference_mask, references)))
    with models_of(clip, dino, vqa, questions) as models:
        scores = evaluate.score(models, drawn, shown, asked, masks)
    comfy.model_management.throw_exception_if_processing_interrupted()
    means = {name: float(values.mean()) for name, values in scores.each.items()}
    both = means.get(f"swd {pair}", NOT_MEASURED)
    return *(means.get(name, NOT_MEASURED) for name in NAMES), both, _words(scores)


def asked_of(prompts: str, images: Tensor, where: str = "") -> list[str] | None:
    """Each picture's prompt; None where there are none.

    Raises:
        ValueError: as many lines as neither one nor the pictures; `where` says which pictures.
    """
    asked, count = [line.strip() for line in prompts.splitlines() if line.strip()], len(images)
    if len(asked) not in (0, 1, count):
        raise ValueError(f"prompts: {len(asked)} lines for {count} pictures{where}; write one for all, or one for each")
    return (asked * count if len(asked) == 1 else asked) or None


def _masks(given: tuple[tuple[str, Tensor | None, Tensor], ...]) -> tuple[Tensor, Tensor] | None:
    missing = [name for name, mask, _ in given if mask is None]
    if len(missing) == 2:
        return None
    if missing:
        raise ValueError(f"{missing[0]}: connect it too, or neither; the subject alone is compared with itself alone")
    found = []
    for name, mask, image in given:
        check_mask(mask, image, name, empty=True)  # a picture without its subject is no likeness
        found.append(mask[:, None].float().clamp(0, 1).expand(len(image), -1, -1, -1))
    return found[0], found[1]


@contextmanager
def models_of(clip: str, dino: str, vqa: str, questions: str = "\n".join(QUESTIONS)) -> Iterator[Models]:
    """The chosen models, in memory for a `with` block."""
    demo = evaluate.embedded()
    with ExitStack() as stack:

        def opened(entry: str, name: str, **settings: Any):
            model = vision.find(entry, name)
            return None if model.kind == vision.DEMO else stack.enter_context(vision_model.borrowed(model, **settings))

        embedder = opened("clip", clip) or demo.clip
        answers = opened("vqa", vqa, dtype=vision_model.half()) if vqa != vision.NONE else None
        asked = [line.strip() for line in questions.splitlines() if line.strip()]
        if answers is not None and not asked:
            raise ValueError("questions: there is none; write one a line")
        if answers is not None and embedder is demo.clip:
            raise ValueError("clip: the built-in one can't read a model's answers; choose another one with this vqa")
        theirs = (answers, asked, embedder.texts)
        ours = (demo.vqa, demo.questions, demo.embed) if vqa == vision.DEMO else theirs
        yield Models(embedder, opened("dino", dino) or demo.dino, None, *ours)


def _words(scores: Scores) -> str:
    """A line a number, then a line a picture."""
    summary = scores.summary()
    lines = [f"{name}: {value:.3f}" for name, value in summary.items()]
    count = len(next(iter(scores.each.values())))
    each = [", ".join(f"{name} {values[i]:.3f}" for name, values in scores.each.items()) for i in range(count)]
    return "\n".join([*lines, "", *(f"picture {i + 1}: {line}" for i, line in enumerate(each))])
