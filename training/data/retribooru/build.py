"""Building the data set: `likeness build retribooru`. Killed at any point, it goes on where it was.

Three stages, each a row of files of which every one is written whole or not at all: entries (what the tags say),
annotations (what the models see; the expensive one, on Ray), shards. Grouping lies between the last two and is made
again, with its shards, when its settings change; the annotations stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from ....core import files
from . import identities, parts, report, shards, tags
from .annotate import Annotator, Settings
from .models import Models, Names
from .tags import Filter
from .workers import Workers

Watch = Callable[[str, int, int], None]  # stage, done, of how many (0 where unknown)
_DONE = "done.json"  # of a stage: its settings, and what it found


@dataclass(frozen=True)
class Config:
    """Build a RetriBooru data set from a folder of tagged pictures.

    Args:
        images: folder of pictures.
        out: folder to write: shards, contact sheets, report; and `work`, which a later run goes on from.
        models: what looks at the pictures.
        tags: Danbooru-style metadata, one JSON or JSON Lines file or a folder of them; without it each picture has a
            .json or .txt of its name beside it.
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
    models: Names
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
    work, watch = config.out / "work", watch or (lambda stage, done, total: None)
    make = models or partial(config.models.models, config.images)
    _tidy(config.out)
    number = _entries(config, work / "entries", watch)
    with Workers(config.workers, config.address, config.gpus) as run:
        _annotations(config, number, work, run, make, watch)
        groups = _groups(config, number, work, watch)
        count = _plan(config, groups, work / "plan")
        sheets = config.out / "identities" if config.sheets else None
        folders = (config.images, work / "annotations", work / "plan", config.out, sheets)
        left = [i for i in range(count) if not shards.path(config.out, i, config.format).is_file()]
        _spread(run, partial(shards.Shards, *folders, config.format), left, count, "shards", watch)
    found = report.count(work / "annotations", number, groups, config.out)
    report.write(config.out, found)
    return found


# --- stages ----------------------------------------------------------------------------------------------------------


def _entries(config: Config, folder: Path, watch: Watch) -> int:
    """Read the tags once; a later run goes on with what was there then. Returns how many parts."""
    listed = config.tags and str(config.tags.resolve())
    settings = _plain({"images": str(config.images), "tags": listed, "keep": config.keep, "part": config.look.part})
    done = _done(folder)
    if done is None:
        entries = tags.read(config.images, config.tags, config.keep)
        number = parts.index(entries, config.look.part, folder, lambda n: watch("tags", n, 0))
        return _finish(folder, settings, parts=number)["parts"]
    _same_build(config, done, settings)
    return done["parts"]


def _annotations(
    config: Config, number: int, work: Path, run: Workers, make: Callable[[], Models], watch: Watch
) -> None:
    folder = work / "annotations"
    settings = _plain({"look": config.look, "models": config.models})
    for name in ("device", "half"):  # another machine may go on with it
        settings["models"].pop(name)
    left = [i for i in range(number) if not parts.file(folder, i).is_file()]
    begun = _done(folder) if len(left) < number else None
    if begun is not None:
        _same_build(config, begun, settings)
    if left:
        make()  # names of models that are not there are told before any worker starts
    if begun is None:
        _finish(folder, settings)
    annotator = partial(_annotator, config.images, work / "entries", folder, config.look, make)
    _spread(run, annotator, left, number, "annotations", watch)


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
    settings = _plain({name: getattr(config, name) for name in ("match", "format", "shard", "sheets")})
    done = _done(folder)
    if done is not None and done["settings"] == settings:
        return done["shards"]
    (folder / _DONE).unlink(missing_ok=True)
    old = [*config.out.glob("shard-*"), *(config.out / "identities").glob("*.jpg"), *folder.glob("*.jsonl")]
    for file in old:
        file.unlink()
    return _finish(folder, settings, shards=identities.plan(groups, config.shard, folder))["shards"]


def _spread(run: Workers, make: Callable, left: list[int], total: int, stage: str, watch: Watch) -> None:
    done = total - len(left)
    watch(stage, done, total)
    for _ in run.each(make, left):
        done += 1
        watch(stage, done, total)


# --- what is there already -------------------------------------------------------------------------------------------


def _tidy(out: Path) -> None:
    """Remove what was being written when an earlier run was killed."""
    for folder in (out, *(out / name for name in ("identities", "work/entries", "work/annotations", "work/plan"))):
        for file in folder.glob(".*.part"):
            file.unlink(missing_ok=True)


def _done(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / _DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _finish(folder: Path, settings: dict[str, Any], **found: int) -> dict[str, Any]:
    result = {"settings": settings, **found}
    files.write_atomically(folder / _DONE, json.dumps(result, indent=2, ensure_ascii=False).encode())
    return result


def _same_build(config: Config, done: dict[str, Any], settings: dict[str, Any]) -> None:
    if done["settings"] == settings:
        return
    other = sorted(set(_leaves(done["settings"])) ^ set(_leaves(settings)))
    names = ", ".join(dict.fromkeys(name for name, _ in other))
    raise ValueError(
        f"out: {config.out} holds a build with other settings ({names}); give the same ones, or another folder"
    )


def _leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    plain = {name: asdict(v) if hasattr(v, "__dataclass_fields__") else v for name, v in settings.items()}
    return json.loads(json.dumps(plain))
