"""A model as ToffeeNet draws with it: nine channels, where it may draw, and a depth ControlNet that may say nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..controlnet import Controlled
from ..diffusers import DiffusersDenoiser, Text
from .inpainting import masked_channels, widened


def constant(size: Sequence[int]) -> Tensor:
    """A depth that says nothing, (1, H, W): drawing with it changes the view (Toffee, section 2.2)."""
    return torch.full((1, *size), 0.5)


def prepared(
    model: Checkpoint, picture: Tensor, mask: Tensor | None = None, network: Any = None, depth: Tensor | None = None
) -> tuple[DiffusersDenoiser | Controlled, Callable[[Text], Text]]:
    """The denoiser, and what makes a prompt's conditioning its own.

    Args:
        model: of four or nine channels.
        picture: that is edited, (1 or B, 3, H, W) in 0..1.
        mask: where, (1 or B, 1, H, W) in 0..1; everything is drawn without, and the picture gives its size alone.
        network: a depth ControlNet.
        depth: what it is shown, (1, H, W) in 0..1; a constant without.

    Raises:
        ValueError: as `masked_channels` and `widened`.
    """
    if mask is None:
        picture, mask = torch.zeros_like(picture), torch.ones_like(picture[:, :1])
    channels = masked_channels(picture, mask, model.encode)
    denoiser = DiffusersDenoiser(widened(model.denoiser.unet), model.denoiser.schedule)

    def carried(text: Text) -> Text:
        return replace(text, channels=channels)

    if network is None:
        return denoiser, carried
    hint = constant(picture.shape[-2:]) if depth is None else depth
    return Controlled(denoiser, network, hint[None].expand(-1, 3, -1, -1).to(picture.device)), carried
