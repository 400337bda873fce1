"""Toffee inside ComfyUI: pictures to DINO tokens, an adapter inside a MODEL, ToffeeNet's inputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.utils
import comfy.weight_adapter
import node_helpers
import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor
from torch.nn import functional as F

from ..core.demo.judges import JUDGES
from ..core.reach import Reach
from ..core.toffee import tokens as described
from ..core.toffee.adapter import Adapter, Injection, changed, channels_of
from ..core.toffee.inpainting import CHANNELS, masked_channels
from ..core.toffee.tokens import EMBEDDED, Tokens
from ..core.weights import Delta
from . import denoiser, vision, vision_model
from .demo_model import DemoModel
from .hooks import sites, unet_of
from .managed import Managed, managed
from .segmentation import pictures

KEY, CHANGES, PIXELS = "likeness_toffee", "likeness_toffee_changes", 8  # of a latent's side


def encode(image: Tensor, mask: Tensor | None, model: vision.Model) -> Tokens:
    """An IMAGE (B, H, W, C), of which a MASK (1 or B, H, W) may leave the subject alone, to tokens.

    Raises:
        ValueError: it names the input.
    """
    images, path = pictures(image), Path(model.name)
    name = path.name if path.is_dir() else model.name
    if mask is not None:
        check_mask(mask, image)
        mask = mask[:, None].clamp(0, 1)
    if model.kind == vision.DEMO:
        name, model = EMBEDDED, vision.Model(vision.DINOS[0], str(JUDGES / "dino"), 0)
    with vision_model.borrowed(model) as dino:
        return described.encode(dino, name, images, mask)


def check_mask(mask: Tensor, image: Tensor, name: str = "mask", empty: bool = False) -> None:
    """ValueError for a MASK that is not of this IMAGE or, unless it may be `empty`, shows nothing."""
    if mask.shape[1:] != image.shape[1:3]:
        (height, width), (h, w) = mask.shape[1:], image.shape[1:3]
        wrong = f"{name}: {width} x {height} pixels, but the picture has {w} x {h}"
        raise ValueError(f"{wrong}; connect that picture's mask")
    if len(mask) not in (1, len(image)):
        raise ValueError(f"{name}: {len(mask)} masks for {len(image)} pictures; connect one for each, or one")
    nothing = [str(i + 1) for i, each in enumerate(mask) if not bool((each > 0.5).any())]
    if nothing and not empty:
        raise ValueError(f"{name}: number {', '.join(nothing)} is empty; paint the subject, or leave the mask out")


# --- inside a MODEL --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """An adapter under ComfyUI's memory management and, apart from it, what training changed in the U-Net."""

    adapter: Managed
    delta: Managed | None


def loaded(adapter: Adapter) -> Loaded:
    """An adapter for use in MODELs; it is taken apart."""
    delta, adapter.delta = adapter.delta, None
    return Loaded(managed(adapter), None if delta is None else managed(delta))


def apply(model: Any, loaded: Loaded, tokens: Tokens, reach: Reach) -> Any:
    """A clone of MODEL that draws a subject from its DINO tokens, in any sampler and beside other methods.

    What training changed in the U-Net is merged into the weights, as a LoRA is, where it works from the first step to
    the last; then it costs nothing. Otherwise those layers run twice.

    Raises:
        ValueError: a model of another family or with other input channels, or tokens of another DINO.
    """
    adapter, delta = loaded.adapter.model, None if loaded.delta is None else loaded.delta.model
    adapter.check(tuple(sites(unet_of(model))))
    _check_channels(model, adapter.model, channels_of(delta))
    if not isinstance(model.model.model_config, DemoModel):  # the only one that is widened here
        adapter.check_inputs(model.model.model_config.unet_config["in_channels"])
    injection = Injection(adapter, tokens.tokens, denoiser.timesteps_of(model), reach)
    if not described.same(tokens.dino, adapter.dino):
        logging.warning(
            "Likeness: the %s was trained with %s, the tokens are of %s", adapter.model, adapter.dino, tokens.dino
        )
    if not reach.strength:
        return model.clone()
    hooks, parts, patched = injection.hooks, [loaded.adapter], model
    # two subjects by one network: what training changed is changed once
    there = model.get_attachment(CHANGES) or ()
    before = {is_merged for known, is_merged in there if known is delta}
    if delta is not None and True not in before:
        if merging := not before and (reach.start_percent, reach.end_percent) == (0, 1):
            patched = merged(model, delta)
        else:
            hooks, parts = replace(hooks, weights=changed(delta, injection.steps, reach)), [*parts, loaded.delta]
            patched = model.clone()
        patched.set_attachments(CHANGES, (*there, (delta, merging)))
    patched, key = denoiser.attach(patched, hooks, last=True), f"{KEY}_{id(injection)}"
    patched.set_additional_models(key, parts)
    patched.add_callback_with_key(CallbacksMP.ON_CLEANUP, key, lambda patcher: injection.forget())
    return patched


def merged(model: Any, delta: Delta) -> Any:
    """A clone of MODEL with differences of weights as its own patches, which ComfyUI merges, streams and takes back."""
    tensors, names = delta.whole(), comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    patches: dict[str, Any] = {}
    for key, tensor in tensors.items():
        layer, kind = key.split("/")
        if kind == "down":
            factors = (tensors[f"{layer}/up"], tensor, None, None, None, None)
            patches[f"{layer}.weight"] = comfy.weight_adapter.LoRAAdapter(set(), factors)
        elif kind != "up":
            patches[f"{layer}.{kind}"] = ("diff", (tensor,))
    patched = model.clone()
    patched.add_patches({f"diffusion_model.{names[name]}": patch for name, patch in patches.items()})
    return patched


def _check_channels(model: Any, name: str, wanted: int | None) -> None:
    there = model.model.model_config.unet_config["in_channels"]
    if wanted in (None, there):
        return
    if wanted == CHANNELS:
        raise ValueError(
            f"model: it has {there} input channels, the {name} needs {CHANNELS}; connect an inpainting model (Load "
            "Demo Model has one)"
        )
    raise ValueError(f"model: it has {there} input channels, the {name} needs {wanted}; connect the ordinary model")


# --- ToffeeNet's inputs ----------------------------------------------------------------------------------------------


def inputs(
    positive: list, negative: list, vae: Any, pixels: Tensor, mask: Tensor | None, noise_mask: bool
) -> tuple[list, list, dict[str, Tensor]]:
    """What ComfyUI's InpaintModelConditioning gives, with black under the mask; drawn everywhere without a mask.

    Raises:
        ValueError: it names the input.
    """
    images = _in_latents(pictures(pixels))
    everywhere = torch.ones_like(images[:1, :1])
    area = everywhere if mask is None else _in_latents(_fitted(mask, pixels))

    def encode(x: Tensor) -> Tensor:
        return vae.encode(x.movedim(1, -1))

    # at the latents' size, where ComfyUI would scale it in a way that training did not
    channels = masked_channels(images, area, encode)
    values = {"concat_mask": channels[:, :1], "concat_latent_image": channels[:, 1:]}
    # what is drawn from nothing starts from nothing
    latent = {"samples": torch.zeros_like(channels[:, 1:]) if mask is None else encode(images)}
    if noise_mask and mask is not None:
        latent["noise_mask"] = area
    return *(node_helpers.conditioning_set_values(cond, values) for cond in (positive, negative)), latent


def _fitted(mask: Tensor, pixels: Tensor) -> Tensor:
    """A MASK (1 or B, H, W) of any size at the size of IMAGE, (1 or B, 1, H, W)."""
    if len(mask) not in (1, len(pixels)):
        raise ValueError(f"mask: {len(mask)} masks for {len(pixels)} pictures; connect one for each, or one")
    return F.interpolate(mask[:, None].float(), tuple(pixels.shape[1:3]), mode="bilinear")


def _in_latents(x: Tensor) -> Tensor:
    """The middle of pictures (B, C, H, W) whose sides are whole latents."""
    for dim in (2, 3):
        x = x.narrow(dim, x.shape[dim] % PIXELS // 2, x.shape[dim] // PIXELS * PIXELS)
    return x
