"""What pairs cost by the factory, and by a DreamBooth LoRA for each subject: seconds of trainings, hours, the plot.

Both sides count what a subject costs (its picture, or its LoRA) and what is drawn for a pair. The factory also counts
its two trainings, once, and what its filters drop; the LoRAs' pictures are all taken to be good.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from likeness.core import checkpoint
from likeness.core.demo import MODEL
from likeness.core.demo.sheet import text_to_image
from likeness.core.toffee import adapter as adapters
from likeness.training import demo_lora, loop, refiner, view_generator
from likeness.training.dino_adapter import Learn

LORA_STEPS, LORA_BATCH = 150, 4  # of a subject's LoRA, as the demo's car was trained
TRAININGS = {"refiner": refiner, "view-generator": view_generator}
COUNTS = (1000, 100_000, 400_000)  # of subjects
_WARM = 2  # steps left out


class Clock:
    """Told of a training's steps, it knows what each took."""

    def __init__(self):
        self.times: list[float] = []

    def __call__(self, stage: str, progress: loop.Progress) -> None:
        self.times.append(progress.seconds)

    def seconds(self) -> float:
        """Of a step, the median."""
        return statistics.median(b - a for a, b in pairwise(self.times[_WARM:]))


def lora_step(folder: Path, steps: int) -> float:
    """Seconds of a step of a subject's LoRA on the demo model."""
    settings = demo_lora.Config(
        out=folder / "lora.safetensors", work=folder, subject="car", batch=LORA_BATCH, threads=1
    )
    settings = replace(settings, loop=replace(settings.loop, steps=steps + _WARM, every=10 * steps))
    demo_lora.train(settings, clock := Clock())
    return clock.seconds()


def training_step(kind: str, folder: Path, steps: int, batch: int) -> float:
    """Seconds of a step of a Refiner or a View Generator of the demo model, once its pictures are encoded."""
    learn = Learn(what="low-rank", snr=True, batch=batch, loop=loop.Settings(steps=steps + _WARM, every=10 * steps))
    train = TRAININGS[kind]
    out = folder / f"{kind}.safetensors"
    train.train(train.Config(out=out, pictures=batch, threads=1, learn=learn), clock := Clock())
    return clock.seconds()


def picture_seconds(steps: int, rounds: int = 5, batch: int = 4) -> float:
    """Seconds of a picture of the demo model, which a LoRA merged into it doesn't change."""
    model, noise, found = checkpoint.load(MODEL), torch.randn(batch, 4, 16, 16), []
    for _ in range(1 + rounds):  # the first warms up
        started = time.perf_counter()
        text_to_image(model, "a photo of a cat", noise, steps=steps, guidance=5.0)
        found.append((time.perf_counter() - started) / batch)
    return statistics.median(found[1:])


def lengths(file: Path) -> dict[str, int]:
    """Steps and batch of an adapter's last training, without what it began from."""
    settings = adapters.load(file).settings
    return {"steps": settings["steps"], "batch": settings["batch"]}


def trainings(steps: Mapping[str, list[float]], about: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """What each of the factory's trainings takes.

    Args:
        steps: seconds of a step, measured some times.
        about: see `lengths`.
    """
    found = {}
    for kind, seconds in steps.items():
        step = statistics.median(seconds)
        found[kind] = {"seconds_a_step": step, "all_seconds_a_step": seconds, **about[kind]}
        found[kind]["seconds"] = step * about[kind]["steps"]
    return found


def median(rows: list[Mapping[str, Any]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def hours(result: Mapping[str, Any], subjects: int, pairs: float = 1e6) -> dict[str, float]:
    """Worker hours of so many pairs that are kept, of so many subjects."""
    rows, lora = result["factory"], result["dreambooth_lora"]
    fixed = sum(each["seconds"] for each in result["trainings"].values())
    made = pairs / median(rows, "kept_share")
    factory = fixed + subjects * median(rows, "seconds_a_subject") + made * median(rows, "seconds_a_pair_made")
    # both of its pictures are drawn by the subject's own LoRA
    tuned = subjects * lora["seconds_a_subject"] + 2 * pairs * lora["seconds_a_picture"]
    seconds = {"factory": factory, "of_it_trainings": fixed, "dreambooth_lora": tuned}
    return {name: round(value / 3600, 2) for name, value in seconds.items()}


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Seconds a pair, and worker hours of a million, for ever more subjects: O(1) against O(N) fine-tunings."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows, lora = result["factory"], result["dreambooth_lora"]
    fixed = sum(each["seconds"] for each in result["trainings"].values())
    counts, drawing = [row["subjects"] for row in rows], 2 * lora["seconds_a_picture"]
    shares = [row["subjects"] / row["pairs_made"] for row in rows]
    each = [row["seconds_a_pair_made"] + row["seconds_a_subject"] * share for row, share in zip(rows, shares)]
    whole = [seconds + fixed / row["pairs_made"] for seconds, row in zip(each, rows)]
    left.plot(counts, each, "o-", label="pair factory, measured, subjects' pictures too")
    left.plot(counts, whole, "o:", color="tab:blue", label="... and its two trainings")
    left.plot(counts, [drawing + lora["seconds_a_subject"] * share for share in shares], "s--", label="LoRAs")
    left.set(xlabel="subjects", ylabel="seconds a pair made", yscale="log", title=f"{result['pairs']} pairs planned")
    many = [10**i for i in range(2, 7)]
    costs = [hours(result, count) for count in many]
    right.plot(many, [cost["factory"] for cost in costs], "o-", label="pair factory, all of it")
    right.plot(many, [cost["dreambooth_lora"] for cost in costs], "s--", label="a LoRA for each subject")
    right.set(xlabel="subjects", ylabel="worker hours", xscale="log", yscale="log", title="1 M pairs kept")
    for axes in (left, right):
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=90)
