"""A method's hooks inside a ComfyUI U-Net: which layer is which site, and how controls become patches.

Everything is put around whatever LoRA, IPAdapter or other packs have put there, and is gone when the run ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.ldm.modules.attention as attention
import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.model_patcher
import comfy.patcher_extension
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core.attention import AttentionControl, Rows, Site
from ..core.denoiser import Hooks
from ..core.skips import Skip, SkipControl
from ..core.weights import Changed, put_in
from .streams import ALONE

SLOT = {"self": "attn1", "cross": "attn2"}
MIDDLE, WEIGHTS = "likeness_middle", "likeness_weights"
Block = tuple[str, int, int]


def unet_of(model: Any) -> Any:
    """The U-Net inside a MODEL.

    Raises:
        ValueError: an architecture without U-Net.
    """
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, openaimodel.UNetModel):
        raise ValueError(
            f"model: {type(unet).__name__} is not a Stable Diffusion U-Net; connect an SD1.x, SD2.x or SDXL model"
        )
    return unet


# --- what is where ---------------------------------------------------------------------------------------------------


def _blocks(unet: Any) -> Iterator[tuple[str, str, int, int, Any]]:
    """(part, ComfyUI's name for it, block number, resolution level, layers) in the order of execution."""
    level = 0
    for number, layers in enumerate(unet.input_blocks):
        yield "down", "input", number, level, layers
        level += any(isinstance(layer, openaimodel.Downsample) for layer in layers)
    yield "mid", "middle", 0, level, unet.middle_block
    for number, layers in enumerate(unet.output_blocks):
        yield "up", "output", number, level, layers
        level -= any(isinstance(layer, openaimodel.Upsample) for layer in layers)


def sites(unet: Any) -> dict[Site, tuple[Block, Any]]:
    """Every attention site in the order of execution, with what ComfyUI's patches call its block, and its layer."""
    found: dict[Site, tuple[Block, Any]] = {}
    seen: dict[tuple[str, int], int] = {}
    for part, name, number, level, layers in _blocks(unet):
        for layer in layers:
            if not isinstance(layer, attention.SpatialTransformer):
                continue
            index = seen.get((part, level), 0)
            seen[part, level] = index + 1
            for depth, block in enumerate(layer.transformer_blocks):
                for kind, attn in (("self", block.attn1), ("cross", block.attn2)):
                    width = attn.heads * attn.dim_head
                    site = Site(
                        f"{part}.{level}.{index}.{depth}.{kind}",
                        part,
                        level,
                        kind,
                        len(found),
                        attn.heads,
                        width,
                        attn.to_v.in_features,
                    )
                    found[site] = (name, number, depth), attn
    return found


def skips(unet: Any) -> tuple[Skip, ...]:
    """The U-Net's skip connections in the encoder's order, the middle last."""
    found = []
    for part, _, number, level, layers in _blocks(unet):
        channels = [getattr(layer, "out_channels", None) or getattr(layer, "in_channels", 0) for layer in layers][-1]
        if part == "down":
            halved = any(isinstance(layer, openaimodel.Downsample) for layer in layers)
            found.append(Skip(f"skip.{number}", level + halved, number, channels))
        elif part == "mid":
            found.append(Skip("mid", level, len(found), channels))
    return tuple(found)


def layers_of(model: Any, parts: tuple[str, ...] = ("",)) -> dict[str, Any]:
    """The layers with weights of a MODEL's U-Net, or of some of its parts, by diffusers' names."""
    modules = dict(unet_of(model).named_modules())
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    pairs = ((name.removesuffix(".weight"), own.removesuffix(".weight")) for name, own in names.items())
    # the names of layers that this layout lacks, and of biases, lead nowhere
    return {name: modules[own] for name, own in pairs if name.startswith(parts) and own in modules}


# --- putting hooks in ------------------------------------------------------------------------------------------------


def install(model_options: dict[str, Any], model: Any, hooks: Hooks, key: str) -> dict[str, Any]:
    """A run's model options with a method's hooks in them.

    The hooks become patches at each network call, around whatever is in force for that call: some nodes patch as late
    as that.

    Args:
        model_options: of this run; not changed.
        model: the MODEL that runs.
        key: unique name of this installation; conditionings carry their rows under it.
    """
    unet = unet_of(model)
    layers = {s: there for s, there in sites(unet).items() if hooks.attention and hooks.attention.wants(s)}
    found = skips(unet) if hooks.skips is not None else ()
    weighted = layers_of(model) if hooks.weights is not None else {}

    def wrapper(
        executor: Any,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        options = dict(transformer_options or {})
        marks = kwargs.pop(key, None)
        if options.get(ALONE) and hooks.streams > 1:  # the first stream by itself: the untouched model
            return executor(x, timesteps, context, y, control, options, **kwargs)
        rows = _describe(x, timesteps, marks, options, hooks)
        if hooks.before is not None:
            hooks.before(partial(_alone, unet, x.dtype), rows)
        if hooks.text is not None and context is not None:
            context = hooks.text(context, rows)
        for site, (block, layer) in layers.items():
            _patch_attention(options, site, block, layer, hooks.attention, rows)
        if found:
            control = _patch_skips(options, found, hooks.skips, rows, control)
        # one network in a picture twice, for two subjects, has changed the model once
        there = options.get(WEIGHTS, ())
        again = isinstance(hooks.weights, Changed) and any(hooks.weights.repeats(each, rows) for each in there)
        options[WEIGHTS] = (*there, hooks.weights)
        handles = put_in(weighted.__getitem__, None if again else hooks.weights, rows)
        try:
            return executor(x, timesteps, context, y, control, options, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    options = comfy.model_patcher.create_model_options_clone(model_options)
    comfy.patcher_extension.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, key, wrapper, options, is_model_options=True
    )
    return options


def _alone(
    unet: Any, dtype: torch.dtype, z: Tensor, t: Tensor, tokens: Tensor, control: AttentionControl, **extra: Tensor
) -> None:
    """`core.denoiser.Network`: the U-Net with its LoRAs, and nothing that others have patched in for this call."""
    options: dict[str, Any] = {}
    rows = _describe(z, t, None, options, Hooks())
    for site, (block, layer) in sites(unet).items():
        if control.wants(site):
            _patch_attention(options, site, block, layer, control, rows)
    given = {name: value.to(dtype) for name, value in extra.items()}
    unet(z.to(dtype), t, context=tokens.to(dtype), transformer_options=options, **given)


def _describe(x: Tensor, timesteps: Tensor, marks: Tensor | None, options: dict[str, Any], hooks: Hooks) -> Rows:
    """The rows of a network call. A call without marks (another pack's own) counts as conditional and has no words."""
    batch = len(x) // max(1, len(options.get("cond_or_uncond") or [0]))
    if batch % hooks.streams:
        raise ValueError(f"a batch of {batch} latents can't hold {hooks.streams} equal streams")
    if marks is None:
        marks = torch.ones(len(x), 1, 1, dtype=torch.int).repeat(1, 1 + len(hooks.words), 1)
        marks[:, 1:] = 0
    marks = marks.to(x.device)
    each, number = batch // hooks.streams, torch.arange(batch, device=x.device).repeat(len(x) // batch)
    return Rows(
        conditional=marks[:, 0, 0].bool(),
        stream=number // each,
        timestep=timesteps.float().expand(len(x)),
        words=marks[:, 1:].bool(),
        picture=number % each,
        names=hooks.words,
        size=(x.shape[-2], x.shape[-1]),
    )


@dataclass(frozen=True)
class _Layer:
    """`core.attention.Layer` over one of ComfyUI's, in one call of it."""

    module: Any
    before: Any
    extra: dict[str, Any]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.before is not None:
            return self.before(q, k, v, self.extra)
        heads, precision = self.extra["n_heads"], self.extra["attn_precision"]
        return attention.optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=self.extra)

    def values(self, context: Tensor) -> Tensor:
        return self.module.to_v(context)


def _patch_attention(
    options: dict[str, Any], site: Site, block: Block, module: Any, control: AttentionControl, rows: Rows
) -> None:
    slot = SLOT[site.kind]
    there = options.get("patches_replace", {}).get(slot, {})
    # the exact key shadows the one without depth: call on whichever is in force
    before = there.get(block) or there.get(block[:2])

    def replace(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        return control(site, q, k, v, rows, _Layer(module, before, extra)).to(q.dtype)

    replaced = dict(options.get("patches_replace", {}))
    replaced[slot] = {**there, block: replace}
    options["patches_replace"] = replaced


class _Middle:
    """The middle block's features before any method's or ControlNet's residual, shared by all methods of a call."""

    def __init__(self, residual: Tensor | None):
        self.control, self.features = residual, None


def _patch_skips(
    options: dict[str, Any], found: tuple[Skip, ...], method: SkipControl, rows: Rows, control: Any
) -> Any:
    """Patch a call's options; returns its ControlNet residuals without the middle's, which the patch adds itself."""
    if MIDDLE not in options:
        residual = None
        if control and control.get("middle"):
            control = {**control, "middle": list(control["middle"])}
            residual = control["middle"].pop()
        options[MIDDLE] = _Middle(residual)
    middle, residuals = options[MIDDLE], []

    def answer(skip: Skip, features: Tensor) -> Tensor | None:
        return method(skip, features, rows) if method.wants(skip) else None

    def see(h: Tensor, extra: dict[str, Any]) -> Tensor:
        residuals.append(answer(found[len(residuals)], h))
        return h

    def add(h: Tensor, skip: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if extra["block"] == ("output", 0):
            if middle.features is None:
                middle.features = h
                # ComfyUI's own way, warning included where shapes differ; it adds in place
                h = openaimodel.apply_control(h.clone(), {"middle": [middle.control]}, "middle")
            h = _plus(h, answer(found[-1], middle.features))
        return h, _plus(skip, residuals.pop())

    patches = dict(options.get("patches", {}))
    patches["input_block_patch"] = [*patches.get("input_block_patch", []), see]
    patches["output_block_patch"] = [add, *patches.get("output_block_patch", [])]
    options["patches"] = patches
    return control


def _plus(h: Tensor, residual: Tensor | None) -> Tensor:
    return h if residual is None else (h + residual).to(h.dtype)
