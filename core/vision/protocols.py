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
