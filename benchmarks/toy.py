"""The toy experiments of Infusion, section 3: `python benchmarks/toy.py`, written to benchmarks/results/toy.json.

A small diffusion model of points in the plane stands for the foundation; a subject is a thin line of points.

* agnostic (Fig. 4): four Gaussian peaks, one a concept, told apart by a condition. The model is tuned on a line under
  the top left concept alone, as DreamBooth does it. Measured: how wide the other concepts' peaks still are.
* specific (Fig. 5): 25 peaks, modes of a single concept. The model is tuned on lines at five of them. Measured: how
  many of the 25 modes are still drawn, and which share of the points lies at the five.

The paper gives no sizes: network, widths, rates and steps are ours. Each is repeated with other seeds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from likeness.core import files
from likeness.core.diffusion import Schedule, sample
from likeness.core.metrics.similarity import paired_bootstrap
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent
RESULTS, PICTURE = ROOT / "results" / "toy.json", ROOT.parent / "docs" / "toy.png"
SCHEDULE = Schedule.scaled_linear()
SPREAD = 0.12  # standard deviation of a peak, in units of the distance of two peaks
LINE = 0.3  # half the length of a subject's line
DRAWN, SAMPLING = 2000, 50
AT = (0, 100, 300, 1000, 3000)  # steps of tuning at which is measured
FIVE = (0, 4, 12, 20, 24)  # of 25 peaks: corners and middle


@dataclass(frozen=True)
class Sizes:
    """Of an experiment: steps of the foundation's training and of the tuning, points a step, and learning rates."""

    foundation: int = 4000
    at: tuple[int, ...] = AT
    batch: int = 256
    width: int = 128
    lr: float = 2e-3
    tuning_lr: float = 3e-4
    seeds: int = 5


class Net(nn.Module):
    """Noise of points (N, 2) at times (N,) under concepts (N,), (N, 2)."""

    def __init__(self, concepts: int, width: int):
        super().__init__()
        self.concept = nn.Embedding(concepts, 16)
        self.layers = nn.Sequential(
            nn.Linear(2 + 12 + 16 + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width),
            nn.SiLU(), nn.Linear(width, 2),
        )  # fmt: skip
        self.register_buffer("frequencies", 2.0 ** torch.arange(8) * torch.pi / 2)
        self.register_buffer("places", torch.tensor([0.5, 1.0, 2.0]) * torch.pi)  # plain networks smear 25 peaks

    def forward(self, x: Tensor, t: Tensor, concept: Tensor) -> Tensor:
        angles = (t.float() / len(SCHEDULE))[:, None] * self.frequencies
        waves = (x[:, :, None] * self.places).flatten(1)
        seen = [x, waves.sin(), waves.cos(), angles.sin(), angles.cos(), self.concept(concept)]
        return self.layers(torch.cat(seen, -1))


Points = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def train(net: Net, data: Points, steps: int, lr: float, batch: int, seed: int, decay: bool = False) -> None:
    """Adam on the plain noise error, in place."""
    generator, optimiser = torch.Generator().manual_seed(seed), torch.optim.Adam(net.parameters(), lr)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - step / steps) if decay else lr
        x, concept = data(batch, generator)
        t, eps = SCHEDULE.stratified(batch, generator), torch.randn(x.shape, generator=generator)
        loss = F.mse_loss(net(SCHEDULE.noise(x, eps, t), t, concept), eps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@torch.no_grad()
def drawn(net: Net, concept: int, count: int = DRAWN) -> Tensor:
    """Points of a concept by DDIM, (count, 2), always from the same noise."""
    z = torch.randn(count, 2, generator=torch.Generator().manual_seed(7))
    which = torch.full((count,), concept)
    return sample(SCHEDULE, lambda z, t: net(z, torch.full((count,), t), which), z, SCHEDULE.timesteps(SAMPLING))


# --- the two worlds --------------------------------------------------------------------------------------------------


def square(side: int) -> Tensor:
    """Places of side x side peaks around the middle, a distance of 1 apart, the top left first, (side^2, 2)."""
    line = torch.arange(side) - (side - 1) / 2
    return torch.stack([line.repeat(side), -line.repeat_interleave(side)], -1)


def peaks(centres: Tensor, one_concept: bool) -> Points:
    """Points of Gaussian peaks; each is a concept, or all are one."""

    def data(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        which = torch.randint(len(centres), (count,), generator=generator)
        x = centres[which] + SPREAD * torch.randn(count, 2, generator=generator)
        return x, torch.zeros_like(which) if one_concept else which

    return data


def subject(centres: Tensor) -> Points:
    """Lines through some peaks, all under the first concept."""

    def data(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        which = torch.randint(len(centres), (count,), generator=generator)
        along = LINE * (2 * torch.rand(count, 1, generator=generator) - 1)
        return centres[which] + along * torch.tensor([1.0, 1.0]) / 2**0.5, torch.zeros_like(which)

    return data


def width(points: Tensor) -> float:
    """Root of the generalised variance of points (N, 2): the geometric mean of the deviations along both axes."""
    return float(torch.cov(points.T.double()).det().clamp(min=0) ** 0.25)


def modes(points: Tensor, centres: Tensor) -> tuple[int, float]:
    """How many peaks have at least a fifth of their share of the points, and the share of points nearest to the five.

    Points further than three deviations from every peak belong to none.
    """
    distance, which = torch.cdist(points, centres).min(1)
    counts = torch.bincount(which[distance < max(3 * SPREAD, LINE)], minlength=len(centres)) / len(points)
    return int((counts >= 0.2 / len(centres)).sum()), float(counts[list(FIVE)].sum())


def agnostic(sizes: Sizes, seed: int) -> tuple[dict[int, dict[str, float]], dict[int, list[Tensor]]]:
    """Four concepts, the first tuned: steps -> width of the others, relative to before; and the points drawn."""
    torch.manual_seed(seed)
    centres, net = square(2), Net(4, sizes.width)
    train(net, peaks(centres, False), sizes.foundation, sizes.lr, sizes.batch, seed, decay=True)

    def measure(points: list[Tensor]) -> dict[str, float]:
        return {"width of others": sum(map(width, points[1:])) / 3}

    found, clouds = _tuned(net, subject(centres[:1]), 4, sizes, seed, measure)
    before = found[0]["width of others"]
    return {step: {"width of others": value["width of others"] / before} for step, value in found.items()}, clouds


def specific(sizes: Sizes, seed: int) -> tuple[dict[int, dict[str, float]], dict[int, list[Tensor]]]:
    """One concept of 25 modes, tuned on five: steps -> modes drawn, share of points at the five; and the points."""
    torch.manual_seed(seed)
    centres, net = square(5), Net(1, sizes.width)
    train(net, peaks(centres, True), sizes.foundation, sizes.lr, sizes.batch, seed, decay=True)

    def measure(points: list[Tensor]) -> dict[str, float]:
        count, share = modes(points[0], centres)
        return {"modes": float(count), "share at the five": share}

    return _tuned(net, subject(centres[list(FIVE)]), 1, sizes, seed, measure)


def _tuned(
    net: Net, data: Points, concepts: int, sizes: Sizes, seed: int, measure: Callable[[list[Tensor]], dict[str, float]]
) -> tuple[dict[int, dict[str, float]], dict[int, list[Tensor]]]:
    """Tune and measure on the way."""
    found, clouds, done = {}, {}, 0
    for step in sizes.at:
        train(net, data, step - done, sizes.tuning_lr, sizes.batch, 1000 + seed + step)
        done = step
        clouds[step] = [drawn(net, concept) for concept in range(concepts)]
        found[step] = measure(clouds[step])
    return found, clouds


# --- results ---------------------------------------------------------------------------------------------------------

EXPERIMENTS = {"agnostic": agnostic, "specific": specific}


def run(sizes: Sizes) -> tuple[dict, dict[str, dict[int, list[Tensor]]]]:
    """Both experiments with all seeds: means with intervals over seeds, and the first seed's points."""
    results, shown = {}, {}
    for name, experiment in EXPERIMENTS.items():
        outcomes = [experiment(sizes, seed) for seed in range(sizes.seeds)]
        shown[name] = outcomes[0][1]
        results[name] = {str(step): _summed([found[step] for found, _ in outcomes]) for step in sizes.at}
    return results, shown


def _summed(values: list[dict[str, float]]) -> dict[str, list[float]]:
    """Mean, low and high over seeds."""
    found = {}
    for key in values[0]:
        if len(values) > 1:
            each = paired_bootstrap({str(seed): [v[key]] for seed, v in enumerate(values)})
            found[key] = [round(x, 4) for x in (each.mean, each.low, each.high)]
        else:
            found[key] = [round(values[0][key], 4)] * 3
    return found


def picture(shown: dict[str, dict[int, list[Tensor]]], path: Path, side: int = 220) -> Path:
    """A row an experiment, a column a number of tuning steps: what each concept draws."""
    import io

    from PIL import Image, ImageDraw, ImageFont

    steps = list(next(iter(shown.values())))
    sheet = Image.new("RGB", (len(steps) * (side + 8) + 8, len(shown) * (side + 32) + 8), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    colours = ((200, 60, 50), (40, 90, 170), (44, 140, 80), (150, 70, 160))
    for row, (name, clouds) in enumerate(shown.items()):
        reach = {"agnostic": 1.2, "specific": 2.8}[name]
        for column, step in enumerate(steps):
            left, top = 8 + column * (side + 8), 8 + row * (side + 32)
            pen.text((left, top), f"{name}, {step} steps" if column == 0 else f"{step} steps", fill="black", font=font)
            frame = (left, top + 22, left + side, top + 22 + side)
            pen.rectangle(frame, outline=(210, 210, 210))
            for points, colour in zip(clouds[step], colours):
                for x, y in (points[:800] / reach).clamp(-1, 1).tolist():
                    px, py = left + side * (x + 1) / 2, top + 22 + side * (1 - y) / 2
                    pen.ellipse((px - 1, py - 1, px + 1, py + 1), fill=colour)
    sink = io.BytesIO()
    sheet.save(sink, "PNG", optimize=True)
    return files.write_atomically(path, sink.getvalue())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=Sizes.seeds)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    sizes, began = Sizes(seeds=options.seeds), time.perf_counter()
    results, shown = run(sizes)
    kept = {"sizes": vars(sizes), "torch": torch.__version__, "threads": options.threads,
            "machine": platform.machine(), "results": results}  # fmt: skip
    files.write_atomically(RESULTS, (json.dumps(kept, indent=2) + "\n").encode())
    print(json.dumps(results, indent=1))
    print(f"{time.perf_counter() - began:.0f} s; wrote {RESULTS} and {picture(shown, PICTURE)}")


if __name__ == "__main__":
    main()
