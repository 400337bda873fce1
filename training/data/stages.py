"""Builds in stages, each a folder of files that are written whole or not at all; killed anywhere, they go on."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from ...core import files
from .workers import Workers

Watch = Callable[[str, int, int], None]  # stage, done, of how many (0 where unknown)
DONE = "done.json"  # of a stage: its settings, and what it found
FAILED = " failed"  # how a reason ends that is a model's
Item, Result = TypeVar("Item"), TypeVar("Result")


def spread(run: Workers, make: Callable, left: Sequence[int], total: int, stage: str, watch: Watch) -> None:
    """Do what is left of a stage's parts, among workers."""
    done = total - len(left)
    watch(stage, done, total)
    for _ in run.each(make, left):
        done += 1
        watch(stage, done, total)


def tidy(folders: Iterable[Path]) -> None:
    """Remove what was being written when an earlier run was killed."""
    for folder in folders:
        for file in folder.glob(".*.part"):
            file.unlink(missing_ok=True)


def done(folder: Path) -> dict[str, Any] | None:
    """What `finish` left; None where the stage is not finished."""
    try:
        return json.loads((folder / DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def finish(folder: Path, settings: dict[str, Any], **found: Any) -> dict[str, Any]:
    """Say that a stage is finished, under which settings, and what it found."""
    result = {"settings": settings, **found}
    files.write_atomically(folder / DONE, json.dumps(result, indent=2, ensure_ascii=False).encode())
    return result


def check_same(out: Path, done: dict[str, Any], settings: dict[str, Any]) -> None:
    """ValueError, naming them, where a stage was done under other settings."""
    if done["settings"] == settings:
        return
    other = sorted(set(_leaves(done["settings"])) ^ set(_leaves(settings)))
    names = ", ".join(dict.fromkeys(name for name, _ in other))
    raise ValueError(f"out: {out} holds a build with other settings ({names}); give the same ones, or another folder")


def _leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value)


def claim(out: Path, kind: str) -> None:
    """ValueError where a folder holds a build of another kind, whose files this one would take for its own."""
    file = out / "work" / "kind.json"
    if file.is_file():
        if (there := json.loads(file.read_text(encoding="utf-8"))["kind"]) != kind:
            raise ValueError(f"out: {out} holds {there}, not {kind}; give another folder")
        return
    files.write_atomically(file, json.dumps({"kind": kind}).encode())


def check_worked(part: str, seen: Sequence[tuple[str, str]]) -> None:
    """Refuse a part where models failed on all that they saw, as they do where the device is broken.

    Args:
        seen: why each picture was dropped, "" where it was not, and an error's words.

    Raises:
        ValueError: a part of at least two pictures, none of which a model did not fail on.
    """
    if len(seen) < 2 or not all(why.endswith(FAILED) for why, _ in seen):
        return
    whys = ", ".join(dict.fromkeys(why for why, _ in seen))
    raise ValueError(
        f"{part}: {whys} on all {len(seen)} of this part, last with {seen[-1][1]!r} on machine {platform.node()}. The "
        "part was not written: mend what is wrong there and give the command again"
    )


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, dataclasses among them, as JSON gives them back."""
    found = {name: asdict(v) if hasattr(v, "__dataclass_fields__") else v for name, v in settings.items()}
    return json.loads(json.dumps(found))


def each(
    model: str,
    items: Sequence[Item],
    call: Callable[[Sequence[Item]], Sequence[Result]],
    drop: Callable[[Item, str, str], None],
) -> list[Result | None]:
    """A model's results, one an item; where it fails on all together, one by one, and None where it fails.

    Args:
        model: as reasons call it.
        drop: told of an item that the model fails on, with why and the error's words.
    """
    if not items:
        return []
    try:
        results = list(call(items))
        if len(results) != len(items):
            raise ValueError(f"it gave {len(results)} results for {len(items)} pictures")
        return results
    except Exception as e:
        if len(items) > 1:
            return [each(model, [item], call, drop)[0] for item in items]
        drop(items[0], model + FAILED, f"{type(e).__name__}: {str(e).strip()[:200]}")
        return [None]
