"""Boxes and points as the SAMs take them, and their masks as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .preprocess import check


@dataclass(frozen=True)
class Prompt:
    """Where N objects of one picture are.

    Args:
        boxes: (N, 4) of left, top, right, bottom in pixels, or None.
        points: (N, P, 2) of x, y in pixels, or None.
        labels: (N, P) of 1 on the object and 0 beside it, None without points.
    """

    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None

    @property
    def ambiguous(self) -> bool:
        """A single point may mean a part or the whole: SAM's authors then take the best of three masks."""
        return self.boxes is None and self.points.shape[1] == 1


def prompt(boxes: Tensor | None, points: Tensor | None) -> Prompt | None:
    """A picture's boxes (N, 4) and points (P, 3) together; None where there is nothing.

    Raises:
        ValueError: other shapes, or points that only say where the object is not.
    """
    for name, rows, width in (("boxes", boxes, 4), ("points", points, 3)):
        if rows is not None and (rows.ndim != 2 or rows.shape[1] != width):
            raise ValueError(f"{name}: a picture's are a tensor (N, {width}), not {tuple(rows.shape)}")
    if points is not None and not len(points):
        points = None
    if (boxes is None and points is None) or (boxes is not None and not len(boxes)):
        return None
    if points is None:
        return Prompt(boxes.float(), None, None)
    if boxes is None and not (points[:, 2] > 0).any():
        raise ValueError("points: all of a picture's are beside the object; give one on it, or a box")
    points = points.float().expand(1 if boxes is None else len(boxes), -1, -1)
    return Prompt(None if boxes is None else boxes.float(), points[..., :2], points[..., 2].long())


def segment(
    images: Tensor,
    boxes: Sequence[Tensor] | None,
    points: Sequence[Tensor] | None,
    masks: Callable[[Tensor, Prompt], Tensor],
) -> Tensor:
    """`PromptSegmenter.segment`, by `masks` of one picture (3, H, W) and its Prompt: (N, 1, H, W), bool.

    Raises:
        ValueError: not pictures, another number of boxes or points than of pictures, or see `prompt`.
    """
    check(images)
    for name, each in (("boxes", boxes), ("points", points)):
        if each is not None and len(each) != len(images):
            raise ValueError(f"{name}: {len(each)} for {len(images)} pictures; give a tensor for each")
    out = torch.zeros_like(images[:, :1], dtype=torch.float32)
    for i, image in enumerate(images):
        where = prompt(boxes[i] if boxes is not None else None, points[i] if points is not None else None)
        if where is not None:
            out[i] = masks(image, where).any(0)
    return out


def best(logits: Tensor, quality: Tensor) -> Tensor:
    """Of the candidates (N, C, H, W) the one of highest quality (N, C) each: (N, 1, H, W)."""
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, quality.argmax(1)][:, None]
