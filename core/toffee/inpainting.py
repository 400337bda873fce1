"""ToffeeNet's nine input channels: noisy latent, mask, masked latent, as Stable Diffusion's inpainting models have.

For generating the mask is everywhere and the masked picture is black (Toffee, section 2.2). ComfyUI's own node fills
the mask grey, which ToffeeNet has never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 9
FILL = 0.0  # black


def masked_channels(images: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Mask and masked latent, (B, 5, h, w), as `core.diffusers.Text.channels` takes them.

    Args:
        images: (B, 3, H, W) in 0..1.
        mask: where to draw, (1 or B, 1, H, W) in 0..1; all ones for generating.
        encode: pictures to latents in the model's scale.

    Raises:
        ValueError: a mask of another size, or one that is empty.
    """
    if mask.ndim != 4 or mask.shape[-2:] != images.shape[-2:]:
        raise ValueError(f"mask: it is {tuple(mask.shape[-2:])}, the picture {tuple(images.shape[-2:])}; give one size")
    if not bool((mask > 0.5).flatten(1).any(1).all()):
        raise ValueError("mask: it is empty; paint what may change")
    hole = (mask > 0.5).to(images).expand(len(images), -1, -1, -1)
    latents = encode(images * (1 - hole) + FILL * hole)
    # as ComfyUI and diffusers bring masks to latent size
    return torch.cat([F.interpolate(hole, latents.shape[-2:], mode="nearest").to(latents), latents], 1)


def widened(unet: Any) -> Any:
    """A copy of a U-Net with nine input channels, the five new ones without effect.

    Raises:
        ValueError: a U-Net that has neither four nor nine.
    """
    import copy

    unet = copy.deepcopy(unet)
    old = unet.conv_in
    if old.in_channels == CHANNELS:
        return unet
    if old.in_channels != 4:
        raise ValueError(f"model: its U-Net takes {old.in_channels} channels; ToffeeNet needs one of 4 or {CHANNELS}")
    new = nn.Conv2d(CHANNELS, old.out_channels, old.kernel_size, old.stride, old.padding).to(old.weight)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :4] = old.weight
        new.bias.copy_(old.bias)
    new.requires_grad_(old.weight.requires_grad)
    unet.conv_in = new
    unet.register_to_config(in_channels=CHANNELS)
    return unet
