"""References: what a concept word means in a picture, cut out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WORDS = ("face", "clothes", "figure")
GREY = 0.5  # around what was cut out
FACE_MARGIN = 0.35  # of a face box on each side, so that the hair is inside
MOST = 0.5  # a face box that covers more of the figure leaves no clothes to see

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class References:
    """Pictures to retrieve from, as the encoder reads them.

    Args:
        latents: clean, in the model's scale, (N, C, h, w) or (B, N, C, h, w) where every picture of a batch has its
            own.
        tokens: text of each one's concept word, (N, L, width), or (B N, L, width) where every picture has its own.
        masks: where to look, (N, H, W) or (B, N, H, W) in 0..1 of any size; None is everywhere.
        extra: what SDXL's encoder wants besides, as many rows as tokens (`text_embeds`, `time_ids`).
    """

    latents: Tensor
    tokens: Tensor
    masks: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.latents.ndim == 4:
            object.__setattr__(self, "latents", self.latents[None])
        if self.masks is not None and self.masks.ndim == 3:
            object.__setattr__(self, "masks", self.masks[None])
        if self.masks is not None and not bool((self.masks > 0).flatten(2).any(-1).all()):
            raise ValueError("mask: a reference's mask is empty; paint what to retrieve, or leave the mask out")


def box_mask(box: Box, size: tuple[int, int], margin: float = 0.0) -> Tensor:
    """A box (cx, cy, w, h in 0..1) as a mask (1, H, W), widened by a share of its size on each side."""
    height, width = size
    cx, cy, w, h = box
    w, h = w * (1 + 2 * margin), h * (1 + 2 * margin)
    ys, xs = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    inside = ((ys - cy).abs() <= h / 2)[:, None] & ((xs - cx).abs() <= w / 2)
    return inside.float()[None]


def concept_mask(word: str, figure: Tensor, face: Box | None, clothes: Tensor | None = None) -> tuple[str, Tensor]:
    """Where a concept is, and the word it is then called by (RetriBooru, section 5).

    The face is what of the figure is in its box, widened for the hair; clothes are the figure without the box, and
    become the whole "figure" where the box covers most of it. The paper cuts with boxes and masks and does not say
    more: the margin, and the use of a clothes mask for both where there is one, are ours.

    Args:
        word: "face", "clothes" or "figure".
        figure: the subject's mask, (1, H, W) in 0..1.
        face: box (cx, cy, w, h in 0..1).
        clothes: a mask of the clothes alone, (1, H, W).

    Raises:
        ValueError: another word, or a face without a box.
    """
    if word not in WORDS:
        raise ValueError(f"concept: {word!r} is none of {', '.join(WORDS)}; give its mask yourself")
    size = (figure.shape[-2], figure.shape[-1])
    if word == "face":
        if face is None:
            raise ValueError("concept: there is no face box in this reference; choose a picture that shows the face")
        head = box_mask(face, size, FACE_MARGIN)
        skin = head * figure * (1 - clothes if clothes is not None else 1)
        return word, skin if bool((skin > 0.5).any()) else head
    if word == "figure" or (clothes is None and face is None):
        return word, figure
    rest = clothes if clothes is not None else figure * (1 - box_mask(face, size))
    if float(rest.sum()) < (1 - MOST) * float(figure.sum()) and clothes is None:
        return "figure", figure
    return word, rest


def cut_out(image: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The masked region, filling a square; grey around it **[ours]**.

    Args:
        image: (3, H, W) in 0..1.
        mask: (1, H, W) in 0..1.
        size: pixels of the square.

    Returns:
        The square (3, size, size), and where in it the region is (1, size, size).

    Raises:
        ValueError: an empty mask, or one of another size than the picture.
    """
    if mask.shape[-2:] != image.shape[-2:]:
        raise ValueError(f"mask: it is {tuple(mask.shape[-2:])}, the picture {tuple(image.shape[-2:])}; give one size")
    rows, columns = (mask[0] > 0.5).any(1).nonzero(), (mask[0] > 0.5).any(0).nonzero()
    if not len(rows):
        raise ValueError("mask: a reference's mask is empty; paint what to retrieve, or leave the mask out")
    top, bottom, left, right = (int(i) for i in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    image, mask = image[:, top:bottom, left:right], mask[:, top:bottom, left:right]
    stacked = torch.cat([(image - GREY) * mask, mask])  # zero is the padding of both
    height, width = stacked.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = F.pad(stacked, (left, side - width - left, top, side - height - top))
    square = F.interpolate(square[None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return (square[:3] + GREY).clamp(0, 1), square[3:].clamp(0, 1)


@dataclass(frozen=True)
class Reference:
    """A picture that shows a concept.

    Args:
        word: what the concept is called.
        image: (3, H, W) in 0..1.
        mask: where it is, (1, H, W) in 0..1.
    """

    word: str
    image: Tensor
    mask: Tensor

    def cut(self, size: int) -> tuple[Tensor, Tensor]:
        """What the network sees of it, and where in that it is; see `cut_out`."""
        return cut_out(self.image, self.mask, size)
