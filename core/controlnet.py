"""A ControlNet beside a headless model: the same protocol, every call with its residuals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import control_lora
from .denoiser import Hooks
from .diffusers import DiffusersDenoiser, Text


def load(name: str | Path, unet: Any) -> Any:
    """diffusers' `ControlNetModel`, frozen, on a U-Net's device and in its precision.

    Args:
        name: a Control-LoRA (.safetensors), a folder in diffusers' layout, or a hub name.
        unet: the U-Net that it will guide, of which a Control-LoRA is a change.

    Raises:
        FileNotFoundError, LearnedFileError: as `control_lora.load`.
        ValueError: a model of another kind, which diffusers would take too.
    """
    if Path(name).suffix == ".safetensors":
        network = control_lora.load(name, unet)
    else:
        from diffusers import ControlNetModel

        kind = ControlNetModel.load_config(name).get("_class_name")
        if kind != ControlNetModel.__name__:
            raise ValueError(f"{name} is of the kind {kind}, but a ControlNet is needed here")
        network = ControlNetModel.from_pretrained(name, torch_dtype=unet.dtype, use_safetensors=True)
    return network.to(unet.device).eval().requires_grad_(False)


class Controlled:
    """`core.denoiser.Denoiser` of a model under a ControlNet, which sees every prompt, also the negative one.

    Args:
        denoiser: the model.
        network: diffusers' `ControlNetModel`.
        hint: what it is shown, (1 or B, channels, H, W) in 0..1.
        strength: of its residuals.
    """

    def __init__(self, denoiser: DiffusersDenoiser, network: Any, hint: Tensor, strength: float = 1.0):
        self.inner, self.network, self.hint, self.strength = denoiser, network, hint, strength
        self.schedule, self.sites, self.skips, self.unet = (
            denoiser.schedule,
            denoiser.sites,
            denoiser.skips,
            denoiser.unet,
        )

    def __call__(self, z: Tensor, t: int | Tensor, *conditions: Text, hooks: Hooks | None = None) -> tuple[Tensor, ...]:
        return self.inner(z, t, *(self._with_residuals(z, t, c) for c in conditions), hooks=hooks)

    def _with_residuals(self, z: Tensor, t: int | Tensor, text: Text) -> Text:
        dtype, batch = self.network.dtype, len(z)

        def rows(x: Tensor) -> Tensor:
            return x.expand(batch, *x.shape[1:]).to(z.device, dtype)

        added = text.extra.get("added_cond_kwargs")
        down, middle = self.network(
            z.to(dtype),
            torch.as_tensor(t, device=z.device).expand(batch),
            rows(text.tokens),
            rows(self.hint),
            conditioning_scale=self.strength,
            added_cond_kwargs=added and {name: rows(value) for name, value in added.items()},
            return_dict=False,
        )
        residuals = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
        return replace(text, extra={**text.extra, **residuals})
