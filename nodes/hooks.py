"""A method's hooks inside a ComfyUI U-Net: which layer is which site, and how controls become patches.

Everything is put into one run's model options, after and around whatever LoRA, IPAdapter or other packs have put there,
and is gone when the run ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.ldm.modules.attention as attention
import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.model_patcher
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core.attention import Rows, Site
from ..core.denoiser import Hooks
from ..core.skips import Skip

SLOT = {"self": "attn1", "cross": "attn2"}
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


def sites(unet: Any) -> dict[Site, Block]:
    """Every attention site in the order of execution, with the block that ComfyUI's patches call it by."""
    found: dict[Site, Block] = {}
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
                    found[site] = (name, number, depth)
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


# --- putting hooks in ------------------------------------------------------------------------------------------------


def install(model_options: dict[str, Any], unet: Any, hooks: Hooks, key: str) -> dict[str, Any]:
    """A run's model options with a method's hooks in them.

    Args:
        model_options: of this run; not changed.
        key: unique name of this installation; conditionings carry their rows under it.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    options.setdefault("transformer_options", {})
    comfy.patcher_extension.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, key, _rows_wrapper(hooks, key), options, is_model_options=True
    )
    if hooks.attention is not None:
        for site, block in sites(unet).items():
            if hooks.attention.wants(site):
                _install_attention(options, site, block, hooks, key)
    if hooks.skips is not None:
        _install_skips(options, skips(unet), hooks, key)
    return options


def _rows_wrapper(hooks: Hooks, key: str) -> Any:
    """Describes the rows of each network call to the hooks below it, by the call's transformer options."""

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
        marks = kwargs.pop(key, None)
        options = dict(transformer_options or {})
        options[key] = call = _Call(_describe(x, timesteps, marks, options, hooks))
        if hooks.skips is not None and control and control.get("middle"):
            # a method reads the middle's features before ControlNet; the skip patch adds ControlNet's part back
            control = {**control, "middle": list(control["middle"])}
            call.middle_control = control["middle"].pop()
        return executor(x, timesteps, context, y, control, options, **kwargs)

    return wrapper


class _Call:
    """What one network call's hooks share."""

    def __init__(self, rows: Rows):
        self.rows = rows
        self.residuals: list[Tensor | None] = []
        self.middle_control: Tensor | None = None


def _describe(x: Tensor, timesteps: Tensor, marks: Tensor | None, options: dict[str, Any], hooks: Hooks) -> Rows:
    batch = len(x) // max(1, len(options.get("cond_or_uncond") or [0]))
    if marks is None:
        marks = torch.zeros(len(x), 1 + len(hooks.words), 1, dtype=torch.int, device=x.device)
    marks = marks.to(x.device)
    stream = torch.arange(batch, device=x.device) // max(1, batch // hooks.streams)
    return Rows(
        conditional=marks[:, 0, 0].bool(),
        stream=stream.repeat(len(x) // batch),
        timestep=timesteps.float().expand(len(x)),
        words=marks[:, 1:].bool(),
        names=hooks.words,
    )


def _install_attention(options: dict[str, Any], site: Site, block: Block, hooks: Hooks, key: str) -> None:
    slot, (name, number, depth) = SLOT[site.kind], block
    there = options["transformer_options"].get("patches_replace", {}).get(slot, {})
    # the exact key shadows the one without depth: call on whichever was in force
    before = there.get(block) or there.get((name, number))

    def replace(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if before is not None:
                return before(q, k, v, extra)
            return attention.optimized_attention(
                q, k, v, extra["n_heads"], attn_precision=extra["attn_precision"], transformer_options=extra
            )

        if key not in extra:
            return attend(q, k, v)
        return hooks.attention(site, q, k, v, extra[key].rows, attend).to(q.dtype)

    comfy.model_patcher.set_model_options_patch_replace(options, replace, slot, name, number, depth)


def _install_skips(options: dict[str, Any], found: tuple[Skip, ...], hooks: Hooks, key: str) -> None:
    control = hooks.skips

    def see(h: Tensor, extra: dict[str, Any]) -> Tensor:
        call = extra[key]
        skip = found[len(call.residuals)]
        call.residuals.append(control(skip, h, call.rows) if control.wants(skip) else None)
        return h

    def add(h: Tensor, skip: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor]:
        call = extra[key]
        if extra["block"] == ("output", 0):
            mid = found[-1]
            residual = control(mid, h, call.rows) if control.wants(mid) else None
            for part in (call.middle_control, residual):
                h = h if part is None else h + part
        residual = call.residuals.pop()
        return h, skip if residual is None else skip + residual

    patches = dict(options["transformer_options"].get("patches", {}))
    patches["input_block_patch"] = [*patches.get("input_block_patch", []), see]
    patches["output_block_patch"] = [add, *patches.get("output_block_patch", [])]
    options["transformer_options"]["patches"] = patches
