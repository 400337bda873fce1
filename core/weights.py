"""The third hook: layers of a U-Net that work, for some rows and at some steps, as if they had other weights.

Every layer of these U-Nets (linear, convolution, normalisation) is linear in its weights: with weights W + D its output
is that of W plus that of D. So what training changed is added row by row, and the model's own tensors are untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Rows
from .reach import Reach, Reached

DECODER = ("up_blocks.", "conv_norm_out", "conv_out")


@runtime_checkable
class WeightControl(Protocol):
    """A method's part in single layers."""

    layers: Collection[str]
    """The layers it takes part in, by diffusers' names, as in "up_blocks.0.resnets.0.conv1"."""

    def __call__(self, name: str, layer: nn.Module, x: Tensor, output: Tensor, rows: Rows) -> Tensor:
        """The layer's output as the network shall see it.

        Args:
            layer: the runtime's own.
            x: its input, (R, ...); other methods ask layers for values of their own, with other first dimensions.
            output: what the layer made of it; return it where nothing is to change.
        """


class Delta(nn.Module):
    """Differences of weights.

    Args:
        tensors: "layer/weight", "layer/bias" for whole differences; "layer/down" and "layer/up" for the factors of a
            low rank **[ours]**.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        # a parameter's name can hold no dots
        self.tensors = nn.ParameterDict({name.replace(".", ":"): nn.Parameter(t) for name, t in tensors.items()})
        self.layers = tuple(dict.fromkeys(name.split("/")[0] for name in tensors))

    def forward(self, name: str, layer: nn.Module, x: Tensor) -> Tensor:
        """What the differences alone make of a layer's input."""
        weight, bias, down, up = (self._tensor(name, key, x) for key in ("weight", "bias", "down", "up"))
        if isinstance(layer, nn.Conv2d):
            shape = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups)
            return F.conv2d(x, weight, bias, **shape) if down is None else F.conv2d(F.conv2d(x, down, **shape), up)
        if isinstance(layer, nn.GroupNorm):
            return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
        if isinstance(layer, nn.LayerNorm):
            return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
        # quantised ones are linear without being `nn.Linear`
        return F.linear(x, weight, bias) if down is None else F.linear(F.linear(x, down), up)

    def whole(self) -> dict[str, Tensor]:
        """The tensors by the names they came with."""
        return {name.replace(":", "."): tensor for name, tensor in self.tensors.items()}

    def _tensor(self, name: str, key: str, like: Tensor) -> Tensor | None:
        key = f"{name}/{key}".replace(".", ":")
        return self.tensors[key].to(like.dtype) if key in self.tensors else None


def layers_of(unet: nn.Module, parts: tuple[str, ...] = ("",)) -> dict[str, nn.Module]:
    """The layers with weights of a diffusers U-Net, or of some of its parts, by name, in order."""
    kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    return {n: m for n, m in unet.named_modules() if n.startswith(parts) and isinstance(m, kinds)}


def blank(layers: Mapping[str, nn.Module], rank: int | None = None) -> Delta:
    """Differences that change nothing yet.

    Args:
        rank: of linear layers and convolutions, whose biases and all norms then stay as they are **[ours]**; None is
            everything, whole.
    """
    return Delta({f"{name}/{key}": t for name, layer in layers.items() for key, t in _zeros(layer, rank).items()})


def _zeros(layer: nn.Module, rank: int | None) -> dict[str, Tensor]:
    if rank is None:
        return {key: torch.zeros(p.shape) for key, p in layer.named_parameters(recurse=False)}
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return {}
    outputs, *inputs = layer.weight.shape
    rank = min(rank, outputs, inputs[0])
    # as in LoRA one factor is random, so that training can begin
    down = nn.init.kaiming_uniform_(torch.empty(rank, *inputs), a=5**0.5)
    return {"down": down, "up": torch.zeros(outputs, rank, *[1] * (layer.weight.ndim - 2))}


@dataclass
class Changed:
    """Layers with other weights, on the rows that a method reaches; the others are the runtime's own, bit for bit.

    Args:
        delta: the differences.
        reach: their strength, and when.
        steps: timesteps of the model's noise schedule.
        every: whether rows that follow the negative prompt are changed too.
    """

    delta: Delta
    reach: Reach
    steps: int
    every: bool = False

    def __post_init__(self):
        self.layers = self.delta.layers if self.reach.strength else ()
        self._known: tuple[Rows, Reached] | None = None

    def __call__(self, name: str, layer: nn.Module, x: Tensor, output: Tensor, rows: Rows) -> Tensor:
        if self._known is None or self._known[0] is not rows:
            self._known = rows, Reached(self.reach, self.steps, rows, self.every)
        reached = self._known[1]
        if not reached.some or len(x) != len(reached.on):
            return output
        return reached.add(output, self.delta(name, layer, x[reached.where]))

    def repeats(self, other: object, rows: Rows) -> bool:
        """Whether another control puts the same differences into this network call."""
        if not isinstance(other, Changed) or other.delta is not self.delta:
            return False
        return Reached(other.reach, other.steps, rows, other.every).some


def put_in(find: Callable[[str], nn.Module], control: WeightControl | None, rows: Rows) -> list[Any]:
    """Forward hooks by which a control takes part in a runtime's layers; remove each after the network call.

    All layers are found before any hook is put in, so that none is left where one is missing.

    Args:
        find: diffusers' name -> the runtime's layer.
    """

    def hook(name: str) -> Any:
        return lambda layer, args, output: control(name, getattr(layer, "base_layer", layer), args[0], output, rows)

    layers = {name: find(name) for name in (control.layers if control is not None else ())}
    return [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
