"""Memory that gradients need at Stable Diffusion 1.5's size, without a GPU: `python benchmarks/memory.py`.

A step of HiFi Tuner's training (gradients to the subject's rows of the text) and an inner step of reference guidance
(to the null text) run on tensors that have sizes but no content, and every storage is counted while it lives. Weights
are frozen, half precision. Kept in results/memory.json.
"""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import torch
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

RESULTS = Path(__file__).resolve().parent / "results" / "memory.json"
SD15 = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    cross_attention_dim=768,
    attention_head_dim=8,
    down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
)
TEXT = (77, 768)
STEPS = {"training, 4 pictures": 4, "training or guidance, 1 picture": 1}
GIB = 2**30


class Living(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, while these live; `known` ones are not counted."""

    def __init__(self, known: list[torch.Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self.seen: dict[int, Any] = {x.untyped_storage()._cdata: None for x in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self._add(x.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self.seen[key]

        self.seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def step(rows: int, recompute: bool, schedule: Schedule) -> dict[str, float]:
    """GiB of the weights, and at most of everything else in a forward and a backward pass to the text.

    Args:
        recompute: whether activations are recomputed in the backward pass (gradient checkpointing).
    """
    from diffusers import UNet2DConditionModel

    with FakeTensorMode(allow_non_fake_inputs=True):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.half)
        unet = UNet2DConditionModel(**SD15).requires_grad_(False)
        torch.set_default_dtype(before)
        denoiser, weights = DiffusersDenoiser(unet, schedule), list(unet.parameters())
        if recompute:
            denoiser.save_memory()
        with Living(weights) as living:
            z = torch.randn(rows, 4, 64, 64, dtype=torch.half)
            text = torch.randn(rows, *TEXT, dtype=torch.half, requires_grad=True)
            denoiser(z, 500, Text(text))[0].square().mean().backward()
    return {"weights": sum(p.nbytes for p in weights) / GIB, "besides": living.peak / GIB}


def main(out: Path = RESULTS) -> None:
    """Measure, print, and keep the numbers."""
    schedule, found = Schedule.scaled_linear(), {}
    for name, rows in STEPS.items():
        for recompute in (False, True):
            what = f"{name}, {'recomputed' if recompute else 'kept'} activations"
            found[what] = {k: round(v, 3) for k, v in step(rows, recompute, schedule).items()}
            print(f"{found[what]['weights']:.2f} + {found[what]['besides']:.2f} GiB  {what}", flush=True)
    out.write_text(json.dumps({"torch": torch.__version__, "GiB": found}, indent=2) + "\n")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
