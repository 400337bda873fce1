"""Control-LoRA: a ControlNet as changes of low rank to the U-Net that it guides, the file format that Stability chose.

A file holds `layer.up` and `layer.down` for the copied encoder, whole what a U-Net does not have (the layers that see
the hint, the zero convolutions), and a tensor `lora_controlnet` that marks it; the rest, norms and biases too, is
that of the model it is applied to. Names are Stable Diffusion's own: ComfyUI's Load ControlNet Model reads these files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import LearnedFileError

KIND = "controlnet"
MARK = "lora_controlnet"
PARTS = ("up", "down", "weight", "bias")
# what a U-Net has no weights for; its first convolution too, since an inpainting model's takes other channels [ours]
OWN = "controlnet_"
WHOLE = ("conv_in", OWN)

_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_mid_block": "middle_block_out.0",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def ldm_names(network: Any) -> dict[str, str]:
    """Every layer with weights of diffusers' `ControlNetModel`, and its name in the file.

    Raises:
        ValueError: a layer that Stable Diffusion's ControlNets do not have.
    """
    own = (name for name, layer in network.named_modules() if next(layer.parameters(recurse=False), None) is not None)
    hints, per_level = len(network.controlnet_cond_embedding.blocks), network.config.layers_per_block + 1
    return {name: _ldm_name(name, hints, per_level) for name in own}


def _ldm_name(layer: str, hints: int, per_level: int) -> str:
    if layer in _SINGLE:
        return _SINGLE[layer]
    match layer.split("."):
        case ["controlnet_down_blocks", index]:
            return f"zero_convs.{index}.0"
        case ["controlnet_cond_embedding", "blocks", index]:
            return f"input_hint_block.{2 * int(index) + 2}"
        case ["controlnet_cond_embedding", "conv_out"]:
            return f"input_hint_block.{2 * hints + 2}"
        case ["down_blocks", level, "downsamplers", "0", "conv"]:
            return f"input_blocks.{(int(level) + 1) * per_level}.0.op"
        case ["down_blocks", level, "resnets", index, inner]:
            return f"input_blocks.{int(level) * per_level + int(index) + 1}.0.{_RESNET[inner]}"
        case ["down_blocks", level, "attentions", index, *inner]:
            return f"input_blocks.{int(level) * per_level + int(index) + 1}.1.{'.'.join(inner)}"
        case ["mid_block", "resnets", index, inner]:
            return f"middle_block.{2 * int(index)}.{_RESNET[inner]}"
        case ["mid_block", "attentions", "0", *inner]:
            return f"middle_block.1.{'.'.join(inner)}"
    raise ValueError(f"a Control-LoRA has no name for {layer}; it is for ControlNets of SD1.x, SD2.x and SDXL")


def pack(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """What a file holds, in half precision.

    Args:
        tensors: "layer/up" (out, r, ...), "layer/down" (r, in, ...), whole "layer/weight" and "layer/bias", under
            diffusers' names.
        names: `ldm_names`.
    """
    packed = {MARK: torch.empty(0)}
    for key, tensor in tensors.items():
        layer, part = key.split("/")
        packed[f"{names[layer]}.{part}"] = tensor.detach().half()
    return packed


def load(path: str | Path, unet: Any) -> Any:
    """A ControlNet for a U-Net, on its device and in its precision.

    Args:
        path: of a Control-LoRA, ours or another's.
        unet: diffusers' `UNet2DConditionModel` that it will guide, without adapters in its layers.

    Returns:
        diffusers' `ControlNetModel`.

    Raises:
        FileNotFoundError: no such file.
        LearnedFileError: one that is damaged, no Control-LoRA, or made for another architecture.
        ValueError: a U-Net with adapters, or of a family without ControlNets.
    """
    from diffusers import ControlNetModel

    path, tensors = Path(path), _read(Path(path))
    if getattr(unet, "peft_config", None):
        raise ValueError(f"unet: it has a LoRA in its layers; load {path.name} before the LoRA")
    network = ControlNetModel.from_unet(unet, conditioning_channels=tensors["input_hint_block.0.weight"].shape[1])
    network.to(unet.device)
    if network.dtype != unet.dtype:
        network.to(unet.dtype)
    for name, given in _by_layer(path, tensors, ldm_names(network)).items():
        _change(network, name, given, path)
    return network


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"no file {path.name} in {path.parent}")
    try:
        tensors = load_file(path)
    except SafetensorError as e:
        raise LearnedFileError(f"{path.name} is damaged or incomplete ({e}); copy or download it again") from e
    if MARK not in tensors or "input_hint_block.0.weight" not in tensors:
        raise LearnedFileError(
            f"{path.name} is no Control-LoRA; give one, or a ControlNet as a folder in diffusers' layout or a hub name"
        )
    return tensors


def _by_layer(path: Path, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    """A file's tensors by diffusers' name of the layer, then by part; LearnedFileError where they do not fit."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        known, _, part = key.rpartition(".")
        if part in PARTS:  # ComfyUI overlooks the rest too
            parts[known][part] = tensor
    if strange := parts.keys() - names.values():
        raise _misfit(path, f"the model has no {min(strange)}")
    for name, known in names.items():
        if name.startswith(OWN) and not {"weight", "bias"} <= parts.get(known, {}).keys():
            raise _misfit(path, f"it has no {known}")
    return {name: parts[known] for name, known in names.items() if known in parts}


@torch.no_grad()
def _change(network: Any, name: str, given: Mapping[str, Tensor], path: Path) -> None:
    """Put whole tensors in place and add a low rank."""
    layer = network.get_submodule(name)
    if name == "conv_in" and "weight" in given:
        layer = _taking(network, given["weight"])
    for part in ("weight", "bias"):
        if part in given:
            own = getattr(layer, part)
            if own is None or own.shape != given[part].shape:
                raise _misfit(path, f"{name} has another {part}")
            own.copy_(given[part])
    if "up" in given or "down" in given:
        up, down = (given[part].float().flatten(1) if part in given else torch.empty(0, 0) for part in ("up", "down"))
        own = layer.weight
        if len(up) != len(own) or up.shape[1] != len(down) or down.shape[1] != own[0].numel():
            raise _misfit(path, f"the low rank of {name} has another shape")
        own.copy_(own.float() + (up @ down).view(own.shape).to(own.device))


def _taking(network: Any, weight: Tensor) -> nn.Conv2d:
    """The first convolution, with as many input channels as the file's: a latent's, also beside an inpainting model."""
    old = network.conv_in
    if weight.ndim == 4 and weight.shape[1] != old.in_channels:
        new = nn.Conv2d(weight.shape[1], old.out_channels, old.kernel_size, old.stride, old.padding)
        new.bias = old.bias
        network.conv_in = new.to(old.weight)
        network.register_to_config(in_channels=weight.shape[1])
    return network.conv_in


def _misfit(path: Path, why: str) -> LearnedFileError:
    return LearnedFileError(f"{path.name} does not fit this model: {why}; use it with the model that it was made for")
