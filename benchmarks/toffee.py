"""What Toffee costs: `python benchmarks/toffee.py --parts cost`, written to benchmarks/results/toffee-cost.json.

FLOPs are exact counts of one guided step. Wall time is the median over interleaved pairs of one step with the tokens
and one without, in one run and with the same batch; on a machine that does other things too it is a rough number.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from likeness.core import checkpoint, weights
from likeness.core.demo import MODEL
from likeness.core.denoiser import guided
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from likeness.core.toffee import adapter as adapters
from likeness.core.toffee.adapter import Injection
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

RESULTS = Path(__file__).parent / "results"
GUIDANCE = 3.0
RANK = 16


@dataclass
class Case:
    """A model, a prompt, its null text, the latents' side, and DINO tokens of a picture."""

    name: str
    denoiser: DiffusersDenoiser
    text: Text
    null: Text
    size: int
    tokens: torch.Tensor


def demo() -> Case:
    """The embedded model with the embedded DINO's 65 tokens."""
    model = checkpoint.load(MODEL)
    tokens = torch.randn(1, 65, 160, generator=torch.Generator().manual_seed(0))
    return Case("demo model", model.denoiser, model.text("a photo of a cat"), model.text(""), 16, tokens)


def stable_diffusion() -> Case:
    """A U-Net of SD1.5's size with random weights, 32x32 latents, DINOv2 giant's 257 tokens."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).eval().requires_grad_(False)
    texts = torch.randn(2, 1, 77, 768)
    denoiser = DiffusersDenoiser(unet, Schedule.scaled_linear())
    return Case("SD1.5 size", denoiser, Text(texts[0]), Text(texts[1]), 32, torch.randn(1, 257, 1536))


def interleaved(first: Callable, second: Callable, pairs: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median ratio second / first, of alternating runs after one of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(pairs + 1):
        # each goes first in every other pair, so that a drift of the machine's speed weighs on both
        for which in (0, 1) if i % 2 else (1, 0):
            started = time.perf_counter()
            (first, second)[which]()
            if i:
                times[which].append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(*times)]
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)


def flops(function: Callable) -> int:
    # fused attention on a CPU is not counted
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def cost(case: Case, pairs: int, batch: int) -> dict[str, float]:
    """One guided step with a subject against one without: the tokens alone, and with what training changed beside.

    ComfyUI merges what training changed into the weights where it works from the first step to the last: then the
    tokens alone are what it costs.
    """
    z = torch.randn(batch, 4, case.size, case.size)
    layers = weights.layers_of(case.denoiser.unet)
    changes = {"tokens": None, f"tokens, rank {RANK} beside": weights.blank(layers, RANK)}
    changes["tokens, whole beside"] = weights.blank(layers)

    def step(hooks=None):
        with torch.no_grad():
            guided(case.denoiser, case.text, case.null, GUIDANCE, hooks)(z, 500)

    plain, result = flops(step), {"batch": batch, "text tokens": case.text.tokens.shape[1]}
    result["DINO tokens"] = case.tokens.shape[1]
    for name, delta in changes.items():
        adapter = adapters.blank("refiner", case.denoiser.sites, case.tokens.shape[-1], delta).requires_grad_(False)
        hooks = Injection(adapter.eval(), case.tokens, len(case.denoiser.schedule)).hooks
        step(hooks)  # keys and values are made once a run
        result[f"FLOPs, {name}"] = flops(lambda hooks=hooks: step(hooks)) / plain
        before, after, ratio = interleaved(step, lambda hooks=hooks: step(hooks), pairs)
        result |= {f"seconds, {name}": after, f"seconds without, {name}": before, f"time, {name}": ratio}
    return result


CASES = {"demo model": demo, "SD1.5 size": stable_diffusion}


def measure_costs(pairs: int, batch: int, cases: tuple[str, ...]) -> None:
    """Costs of each case, printed and merged into the file."""
    path = RESULTS / "toffee-cost.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in cases:
        results[name] = {k: round(v, 4) for k, v in cost(CASES[name](), pairs, batch).items()}
        print(name, json.dumps(results[name], indent=2), flush=True)
        path.write_text(json.dumps(results, indent=2) + "\n")


PARTS = {"cost": measure_costs}


def main(
    parts: tuple[str, ...] = ("cost",), pairs: int = 11, batch: int = 1, cases: tuple[str, ...] = tuple(CASES)
) -> None:
    """Measure Toffee.

    Args:
        parts: what to measure: cost.
        pairs: of interleaved steps.
        batch: pictures a step; guidance doubles the rows.
        cases: which models; the others' results stay in the file.
    """
    for part in parts:
        PARTS[part](pairs, batch, cases)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
