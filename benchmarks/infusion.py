"""What Infusion costs: `python benchmarks/infusion.py`, written to benchmarks/results/infusion-cost.json.

Network rows and FLOPs are exact counts; wall time is the median of seven alternating pairs; memory is the peak that
torch's allocator saw on a GPU, and on a CPU the peak of live tensor bytes during one network call.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from likeness.core import checkpoint
from likeness.core.demo import MODEL
from likeness.core.denoiser import guided
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule, sample
from likeness.core.infusion import concept as concepts
from likeness.core.infusion.control import Infusion, Use
from likeness.core.infusion.sampling import draw
from likeness.training import infusion as training
from likeness.training.data.photos import Group
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

RESULTS = Path(__file__).parent / "results"


@dataclass
class Case:
    """A model, a prompt with a word, its null text, the latents' size, and sampling steps enough to time."""

    name: str
    denoiser: DiffusersDenoiser
    text: Text
    null: Text
    size: int
    steps: int


def demo() -> Case:
    model = checkpoint.load(MODEL)
    return Case("demo model", model.denoiser, model.text("a photo of a cat", ["cat"]), model.text(""), 16, 4)


def stable_diffusion() -> Case:
    """A U-Net of SD1.5's size with random weights, 32x32 latents."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).eval().requires_grad_(False)
    where = torch.zeros(77, dtype=torch.bool)
    where[5] = True
    tokens = torch.randn(2, 1, 77, 768)
    denoiser = DiffusersDenoiser(unet, Schedule.scaled_linear())
    return Case("SD1.5 size", denoiser, Text(tokens[0], words={"cat": where}), Text(tokens[1]), 32, 1)


# --- measures --------------------------------------------------------------------------------------------------------


def alternate(first: Callable, second: Callable, pairs: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median ratio second / first, of alternating runs after one of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(pairs + 1):
        for function, taken in zip((first, second), times):
            started = time.perf_counter()
            function()
            if i:
                taken.append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(*times)]
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)


def flops(function: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


class _Live(TorchDispatchMode):
    """Peak bytes of the tensors that operations made and that are still alive."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        import weakref

        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor) and x._base is None:
                size = x.untyped_storage().nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(x.untyped_storage(), self._gone, size)
        return out

    def _gone(self, size: int) -> None:
        self.now -= size


def peak_memory(function: Callable) -> int:
    gc.collect()
    with _Live() as live:
        function()
    return live.peak


# --- what is measured ------------------------------------------------------------------------------------------------


def drawing(case: Case, pairs: int) -> dict:
    """Plain drawing against both modes: rows, seconds, memory against a plain batch of twice the size."""
    blank = concepts.blank(case.denoiser.sites, ["cat"])
    use = Use(concepts.Concept(("cat",), {k: r + 0.1 for k, r in blank.residuals.items()}, "text", blank.base))
    infusion, z = Infusion([use]), torch.randn(1, 4, case.size, case.size)
    schedule, steps = case.denoiser.schedule, case.denoiser.schedule.timesteps(case.steps)
    rows: list[int] = []

    @torch.no_grad()
    def plain(z=z):
        sample(schedule, guided(case.denoiser, case.text, case.null, 8.0), z, steps)

    @torch.no_grad()
    def ours(fast=False):
        draw(case.denoiser, case.text, case.null, infusion, z, steps, fast=fast)

    def count(function):
        rows.clear()
        handle = case.denoiser.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
        function()
        handle.remove()
        return sum(rows)

    result = {"rows exact": count(ours) / count(plain), "rows fast": count(lambda: ours(True)) / count(plain)}
    result["time exact"] = alternate(plain, ours, pairs)[2]
    result["time fast"] = alternate(plain, lambda: ours(True), pairs)[2]
    result["memory exact / plain at twice the batch"] = peak_memory(ours) / peak_memory(
        lambda: plain(z.repeat(2, 1, 1, 1))
    )
    return result


def learning(case: Case, pairs: int) -> dict:
    """A step against a textual-inversion step: FLOPs and seconds, keeping activations or recomputing them."""
    groups = [Group(torch.randn(2, 4, case.size, case.size))]
    run = training.Training(case.denoiser, case.text, groups, "cat", training.Learn(batch=1))
    z, t = groups[0].data[:1], torch.tensor([500])
    tokens = case.text.tokens.clone().requires_grad_()

    def ours():
        run.customised(z, t).square().mean().backward()

    def inversion():
        case.denoiser(z, t, case.text.with_tokens(tokens))[0].square().mean().backward()

    result = {}
    for name in ("kept", "recomputed"):
        if name == "recomputed":
            case.denoiser.save_memory()
        result[f"FLOPs {name}"] = flops(ours) / flops(inversion)
        result[f"time {name}"] = alternate(inversion, ours, pairs)[2]
    return result


# --- real sizes, counted without weights -----------------------------------------------------------------------------

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


class _Fused(torch.autograd.Function):
    """What a fused attention kernel keeps: its inputs, its output and one number a query."""

    @staticmethod
    def forward(ctx, q, k, v, *_):
        out, sums = q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, sums)
        return out


def sizes(config: dict, size: int, batch: int, save_memory: bool) -> dict:
    """Half-precision GiB that a training step keeps, and TFLOPs of a step without those inside attention.

    The U-Net has shapes but no weights, so this takes seconds on any machine.
    """
    from unittest.mock import patch

    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config).half().eval().requires_grad_(False)
        tokens = torch.empty(1, 77, config["cross_attention_dim"], dtype=torch.half)
        added = {"text_embeds": torch.empty(1, 1280, dtype=torch.half), "time_ids": torch.empty(1, 6)}
        z, t = torch.empty(batch, 4, size, size, dtype=torch.half), torch.empty(batch, dtype=torch.long)
    where = torch.zeros(77, dtype=torch.bool)
    where[5] = True
    text = Text(tokens, words={"cat": where}, extra={"added_cond_kwargs": added})
    denoiser = DiffusersDenoiser(unet, Schedule.scaled_linear())
    if save_memory:
        denoiser.save_memory()
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    # nothing here has values to name it by
    with patch.object(training.photos, "fingerprint", return_value=""):
        groups = [Group(torch.zeros(1, 4, size, size))]
        run = training.Training(denoiser, text, groups, "cat", training.Learn(batch=batch), device=z.device)
    with (
        patch("torch.nn.functional.scaled_dot_product_attention", lambda q, k, v, **_: _Fused.apply(q, k, v)),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        forward = flops(lambda: run.customised(z, t))
    weights = {p.untyped_storage()._cdata: p.untyped_storage() for p in unet.parameters()}
    own = [storage.nbytes() for key, storage in kept.items() if key not in weights]
    backward = forward / 2 * (2 if save_memory else 1)  # as much as the customised pass, which may be run again
    return {
        "weights": sum(w.nbytes() for w in weights.values()) / 2**30,
        "kept": sum(own) / 2**30,
        "TFLOPs a step": (forward + backward) / 1e12,
        "numbers learned": sum(p.numel() for p in run.parameters.values()),
    }


def print_sizes() -> None:
    for name, config, size in (("SD1.5 at 512", SD15, 64), ("SDXL at 1024", SDXL, 128)):
        for batch in (1, 4):
            for save_memory in (False, True):
                counted = ", ".join(f"{k} {v:.2f}" for k, v in sizes(config, size, batch, save_memory).items())
                print(f"{name}, batch {batch}{', saving memory' if save_memory else ''}: {counted}")


CASES = {"demo model": demo, "SD1.5 size": stable_diffusion}


def main(pairs: int = 7, sizes: bool = False, cases: tuple[str, ...] = tuple(CASES)) -> None:
    """Measure costs against plain drawing and textual inversion.

    Args:
        pairs: of alternating runs.
        sizes: only count what training on SD1.5 and SDXL keeps in memory.
        cases: which models; the others' results stay in the file.
    """
    if sizes:
        return print_sizes()
    path = RESULTS / "infusion-cost.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for case in (CASES[name]() for name in cases):
        results[case.name] = drawing(case, pairs) | learning(case, pairs)
    names = list(next(iter(results.values())))
    width = max(map(len, names))
    print(f"{'ratio to plain / textual inversion':<{width}}  " + "  ".join(f"{c:>12}" for c in results))
    for name in names:
        print(f"{name:<{width}}  " + "  ".join(f"{r[name]:>12.3f}" for r in results.values()))
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
