"""DINO (v1, v2) by name or folder: a picture's identity as one vector, its places as a grid of vectors."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import source
from .preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

BATCH = 64
_CLASSES = {"vit": "ViTModel", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}


class Dino:
    """A DINO model of transformers, loaded when first used.

    Args:
        name: folder in transformers' layout, or hub name such as "facebook/dino-vits16" or "facebook/dinov2-base".
        device, dtype: where and in what precision it runs; vectors come back in float32 on that device.

    Raises:
        FileNotFoundError: no such folder, at once; a name that can't be loaded, when first used.
        ValueError: a model that is not a DINO, when first used.
    """

    def __init__(self, name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32):
        self.name, self.device, self.dtype = source.check(name, "DINO"), torch.device(device), dtype

    @cached_property
    def model(self) -> Any:
        """The transformers model, frozen."""
        import transformers

        with source.explained(self.name, "DINO"):
            kind = transformers.AutoConfig.from_pretrained(self.name).model_type
            if kind not in _CLASSES:
                raise ValueError(f"{self.name} is a {kind} model, but a DINO is needed here ({', '.join(_CLASSES)})")
            # DINO's ViTs come without the pooling layer that ViTModel adds
            extra = {"add_pooling_layer": False} if kind == "vit" else {}
            model = getattr(transformers, _CLASSES[kind]).from_pretrained(self.name, use_safetensors=True, **extra)
        return model.to(self.device, self.dtype).eval().requires_grad_(False)

    @cached_property
    def preprocess(self) -> Preprocess:
        """The model's own preprocessing; without one in its folder the authors': 224 pixels, v2 cropped from 256."""
        usual = Preprocess((224, 224), None, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
        if self.model.config.model_type != "vit":
            usual = Preprocess(256, (224, 224), "bicubic", IMAGENET_MEAN, IMAGENET_STD)
        with source.explained(self.name, "DINO"):
            return Preprocess.read(self.name, usual)

    def images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to unit vectors (B, D), float32: the class token."""
        return torch.nn.functional.normalize(self._tokens(images, None)[0][:, 0], dim=-1)

    def tokens(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to the class token and all patch tokens, (B, 1 + h w, D), float32."""
        tokens, (h, w) = self._tokens(images, None)
        return torch.cat([tokens[:, :1], tokens[:, -h * w :]], 1)  # without registers

    def patches(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to patch tokens (B, h, w, D), float32, not normalised.

        `size` (height, width; multiples of the patch size, ValueError else) shows the whole picture, resized to it,
        instead of the model's usual crop.
        """
        patch = self.model.config.patch_size
        if size is not None and (min(size) < patch or size[0] % patch or size[1] % patch):
            raise ValueError(
                f"patches: size {tuple(size)} is not made of positive multiples of {patch}, the patch size"
            )
        tokens, (h, w) = self._tokens(images, size)
        return tokens[:, -h * w :].unflatten(1, (h, w))

    def release(self) -> None:
        """Forget the weights, so that their memory is free; the next use loads them again."""
        self.__dict__.pop("model", None)

    @torch.no_grad()
    def _tokens(self, images: Tensor, size: tuple[int, int] | None) -> tuple[Tensor, tuple[int, int]]:
        """All tokens (B, 1 + registers + h * w, D) and the grid (h, w)."""
        patch, parts = self.model.config.patch_size, []
        # ViTModel stretches its positions only when told to
        extra = {"interpolate_pos_encoding": True} if self.model.config.model_type == "vit" else {}
        for chunk in images.split(BATCH):
            pixels = self.preprocess(chunk.to(self.device), size).to(self.dtype)
            parts.append(self.model(pixel_values=pixels, **extra).last_hidden_state.float())
        return torch.cat(parts), (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
