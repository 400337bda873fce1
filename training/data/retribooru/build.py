"""Building the data set: `likeness build retribooru`. Killed at any point, it goes on where it was.

Three stages, each a row of files of which every one is written whole or not at all: entries (what the tags say),
annotations (what the models see; the expensive one, on Ray), shards. Grouping lies between the last two and is made
again, with its shards, when its settings change; the annotations stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from .. import stages
from ..stages import Watch
from ..workers import Workers
from . import identities, parts, report, shards, tags
from .annotate import Annotator, Settings
from .models import Models, Names
from .tags import Filter

_FOLDERS = ("identities", "work/entries", "work/annotations", "work/plan")


@dataclass(frozen=True)
class Config:
    """Build a RetriBooru data set from a folder of tagged pictures.

    Args:
        images: folder of pictures.
        out: folder to write: shards, contact sheets, report; and `work`, which a later run goes on from.
        models: what looks at the pictures.
        tags: Danbooru-style metadata, one JSON or JSON Lines file or a folder of them; by default metadata.jsonl in
            images or, where there is none, a .json or .txt of its name beside each picture.
        keep: which pictures are used, by their tags.
        look: how pictures are looked at.
        match: names of the questions whose answers must be equal; all by default.
        format: of the shards.
        shard: pictures a shard; it has whole identities, so a few more.
        sheets: draw a contact sheet for each identity.
        workers: Ray actors, each with models of its own; 0 is this process alone, without Ray.
        address: of a Ray cluster, whose machines have the same folders; one on this machine by default.
        gpus: of each worker, parts of one allowed.
    """

    images: Path
    out: Path
    models: Names = field(default_factory=Names)
    tags: Path | None = None
    keep: Filter = field(default_factory=Filter)
    look: Settings = field(default_factory=Settings)
    match: tuple[str, ...] = ()
    format: Literal["parquet", "tar"] = "parquet"
    shard: int = 256
    sheets: bool = True
    workers: int = 1
    address: str | None = None
    gpus: float = 0.0

    def __post_init__(self):
        if self.shard < 1:
            raise ValueError(f"shard is {self.shard}; at least 1")
        if self.images.resolve() in (self.out.resolve(), *self.out.resolve().parents) and self.tags is None:
            raise ValueError("out: it lies within images, whose pictures are all read; choose a folder elsewhere")


def build(config: Config, watch: Watch | None = None, models: Callable[[], Models] | None = None) -> dict[str, Any]:
    """Build the data set, or go on with it; returns the report.

    Args:
        watch: told of each stage's progress.
        models: makes other models than the named ones, once a worker; Ray has to be able to send it.

    Raises:
        FileNotFoundError, ValueError: pictures, tags or models that can't be used, or a folder of another build.
        ModuleNotFoundError: without pyarrow, or without Ray for workers.
    """
    for package in ("pyarrow", "ray") if config.workers else ("pyarrow",):
        import_module(package)  # before any work is done
    # a worker's current folder is another
    config = replace(config, images=config.images.resolve(), out=config.out.resolve(), models=config.models.resolved())
    if config.tags is None and (config.images / tags.METADATA).is_file():
        config = replace(config, tags=config.images / tags.METADATA)
    work, watch = config.out / "work", watch or (lambda stage, done, total: None)
    make = models or partial(config.models.models, config.images)
    stages.claim(config.out, "RetriBooru's identities")
    stages.tidy([config.out, work, *(config.out / name for name in _FOLDERS)])
    number = _entries(config, work / "entries", watch)
    with Workers(config.workers, config.address, config.gpus) as run:
        _annotations(config, number, work, run, make, watch)
        groups = _groups(config, number, work, watch)
        count = _plan(config, groups, work / "plan")
        sheets = config.out / "identities" if config.sheets else None
        folders = (config.images, work / "annotations", work / "plan", config.out, sheets)
        left = [i for i in range(count) if not shards.path(config.out, i, config.format).is_file()]
        stages.spread(run, partial(shards.Shards, *folders, config.format), left, count, "shards", watch)
    found = report.count(work / "annotations", number, groups, config.out)
    report.write(config.out, found)
    return found


# --- stages ----------------------------------------------------------------------------------------------------------


def _entries(config: Config, folder: Path, watch: Watch) -> int:
    """Read the tags once; a later run goes on with what was there then. Returns how many parts."""
    listed = config.tags and str(config.tags.resolve())
    settings = stages.plain(
        {"images": str(config.images), "tags": listed, "keep": config.keep, "part": config.look.part}
    )
    done = stages.done(folder)
    if done is None:
        entries = tags.read(config.images, config.tags, config.keep)
        number = parts.index(entries, config.look.part, folder, lambda n: watch("tags", n, 0))
        return stages.finish(folder, settings, parts=number)["parts"]
    stages.check_same(config.out, done, settings)
    return done["parts"]


def _annotations(
    config: Config, number: int, work: Path, run: Workers, make: Callable[[], Models], watch: Watch
) -> None:
    folder = work / "annotations"
    settings = stages.plain({"look": config.look, "models": config.models})
    for name in ("device", "half", "download"):  # another machine may go on with it
        settings["models"].pop(name)
    left = [i for i in range(number) if not parts.file(folder, i).is_file()]
    begun = stages.done(folder) if len(left) < number else None
    if begun is not None:
        stages.check_same(config.out, begun, settings)
    if left:
        make()  # names of models that are not there are told before any worker starts
    if begun is None:
        stages.finish(folder, settings)
    annotator = partial(_annotator, config.images, work / "entries", folder, config.look, make)
    stages.spread(run, annotator, left, number, "annotations", watch)


def _annotator(images: Path, entries: Path, out: Path, look: Settings, make: Callable[[], Models]) -> Annotator:
    models = make()
    models.load()
    return Annotator(images, entries, out, look, models)


def _groups(config: Config, number: int, work: Path, watch: Watch) -> identities.Groups:
    watch("identities", 0, 1)
    groups = identities.group(work / "annotations", number, list(config.look.questions), config.match)
    watch("identities", 1, 1)
    return groups


def _plan(config: Config, groups: identities.Groups, folder: Path) -> int:
    """Write which shard holds what; under other settings than before, shards and contact sheets are made anew."""
    settings = stages.plain({name: getattr(config, name) for name in ("match", "format", "shard", "sheets")})
    done = stages.done(folder)
    if done is not None and done["settings"] == settings:
        return done["shards"]
    (folder / stages.DONE).unlink(missing_ok=True)
    old = [*config.out.glob("shard-*"), *(config.out / "identities").glob("*.jpg"), *folder.glob("*.jsonl")]
    for file in old:
        file.unlink()
    return stages.finish(folder, settings, shards=identities.plan(groups, config.shard, folder))["shards"]
