"""The skip connections of a diffusers U-Net: which there are, and how a control takes part in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .attention import Rows
from .denoiser import Hooks
from .skips import Skip


def skips_of(unet: Any) -> tuple[Skip, ...]:
    skips = [Skip("skip.0", 0, 0, unet.conv_in.out_channels)]
    for level, block in enumerate(unet.down_blocks):
        layers = [(level, r.out_channels) for r in block.resnets]
        layers += [(level + 1, d.out_channels) for d in block.downsamplers or ()]
        skips += [Skip(f"skip.{len(skips) + i}", at, len(skips) + i, c) for i, (at, c) in enumerate(layers)]
    top = len(unet.down_blocks) - 1
    return (*skips, Skip("mid", top, len(skips), unet.mid_block.resnets[-1].out_channels))


@contextmanager
def residuals(unet: Any, skips: tuple[Skip, ...], hooks: Hooks, rows: Rows) -> Iterator[None]:
    """Forward hooks that read the encoder's features and add residuals where the decoder takes the skips up."""
    control = hooks.skips
    if control is None or not any(control.wants(s) for s in skips):
        yield
        return
    found: list[Tensor | None] = []

    def see(features: Tensor) -> None:
        skip = skips[len(found)]
        found.append(control(skip, features, rows) if control.wants(skip) else None)

    def after_down(module: Any, args: Any, output: Any) -> None:
        for features in output[1]:
            see(features)

    def after_mid(module: Any, args: Any, output: Tensor) -> Tensor:
        skip = skips[-1]
        residual = control(skip, output, rows) if control.wants(skip) else None
        return _plus(output, residual)

    def before_up(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        taken = kwargs["res_hidden_states_tuple"]
        own = [found.pop() for _ in taken][::-1]
        added = tuple(map(_plus, taken, own))
        return args, {**kwargs, "res_hidden_states_tuple": added}

    handles = [unet.conv_in.register_forward_hook(lambda module, args, output: see(output))]
    handles += [block.register_forward_hook(after_down) for block in unet.down_blocks]
    handles += [unet.mid_block.register_forward_hook(after_mid)]
    handles += [block.register_forward_pre_hook(before_up, with_kwargs=True) for block in unet.up_blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _plus(h: Tensor, residual: Tensor | None) -> Tensor:
    return h if residual is None else (h + residual).to(h.dtype)
