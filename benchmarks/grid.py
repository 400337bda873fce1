"""The one harness for quality: subjects x prompts x seeds, every method from the same noise, judged alike.

A cell is one subject drawn by one method for all prompts and seeds. Cells are cached, so a table is measured again, or
a method added, without drawing what has been drawn. `run` measures, `table` prints, `pictures` shows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from likeness.core import files
from likeness.core.demo import judges, sheet, world
from likeness.core.metrics.similarity import Interval, average, masked, matched, paired_bootstrap
from torch import Tensor

KIND = "benchmark-cell"
CACHE = Path("runs/grid")
RESULTS = Path(__file__).resolve().parent / "results"
REFERENCES = 5
# what is asked, and what of it the attribute judge can check
PROMPTS: tuple[tuple[str, str, str], ...] = (
    ("a photo of a {} on the beach", "beach", "photo"),
    ("a photo of a {} in the snow", "snow", "photo"),
    ("a painting of a {} in the city", "city", "painting"),
    ("a drawing of a {} in the forest", "forest", "drawing"),
    ("a photo of a {} at night", "night", "photo"),
    ("a photo of a {} in the kitchen", "kitchen", "photo"),
    ("a painting of a {} in a meadow", "meadow", "painting"),
    ("a drawing of a {} in the desert", "desert", "drawing"),
)
HIGHER = ("dino", "clip_i", "clip_t", "background", "style")


@dataclass(frozen=True)
class Case:
    """A held-out subject with its photos.

    Args:
        name: unique, as in "cat 3".
        word: what prompts call it.
        images: (REFERENCES, 3, 128, 128) in 0..1.
        masks: (REFERENCES, 1, 128, 128).
    """

    name: str
    word: str
    images: Tensor
    masks: Tensor


Draw = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """One way of drawing a subject.

    Args:
        name: column of the table.
        settings: names everything that its pictures depend on beside subject, prompt and noise.
        learn: a case to a function `(prompt, noise (S, 4, 16, 16)) -> pictures (S, 3, 128, 128) in 0..1`.
    """

    name: str
    settings: str
    learn: Callable[[Case], Draw]


def cases(count: int, kinds: Sequence[str] = world.KINDS) -> list[Case]:
    """The first `count` held-out subjects, kinds in turn; photos from the front in places of their own."""
    found = []
    for i in range(count):
        kind, number = kinds[i % len(kinds)], i // len(kinds)
        subject = world.held_out_subjects(number + 1, kind)[number]
        rng = random.Random(f"grid {i}")
        places = rng.sample(world.BACKGROUNDS, REFERENCES)
        scenes = [
            world.random_scene(rng, style="photo", view="front", accessory=None, background=place) for place in places
        ]
        drawn = [world.draw(subject, scene) for scene in scenes]
        found.append(
            Case(
                f"{kind} {number}",
                subject.word,
                torch.stack([p.image for p in drawn]),
                torch.stack([p.mask for p in drawn]),
            )
        )
    return found


def noise(seeds: int) -> Tensor:
    """The same for all methods and prompts, (seeds, 4, 16, 16)."""
    return torch.stack(
        [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1000 + s)) for s in range(seeds)]
    )


def draw(method: Method, case: Case, seeds: int, cache: Path = CACHE) -> Tensor:
    """A cell's pictures, (prompts, seeds, 3, 128, 128) in 0..1, from the cache where it has them."""
    asked = [prompt.format(case.word) for prompt, _, _ in PROMPTS]
    known = files.fingerprint({f"{method.name} {method.settings} {asked} {seeds}": case.images})
    path = cache / f"{known}.safetensors"
    if not path.exists():
        drawer = method.learn(case)
        images = torch.stack([drawer(prompt, noise(seeds)) for prompt in asked])
        files.save(path, {"images": (images.clamp(0, 1) * 255).round().byte()}, files.Header(KIND))
    return files.load(path, kind=KIND)[0]["images"] / 255


# --- judging ---------------------------------------------------------------------------------------------------------


@dataclass
class Judges:
    """All of the embedded judges, loaded once."""

    def __post_init__(self):
        self.dino, self.clip, self.attributes = judges.dino(), judges.clip(), judges.attributes()
        self.segments = judges.segments()

    def score(self, case: Case, images: Tensor) -> dict[str, Tensor]:
        """Each metric of a cell, (prompts, seeds)."""
        prompts, seeds = images.shape[:2]
        flat = images.flatten(0, 1)
        subject, found = self._alone(flat)
        references = masked(case.images, case.masks)
        asked = [prompt.format(case.word) for prompt, _, _ in PROMPTS for _ in range(seeds)]
        answers = self.attributes(flat)
        scores = {
            "dino": average(self.dino.images(subject), self.dino.images(references)) * found,
            "clip_i": average(self.clip.images(subject), self.clip.images(references)) * found,
            "clip_t": matched(self.clip.images(flat), self.clip.texts(asked)),
        }
        for i, name in ((1, "background"), (2, "style")):
            wanted = [row[i] for row in PROMPTS for _ in range(seeds)]
            scores[name] = torch.tensor([float(a == b) for a, b in zip(answers[name].values, wanted)])
        return {name: values.reshape(prompts, seeds) for name, values in scores.items()}

    def _alone(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The subjects on white, and 1 where one was found; a picture without subject has no likeness."""
        masks = self.segments(images)
        found = (masks.flatten(1).mean(1) > 0.01).float()
        masks = torch.where(found[:, None, None, None] > 0, masks, torch.ones_like(masks))
        return masked(images, masks), found


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
) -> Result:
    """Draw and judge everything; the first method is the baseline."""
    panel, scores = Judges(), {}
    for method in methods:
        for case in subjects:
            scores[method.name, case.name] = panel.score(case, draw(method, case, seeds, cache))
            watch(f"{method.name}: {case.name}")
    base = methods[0].name
    means = {
        m.name: {k: float(torch.stack([scores[m.name, c.name][k].mean() for c in subjects]).mean()) for k in HIGHER}
        for m in methods
    }
    against = {m.name: {k: _difference(scores, m.name, base, subjects, k) for k in HIGHER} for m in methods[1:]}
    return Result(means, against, base, len(subjects), len(PROMPTS), seeds)


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
        " " * width + "".join(f"{name:>30}" for name in HIGHER),
    ]
    for method, values in result.means.items():
        cells = []
        for name in HIGHER:
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
