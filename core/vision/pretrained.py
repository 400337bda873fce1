"""What the models of transformers that segment, find and describe have in common: how they load, and how they go."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import source
from .preprocess import bytes_of


class Pretrained:
    """A frozen model of transformers with its processor, loaded when first used.

    Args:
        name: folder in transformers' layout, or hub name.
        device, dtype: where and in what precision it runs, but for what transformers keeps in float32 beside float16.

    Raises:
        FileNotFoundError: no such folder, at once; a name that can't be loaded, when first used.
        ValueError: a model of another kind, or a transformers that is too old for it, when first used.
        ModuleNotFoundError: a package of `needs` is missing, when first used.
    """

    what: str  # as messages call it
    kinds: tuple[str, ...]  # `model_type` in config.json
    model_class: str
    processor_class: str
    needs: tuple[str, ...] = ()  # packages, besides transformers

    def __init__(self, name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32):
        self.name, self.device, self.dtype = source.check(name, self.what), torch.device(device), dtype

    @cached_property
    def model(self) -> Any:
        """The transformers model, frozen."""
        with source.explained(self.name, self.what):
            self._check_kind()
            make = self._named(self.model_class).from_pretrained
            model = make(self.name, use_safetensors=True, torch_dtype=self.dtype)
        return model.to(self.device).eval().requires_grad_(False)

    @cached_property
    def processor(self) -> Any:
        """The model's own preparation of pictures and texts, and reading of its answers."""
        for package in self.needs:
            import_module(package)
        with source.explained(self.name, self.what):
            self._check_kind()
            return self._named(self.processor_class).from_pretrained(self.name)

    def inputs(self, images: Tensor, **prompts: Any) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W) in 0..1 and the processor's other arguments as the model takes them."""
        batch = self.processor(images=bytes_of(images), return_tensors="pt", **prompts)
        batch = {name: value.to(self.device) for name, value in batch.items() if name != "original_sizes"}
        return {**batch, "pixel_values": batch["pixel_values"].to(self.dtype)}

    def release(self) -> None:
        """Forget the weights, so that their memory is free; the next use loads them again."""
        self.__dict__.pop("model", None)

    def _check_kind(self) -> None:
        from transformers import PretrainedConfig

        kind = PretrainedConfig.get_config_dict(self.name)[0].get("model_type")
        if kind not in self.kinds:
            raise ValueError(f"{self.name} is a {kind} model, but a {self.what} is needed here")

    def _named(self, name: str) -> Any:
        import transformers

        if not hasattr(transformers, name):
            raise ValueError(f"{self.what} needs a newer transformers than {transformers.__version__}: upgrade it")
        return getattr(transformers, name)
