"""The one harness for quality: subjects x prompts x seeds, every method from the same noise, judged alike.

A cell is one subject drawn by one method for all prompts and seeds. Cells are cached, so a table is measured again, or
a method added, without drawing what has been drawn. `run` measures, `table` prints, `pictures` shows.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from likeness.core import checkpoint, files
from likeness.core.demo import MODEL, sheet, world
from likeness.core.demo.judges import METRICS, Asked, Panel
from likeness.core.metrics.similarity import Interval, paired_bootstrap
from likeness.training import loop
from torch import Tensor

KIND = "benchmark-cell"
CACHE = Path("runs/grid")
RESULTS = Path(__file__).resolve().parent / "results"
REFERENCES = 5
KINDS = ("cat", "car", "dog", "person", "robot", "teapot", "duck", "house")  # of the subjects measured
PROMPTS = (
    Asked("a photo of a {} on the beach", "beach", "photo"),
    Asked("a photo of a {} in the snow", "snow", "photo"),
    Asked("a painting of a {} in the city", "city", "painting"),
    Asked("a drawing of a {} in the forest", "forest", "drawing"),
    Asked("a photo of a {} at night", "night", "photo"),
    Asked("a photo of a {} in the kitchen", "kitchen", "photo"),
    Asked("a painting of a {} in a meadow", "meadow", "painting"),
    Asked("a drawing of a {} in the desert", "desert", "drawing"),
)


@functools.cache
def model() -> tuple[checkpoint.Checkpoint, str]:
    """The embedded model, and its fingerprint."""
    loaded = checkpoint.load(MODEL)
    return loaded, files.fingerprint(loaded.denoiser.unet.state_dict())


@dataclass(frozen=True)
class Case:
    """A held-out subject with its photos.

    Args:
        name: unique, as in "cat 3".
        word: what prompts call it.
        images: (REFERENCES, 3, 128, 128) in 0..1.
        masks: (REFERENCES, 1, 128, 128); None where nobody knows them.
    """

    name: str
    word: str
    images: Tensor
    masks: Tensor | None


Draw = Callable[[str, Tensor], Tensor]


def told(name: str) -> Callable[[loop.Progress], None]:
    """Prints how a training goes, every hundred steps."""

    def watch(p: loop.Progress) -> None:
        if p.step % 100 == 0:
            print(f"{name}: {p.step}/{p.steps}, loss {p.loss:.4f}, {p.seconds:.0f} s", flush=True)

    return watch


@dataclass(frozen=True)
class Method:
    """One way of drawing a subject.

    Args:
        name: column of the table.
        settings: names everything that its pictures depend on beside subject, prompt and noise.
        learn: a case to a function `(prompt, noise (S, 4, 16, 16)) -> pictures (S, 3, 128, 128) in 0..1`; what a
            function has in `costs`, numbers by name, is kept with the cell.
    """

    name: str
    settings: str
    learn: Callable[[Case], Draw]


def cases(count: int, kinds: Sequence[str] = world.KINDS) -> list[Case]:
    """The first `count` held-out subjects, kinds in turn; photos from the front in places of their own."""
    return [case_of(kinds[i % len(kinds)], i // len(kinds)) for i in range(count)]


def case_of(kind: str, number: int) -> Case:
    """The held-out subject of a kind with this number, counted from 0."""
    subject = world.held_out_subjects(number + 1, kind)[number]
    drawn = world.photos(subject, REFERENCES, style="photo", view="front", accessory=None)
    images, masks = torch.stack([p.image for p in drawn]), torch.stack([p.mask for p in drawn])
    return Case(f"{kind} {number}", subject.word, images, masks)


def noise(seeds: int) -> Tensor:
    """The same for all methods and prompts, (seeds, 4, 16, 16)."""
    return torch.stack(
        [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1000 + s)) for s in range(seeds)]
    )


def asked_of(case: Case) -> list[Asked]:
    """The prompts with the case's word."""
    return [replace(asked, prompt=asked.prompt.format(case.word)) for asked in PROMPTS]


def draw(method: Method, case: Case, seeds: int, cache: Path = CACHE) -> Tensor:
    """A cell's pictures, (prompts, seeds, 3, 128, 128) in 0..1, from the cache where it has them."""
    return cell(method, case, [a.prompt for a in asked_of(case)], noise(seeds), cache)[0]


def cell(method: Method, case: Case, asked: Sequence[str], start: Tensor, cache: Path) -> tuple[Tensor, dict[str, Any]]:
    """A cell's pictures, (prompts, seeds, 3, H, W) in 0..1, from the cache where it has them, and what they cost.

    Args:
        asked: prompts.
        start: noise, (seeds, C, h, w), the same for all prompts.
        cache: folder.

    Returns:
        With the pictures "seconds" of one of them, "torch" and "threads", and what the method counted itself.
    """
    path = cell_path(method, case, asked, start, cache)
    if not path.exists():
        drawer = method.learn(case)
        began = time.perf_counter()
        images = torch.stack([drawer(prompt, start) for prompt in asked])
        seconds = (time.perf_counter() - began) / (len(asked) * len(start))
        costs = {"seconds": seconds, "torch": torch.__version__, "threads": torch.get_num_threads()}
        costs |= getattr(drawer, "costs", {})
        files.save(path, {"images": (images.clamp(0, 1) * 255).round().byte()}, files.Header(KIND, settings=costs))
    tensors, header = files.load(path, kind=KIND)
    return tensors["images"] / 255, dict(header.settings)


def cell_path(method: Method, case: Case, asked: Sequence[str], start: Tensor, cache: Path) -> Path:
    """Where a cell is kept, whether it has been drawn or not."""
    shown = {f"{method.name} {method.settings} {list(asked)} {len(start)}": case.images}
    known = files.fingerprint(shown | ({} if case.masks is None else {"masks": case.masks}))
    return cache / f"{known}.safetensors"


# --- judging ---------------------------------------------------------------------------------------------------------


def score(panel: Panel, case: Case, images: Tensor) -> dict[str, Tensor]:
    """Each metric of a cell, (prompts, seeds)."""
    seeds = images.shape[1]
    asked = [a for a in asked_of(case) for _ in range(seeds)]
    scores = panel.score(images.flatten(0, 1), asked, case.images, case.masks)
    return {name: values.reshape(-1, seeds) for name, values in scores.items()}


@dataclass(frozen=True)
class Result:
    """Means of every method, and differences to the baseline with their intervals, metric by metric."""

    means: dict[str, dict[str, float]]
    against: dict[str, dict[str, Interval]]
    baseline: str
    subjects: int
    prompts: int
    seeds: int

    def save(self, name: str) -> Path:
        """Write benchmarks/results/NAME.json."""
        data = json.dumps(asdict(self), indent=2) + "\n"
        return files.write_atomically(RESULTS / f"{name}.json", data.encode())


def run(
    methods: Sequence[Method],
    subjects: Sequence[Case],
    seeds: int = 2,
    cache: Path = CACHE,
    watch: Callable[[str], None] = print,
    previous: bool = False,
) -> Result:
    """Draw and judge everything; the baseline of each method is the first one, or the one before it."""
    panel, scores = Panel(), {}
    for method in methods:
        for case in subjects:
            scores[method.name, case.name] = score(panel, case, draw(method, case, seeds, cache))
            watch(f"{method.name}: {case.name}")
    names = [m.name for m in methods]
    base = dict(zip(names[1:], names if previous else [names[0]] * len(names)))
    means = {
        m.name: {k: float(torch.stack([scores[m.name, c.name][k].mean() for c in subjects]).mean()) for k in METRICS}
        for m in methods
    }
    against = {name: {k: _difference(scores, name, base[name], subjects, k) for k in METRICS} for name in base}
    return Result(means, against, "the row before" if previous else names[0], len(subjects), len(PROMPTS), seeds)


def _difference(
    scores: Mapping[tuple[str, str], Mapping[str, Tensor]], name: str, base: str, subjects: Sequence[Case], metric: str
) -> Interval:
    return paired_bootstrap(
        {c.name: (scores[name, c.name][metric] - scores[base, c.name][metric]).flatten() for c in subjects}
    )


# --- showing ---------------------------------------------------------------------------------------------------------


def table(result: Result) -> str:
    """Means, and behind them the difference to the baseline with its 95% interval."""
    width = max(map(len, result.means)) + 2
    lines = [
        f"{result.subjects} subjects x {result.prompts} prompts x {result.seeds} seeds; "
        f"difference to {result.baseline} with 95% intervals over subjects",
        " " * width + "".join(f"{name:>30}" for name in METRICS),
    ]
    for method, values in result.means.items():
        cells = []
        for name in METRICS:
            interval = result.against.get(method, {}).get(name)
            tail = f" {interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]" if interval else ""
            cells.append(f"{values[name]:.3f}{tail}")
        lines.append(f"{method:<{width}}" + "".join(f"{cell:>30}" for cell in cells))
    return "\n".join(lines)


def pictures(
    methods: Sequence[Method], subjects: Sequence[Case], path: Path, seeds: int = 2, cache: Path = CACHE
) -> Path:
    """A sheet: for each subject its photos, then a row a method of the first seed's pictures."""
    rows = []
    for case in subjects:
        rows.append((f"{case.name}: photos", case.images))
        rows += [(f"{case.name}: {m.name}", draw(m, case, seeds, cache)[:, 0]) for m in methods]
    return sheet.contact_sheet(rows, path)
