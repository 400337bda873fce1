"""Data sets of identities in ComfyUI: folders and shards in its input folder, and the demo world."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths

DEMO = "demo world (built in)"
OTHERS = {"3d", "clipspace", "pasted"}  # ComfyUI's own
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SHARDS = (".parquet", ".tar")


def names() -> list[str]:
    """The demo world, then what lies in the input folder and can be identities, by its name there."""
    return [DEMO, *(entry.name for entry in _entries(_root()) if _fits(entry))]


def _root() -> Path:
    return Path(folder_paths.get_input_directory())


def _entries(folder: Any) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError:  # somebody else's folder must not take the node away
        return []


def _fits(entry: os.DirEntry) -> bool:
    """A shard, or a folder of shards, of pictures, or of folders with pictures."""
    try:
        return _is_data(entry)
    except OSError:  # a link that leads nowhere
        return False


def _is_data(entry: os.DirEntry) -> bool:
    if not entry.is_dir():
        return entry.name.lower().endswith(SHARDS)
    if entry.name in OTHERS:
        return False
    return any(
        inner.name.lower().endswith((*SHARDS, *PICTURES))
        or (inner.is_dir() and any(e.name.lower().endswith(PICTURES) for e in _entries(inner)))
        for inner in _entries(entry)
    )


def path_of(name: str) -> Path:
    """A data set of the drop-down; FileNotFoundError where it is gone."""
    if name not in names()[1:]:
        raise FileNotFoundError(f"identities: no {name} in ComfyUI's input folder; press R to see what is there")
    return _root() / name


def changed(name: str) -> str:
    """Names a data set's files, their sizes and when they were written; "" for the demo world."""
    if name == DEMO:
        return ""
    digest = hashlib.sha256()
    for file in _files(path_of(name)):
        state = file.stat()
        digest.update(f"{file.relative_to(_root())} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _files(path: Path) -> Iterator[Path]:
    yield from [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def load(name: str, size: int, prompt: str, people: int, seed: int) -> list[Any]:
    """Identities, see `training.data.identities`.

    Args:
        prompt: what pictures show that don't say so themselves.
        people: of the demo world.

    Raises:
        FileNotFoundError, ValueError: a data set that is gone or can't be read; the message names the input.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    from ..training.data import identities, records

    if name == DEMO:
        return identities.rendered(people, 4, seed, size=size)
    path = path_of(name)
    try:
        found = (replace(r, prompts=r.prompts or prompt) for r in records.read(path, leave=True))
        return identities.from_records(found, size)
    except (FileNotFoundError, ValueError) as e:
        kind = FileNotFoundError if isinstance(e, FileNotFoundError) else ValueError
        raise kind(str(e).replace("records:", "identities:")) from e
