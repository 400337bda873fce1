"""Making pairs: `likeness build pairs`. Killed at any point, it goes on where it was.

Four stages, each a row of files of which every one is written whole or not at all: the list of subjects and prompts,
subjects, candidates (the expensive one), shards. Thresholds are applied last, so that others cost no drawing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from ....core import files
from .. import stages
from ..hub import found
from ..stages import Watch
from ..workers import Workers
from . import draw, filters, plan, prompts, report, table
from .filters import Filters
from .make import Maker, Pairs, Subjects
from .models import Models, Names

_FREE = ("device", "download")  # another machine may go on with it


@dataclass(frozen=True)
class Config:
    """Make pairs of pictures of one subject each, for `likeness train toffeenet`.

    Args:
        out: folder to write: shards, a contact sheet, a report; and `work`, which a later run goes on from.
        pairs: to be made; filters leave fewer.
        subjects: to be drawn, of the classes by turns.
        classes: text file with a class a line, as in "cat"; the demo world's by default.
        images: your own subjects instead of drawn ones: a folder for each class, with a picture of each subject.
        subject_prompt: what a subject's picture shows; {a} stands for "a cat".
        prompts: a text file, a prompt a line with its category before a colon, as in "style: a painting of {a}"; or
            demo, everyday or none.
        asked: prompts of each category that the language model writes besides.
        kind: generation pairs, editing pairs, or both, a third of them editing.
        same: cosine by DINO above which a subject is another one again **[ours]**.
        seed: of everything.
        models: what draws and judges.
        draw: how.
        filters: what a pair must reach.
        encoding: of pictures; JPEG is smaller, but changes an editing pair outside of its mask too.
        part: pairs a shard; what an interruption costs at most, for each worker.
        sheet: pairs on the contact sheet; 0 for none.
        price: of a worker's hour, for the estimate.
        workers: Ray actors, each with models of its own; 0 is this process alone, without Ray.
        address: of a Ray cluster, whose machines have the same folders; one on this machine by default.
        gpus: of each worker, parts of one allowed.
        threads: of the CPU, for each worker; with other ones pictures may differ in their last bits.
        retry_failed: make again what holds a picture that a model failed on; of subjects only before pairs are planned.

    Raises:
        ValueError: numbers that make no sense.
    """

    out: Path
    pairs: int = 1000
    subjects: int = 100
    classes: Path | None = None
    images: Path | None = None
    subject_prompt: str = "a photo of {a}"
    prompts: str = "demo"
    asked: int = 20
    kind: Literal["both", "generation", "editing"] = "both"
    same: float = 0.98
    seed: int = 0
    models: Names = field(default_factory=Names)
    draw: draw.Settings = field(default_factory=draw.Settings)
    filters: Filters = field(default_factory=Filters)
    encoding: Literal["png", "jpeg"] = "png"
    part: int = 32
    sheet: int = 16
    price: float = 0.0
    workers: int = 1
    address: str | None = None
    gpus: float = 0.0
    threads: int = 1
    retry_failed: bool = False

    def __post_init__(self):
        for name in ("pairs", "subjects", "part", "asked", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1")
        if "{a}" not in self.subject_prompt and "{word}" not in self.subject_prompt:
            raise ValueError(
                f"subject_prompt: {self.subject_prompt!r} has no place for the class; write {{a}} for 'a cat'"
            )

    @property
    def content(self) -> dict[str, Any]:
        """All settings that what is drawn depends on."""
        names = ("pairs", "subjects", "subject_prompt", "prompts", "asked", "kind", "same", "seed", "part", "encoding")
        settings = {name: getattr(self, name) for name in (*names, "models", "draw")}
        settings |= {name: value and str(value) for name, value in (("classes", self.classes), ("images", self.images))}
        settings = stages.plain(settings)
        for name in _FREE:
            settings["models"].pop(name)
        return settings


def build(config: Config, watch: Watch | None = None, models: Callable[[], Models] | None = None) -> dict[str, Any]:
    """Make the pairs, or go on with it; returns the report.

    Args:
        watch: told of each stage's progress.
        models: makes other models than the named ones, once a worker; Ray has to be able to send it.

    Raises:
        FileNotFoundError, ValueError: pictures, prompts or models that can't be used, a folder of another build, or
            models that fail on all of a part.
        ModuleNotFoundError: without pyarrow, or without Ray for workers.
    """
    for package in ("pyarrow", "ray") if config.workers else ("pyarrow",):
        import_module(package)  # before any work is done
    config = _resolved(config)
    work, watch = config.out / "work", watch or (lambda stage, done, total: None)
    weights = {} if models else config.models.fingerprints()  # before anything is drawn
    make = models or partial(config.models.models, config.draw)
    make = make if config.workers else cache(make)  # once for both stages
    stages.claim(config.out, "pairs")
    folders = (plan.LIST, plan.SUBJECTS, plan.PLAN, plan.CANDIDATES, "shards", "seconds")
    stages.tidy([config.out, work, *(work / name for name in folders)])
    parts = _list(config, work, weights, watch)
    with Workers(config.workers, config.address, config.gpus) as run:
        _made(config, parts, work, Subjects, run, make, watch)
        planned = _plan(config, parts, work, watch)
        _made(config, planned, work, Pairs, run, make, watch)
    thresholds = _thresholds(config, planned, work)
    _shards(config, planned, thresholds, watch)
    return report.write(config.out, parts, planned, thresholds, config.sheet, config.seed, config.price)


def _resolved(config: Config) -> Config:
    """With whole paths: a worker's current folder is another."""
    whole = {name: getattr(config, name) and getattr(config, name).resolve() for name in ("classes", "images")}
    if config.prompts not in prompts.TEMPLATES and Path(config.prompts).is_file():
        whole["prompts"] = str(Path(config.prompts).resolve())
    return replace(config, out=config.out.resolve(), models=config.models.resolved(), **whole)


# --- stages ----------------------------------------------------------------------------------------------------------


def _list(config: Config, work: Path, weights: dict[str, str], watch: Watch) -> int:
    """List subjects and prompts once; a later run goes on with what was there then. Returns how many parts.

    Args:
        weights: hashes of the models' files.
    """
    folder, settings = work / plan.LIST, config.content
    done = stages.done(folder)
    if done is not None:
        stages.check_same(config.out, done, settings)
        _check_weights(config.out, done.get("weights", {}), weights)
        return done["parts"]
    watch("prompts", 0, 1)
    dropped: Counter[str] = Counter()
    wanted = prompts.read(config.prompts)
    if config.models.language_model:
        name = found(config.models.language_model, "models.language_model", config.models.download)
        wanted += prompts.ask(prompts.LanguageModel(name, config.models.device), config.asked, config.seed, dropped)
    wanted = prompts.distinct(wanted, dropped)
    if not wanted:
        raise ValueError("prompts: there is none; give a file, templates, or models.language_model")
    if config.images is None:
        listed = plan.drawn(config.subjects, plan.classes(config.classes), config.subject_prompt)
    else:
        listed = plan.pictures(config.images, config.subject_prompt)
    parts = plan.write(folder, config.part, listed)
    plan.save_prompts(folder, wanted, dropped)
    watch("prompts", 1, 1)
    return stages.finish(folder, settings, parts=parts, weights=weights)["parts"]


def _check_weights(out: Path, before: dict[str, str], now: dict[str, str]) -> None:
    """ValueError, naming them, where models have other files; what was not here before, or is not now, may be."""
    if other := [f"models.{name}" for name in before if now.get(name, before[name]) != before[name]]:
        raise ValueError(
            f"out: {out} holds a build with other weights ({', '.join(other)}), whose files have changed since; "
            "put the old ones back, or give another folder"
        )


def _made(
    config: Config, parts: int, work: Path, kind: type[Maker], run: Workers, make: Callable[[], Models], watch: Watch
) -> None:
    """Make the parts that are not there, and again those that are to be retried."""
    folder = work / kind.folder
    left = [part for part in range(parts) if not table.file(folder, part).is_file()]
    if config.retry_failed and (kind is Pairs or stages.done(work / plan.PLAN) is None):
        again = [part for part in set(range(parts)).difference(left) if _failed(table.file(folder, part))]
        if again and kind is Pairs:
            (work / "shards" / stages.DONE).unlink(missing_ok=True)  # before: whatever happens, shards are made anew
        left = sorted([*left, *again])
    maker = partial(_maker, kind, work, config.seed, config.draw, config.encoding, config.threads, make)
    stages.spread(run, maker, left, parts, kind.folder, watch)


def _failed(part: Path) -> bool:
    """Whether a model failed on some of it."""
    return any(row["dropped"].endswith(stages.FAILED) for row in table.columns(part, ["dropped"]))


def _maker(
    kind: type[Maker],
    work: Path,
    seed: int,
    settings: draw.Settings,
    encoding: str,
    threads: int,
    make: Callable[[], Models],
) -> Maker:
    models = make()
    models.load()
    return kind(work, seed, settings, encoding, threads, models)


def _plan(config: Config, parts: int, work: Path, watch: Watch) -> int:
    """Say which subject meets which prompt; returns how many parts."""
    folder = work / plan.PLAN
    if (done := stages.done(folder)) is not None:
        return done["parts"]
    watch("plan", 0, 1)
    subjects, alike = plan.distinct(work, parts, config.same)
    if not subjects:
        raise ValueError(
            f"subjects: none is left ({report.lost_subjects(work, parts)}); see the log for what was wrong"
        )
    wanted, _ = plan.load_prompts(work / plan.LIST)
    count = plan.write(folder, config.part, plan.pairs(config.pairs, config.kind, config.seed, subjects, wanted))
    files.write_atomically(folder / plan.ALIKE, plan.text(alike))
    watch("plan", 1, 1)
    return stages.finish(folder, {}, parts=count, subjects=len(subjects))["parts"]


def _shards(config: Config, parts: int, thresholds: dict[str, float], watch: Watch) -> None:
    """Write the shards that are not there; nothing is computed, so that this process does it alone."""
    left = [part for part in range(parts) if not table.shard(config.out, part).is_file()]
    sharder = partial(filters.Shards, config.out / "work" / plan.CANDIDATES, config.out, thresholds)
    stages.spread(Workers(0), sharder, left, parts, "shards", watch)


def _thresholds(config: Config, parts: int, work: Path) -> dict[str, float]:
    """What pairs must reach; under other settings than before, the shards are made anew."""
    folder, settings = work / "shards", stages.plain({"filters": config.filters})
    done = stages.done(folder)
    if done is not None and done["settings"] == settings:
        return done["thresholds"]
    (folder / stages.DONE).unlink(missing_ok=True)
    for old in config.out.glob("shard-*.parquet"):
        old.unlink()
    names = {"dino": config.models.dino, "clip": config.models.clip}
    found = config.filters.thresholds(work / plan.CANDIDATES, parts, names)
    return stages.finish(folder, settings, thresholds=found)["thresholds"]
