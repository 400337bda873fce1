"""CLIP by name or folder: pictures and texts as unit vectors in one space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import source
from .preprocess import CLIP_MEAN, CLIP_STD, Preprocess

BATCH = 64


class Clip:
    """A CLIP model of transformers, loaded when first used.

    Args:
        name: folder in transformers' layout, or hub name such as "openai/clip-vit-base-patch32".
        device, dtype: where and in what precision it runs; vectors come back in float32 on that device.

    Raises:
        FileNotFoundError: no such folder, at once; a name that can't be loaded, when first used.
        ValueError: a model that is not CLIP, when first used.
    """

    def __init__(self, name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32):
        self.name, self.device, self.dtype = source.check(name, "CLIP"), torch.device(device), dtype

    @cached_property
    def model(self) -> Any:
        """The transformers model, frozen."""
        from transformers import AutoConfig, CLIPModel

        with source.explained(self.name, "CLIP"):
            kind = AutoConfig.from_pretrained(self.name).model_type
            if kind != "clip":
                raise ValueError(f"{self.name} is a {kind} model, but a CLIP model is needed here")
            model = CLIPModel.from_pretrained(self.name, use_safetensors=True)
        return model.to(self.device, self.dtype).eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        with source.explained(self.name, "CLIP"):
            return CLIPTokenizer.from_pretrained(self.name)

    @cached_property
    def preprocess(self) -> Preprocess:
        """The model's own preprocessing; without one in its folder OpenAI's at the model's size."""
        size = self.model.config.vision_config.image_size
        with source.explained(self.name, "CLIP"):
            return Preprocess.read(self.name, Preprocess(size, (size, size), "bicubic", CLIP_MEAN, CLIP_STD))

    def release(self) -> None:
        """Forget the weights, so that their memory is free; the next use loads them again."""
        self.__dict__.pop("model", None)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to unit vectors (B, D), float32."""
        parts = []
        for chunk in images.split(BATCH):
            pixels = self.preprocess(chunk.to(self.device)).to(self.dtype)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            parts.append(self.model.visual_projection(pooled).float())
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit vectors (B, D), float32; what doesn't fit into the model's 77 tokens is cut off."""
        length = self.model.config.text_config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), BATCH):
            tokens = self.tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=length,
                return_tensors="pt",
            ).to(self.device)
            pooled = self.model.text_model(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
            parts.append(self.model.text_projection(pooled).float())
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)
