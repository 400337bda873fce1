"""Trained parameters spread over processes: PyTorch's FSDP2, where Accelerate is asked for it (`--use_fsdp`).

Each process keeps its part of weights, gradients, averages and optimiser state. Frozen models stay whole everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def asked(accelerator: Any) -> bool:
    """Whether parameters are to be spread over this accelerator's processes.

    Raises:
        ValueError: together with float16, whose scaler knows whole gradients only.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return False
    # Accelerate itself knows FSDP on GPUs only
    wanted = accelerator.distributed_type == "FSDP" or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if wanted and accelerator.mixed_precision == "fp16":
        raise ValueError("mixed_precision: fp16 does not go with FSDP here; choose bf16 or no")
    return wanted


class _Whole(nn.Module):
    """A loss as a module: while it runs, the parameters are whole by whichever way they are read."""

    def __init__(self, module: nn.Module, loss: Callable[..., Tensor]):
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, *arguments: Any) -> Tensor:
        return self.loss(*arguments)


def shard(module: nn.Module, blocks: Sequence[nn.Module], loss: Callable[..., Tensor], accelerator: Any) -> nn.Module:
    """Spread a module's parameters in place; returns the loss, which must be called as it is returned.

    Args:
        blocks: parts of the module that are only ever called, so that they need not be whole outside of a call.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(_Whole(module, loss), mesh=mesh, reshard_after_forward=False)


def whole(tensor: Tensor) -> Tensor:
    """A parameter's tensor from all its parts; every process has to ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def put(tensor: Tensor, into: Tensor) -> Tensor:
    """Copy a whole tensor into a parameter, or into this process's part of it; returns the latter."""
    if hasattr(into, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        tensor = distribute_tensor(tensor.to(into.device), into.device_mesh, into.placements)
    return into.copy_(tensor)
