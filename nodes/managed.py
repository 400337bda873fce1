"""Networks of our own under ComfyUI's memory management."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch


class Managed(comfy.model_patcher.ModelPatcher):
    """A network that ComfyUI loads and offloads, always whole: layers that aren't ComfyUI's own can't be streamed."""

    def load(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
    ) -> None:
        super().load(device_to, lowvram_model_memory, force_patch_weights, full_load=True)


def managed(network: torch.nn.Module) -> Managed:
    """A network on ComfyUI's device when it is needed, in half precision where the device prefers that."""
    device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    half = comfy.model_management.should_use_fp16(device)
    network.eval().requires_grad_(False).to(offload, torch.float16 if half else torch.float32)
    return Managed(network, load_device=device, offload_device=offload)
