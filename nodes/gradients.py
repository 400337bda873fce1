"""Autograd inside a node, where weights and conditioning may have been made under inference mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention as attention
import comfy.model_patcher
import torch

OVERRIDE = "optimized_attention_override"
# which autograd can't go back through
ONE_WAY = ("attention_sage", "attention3_sage", "attention_flash", "attention_comfy_kitchen_int8")


@contextmanager
def enabled() -> Iterator[None]:
    """Nodes run under `torch.inference_mode`; in here autograd works."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def plain(value: Any) -> Any:
    """A copy whose tensors autograd may save; anything else is shared."""
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    return value


@contextmanager
def plain_weights(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Lend plain copies of inference tensors to modules whose weights others share, and put the own ones back.

    Takes as much memory again as those weights, for as long as it lasts.
    """
    lent = []
    try:
        for part in (part for module in modules for part in module.modules()):
            for store in (part._parameters, part._buffers):
                for name, tensor in store.items():
                    if tensor is not None and not _tracked(tensor):
                        lent.append((store, name, tensor))
                        copy = tensor.detach().clone()
                        store[name] = torch.nn.Parameter(copy, False) if store is part._parameters else copy
        yield
    finally:
        for store, name, tensor in lent:
            store[name] = tensor


def _tracked(tensor: torch.Tensor) -> bool:
    """Whether autograd may save a tensor: none of inference mode, also if it was moved since and no longer says so."""
    try:
        return not tensor.is_inference() and tensor._version >= 0
    except RuntimeError:
        return False


def differentiable(model_options: dict[str, Any]) -> dict[str, Any]:
    """Options under which autograd can go through a network call.

    ControlNet's in-place additions to the skips leave what autograd has saved alone, attention is one with a way back,
    and one device does all of it.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    options.pop("multigpu_clones", None)  # they work without gradients
    inner = options.setdefault("transformer_options", {})
    if OVERRIDE in inner or attention.optimized_attention.__name__ in ONE_WAY:
        inner[OVERRIDE] = lambda function, *args, **kwargs: attention.attention_pytorch(*args, **kwargs)
    patches = dict(inner.get("patches", {}))
    # the encoder goes on with a copy; the skip that ControlNet adds to is then nobody's saved input
    after = [*patches.get("input_block_patch_after_skip", []), lambda h, extra: h.clone()]
    inner["patches"] = {**patches, "input_block_patch_after_skip": after}
    return options
