"""What a metric or a method asks of a vision model, whichever one is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class ImageEmbedder(Protocol):
    """Whole pictures as vectors whose cosine says how alike they are."""

    def images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to unit vectors (B, D), float32."""
        ...


class TextEmbedder(Protocol):
    """Texts as vectors in the same space as pictures."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit vectors (B, D), float32."""
        ...


class PatchEmbedder(Protocol):
    """Pictures as a grid of vectors, for matching places of one with places of another."""

    def patches(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to patch tokens (B, h, w, D), float32, not normalised.

        `size` in pixels shows the model the whole picture, resized to it, instead of its usual crop.
        """
        ...


class TextSegmenter(Protocol):
    """Where a picture shows what a text names."""

    def segment(self, images: Tensor, text: str) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to masks (B, 1, H, W) of 0 and 1, float32, on the pictures' device.

        All that the text names is in the mask; where nothing is found the mask is empty.
        """
        ...


class PromptSegmenter(Protocol):
    """What lies in a box or under a point of a picture."""

    def segment(
        self, images: Tensor, *, boxes: Sequence[Tensor] | None = None, points: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to masks (B, 1, H, W) of 0 and 1, float32, on the pictures' device.

        Args:
            boxes: for each picture (N, 4) of left, top, right, bottom in pixels; one object a box, their masks united.
            points: for each picture (P, 3) of x, y in pixels, and 1 on the object or 0 beside it; all of one object,
                or of each box's.

        A picture with neither box nor point gets an empty mask.
        """
        ...


class BoxDetector(Protocol):
    """Boxes around what a text names."""

    def boxes(self, images: Tensor, text: str) -> list[Tensor]:
        """Pictures (B, 3, H, W) in 0..1 to a tensor (N, 4) each, of left, top, right, bottom in pixels; N may be 0."""
        ...


class Captioner(Protocol):
    """Pictures in words."""

    def caption(self, images: Tensor) -> list[str]:
        """Pictures (B, 3, H, W) in 0..1 to a caption each, one line."""
        ...


class VQA(Protocol):
    """Questions about pictures, answered in words."""

    def __call__(self, images: Tensor, questions: Sequence[str]) -> list[list[str]]:
        """Pictures (B, 3, H, W) in 0..1 to B lists, each with an answer to every question, in their order, one line."""
        ...
