"""The parts that the work is done in: entries as JSON Lines, and what was seen in their pictures as Parquet."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....core import files
from .tags import Entry

log = logging.getLogger(__name__)
_GROUP = 16  # rows of a part's Parquet file that are read together
_LINES = 64  # times as many pictures as used ones, at most, in a part


@dataclass
class Seen:
    """An entry with what was seen in its picture.

    Args:
        entry: the picture's.
        digest: of its file.
        crop: (left, top, right, bottom) in pixels, None for the whole.
        bbox: of the face, (cx, cy, w, h) in 0..1 of the crop.
        mask: the figure in the crop, a PNG file's bytes.
        answers: one a question, canonical.
        dropped, detail: why it is not used, "" where it is, and what the error said.
    """

    entry: Entry
    digest: str = ""
    crop: tuple[int, int, int, int] | None = None
    bbox: tuple[float, float, float, float] | None = None
    mask: bytes | None = None
    answers: tuple[str, ...] = ()
    dropped: str = ""
    detail: str = ""

    def drop(self, why: str, detail: str = "") -> None:
        self.dropped, self.detail, self.mask = why, detail, None
        # what a model can't find is not worth a warning; what went wrong is
        log.log(logging.WARNING if detail else logging.INFO, "%s: %s %s", self.entry.id, why, f"({detail})")


def index(entries: Iterable[Entry], size: int, folder: Path, watch: Callable[[int], None]) -> int:
    """Write the entries as parts of `size` used ones, JSON Lines; returns how many parts."""
    lines: list[str] = []
    parts = used = 0

    def write() -> None:
        files.write_atomically(folder / f"{parts:06d}.jsonl", "".join(lines).encode())

    for number, entry in enumerate(entries, 1):
        if used == size or len(lines) == _LINES * size:
            write()
            parts, lines, used = parts + 1, [], 0
        lines.append(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
        used += not entry.dropped
        watch(number)
    if lines:
        write()
    return parts + bool(lines)


def entries(folder: Path, part: int) -> list[Entry]:
    """A part's entries, as `index` wrote them."""
    found = []
    for line in (folder / f"{part:06d}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        fields = json.loads(line)
        found.append(Entry(**fields | {name: tuple(fields[name]) for name in ("tags", "clothes")}))
    return found


def file(folder: Path, part: int) -> Path:
    """Where a part's annotations are."""
    return folder / f"{part:06d}.parquet"


def write(folder: Path, part: int, seen: Sequence[Seen]) -> None:
    """A part's annotations, whole or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: [getattr(each.entry, name) for each in seen] for name in _ENTRY}
    columns |= {name: [getattr(each, name) for each in seen] for name in _SEEN}
    texts, numbers = pa.list_(pa.string()), {"crop": pa.list_(pa.int32()), "bbox": pa.list_(pa.float64())}
    types = {**dict.fromkeys(("tags", "clothes", "answers"), texts), **numbers, "mask": pa.binary()}
    table = pa.table({name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()})
    sink = io.BytesIO()
    parquet.write_table(table, sink, row_group_size=_GROUP)
    files.write_atomically(file(folder, part), sink.getvalue())


_ENTRY = ("id", "file", "character", "artist", "tags", "clothes")
_SEEN = ("digest", "crop", "bbox", "mask", "answers", "dropped", "detail")


def digest(data: bytes) -> str:
    """What tells a picture's file from another."""
    return hashlib.sha256(data).hexdigest()[:32]


def columns(folder: Path, part: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """A part's rows with some columns only, so that masks stay on disk."""
    from pyarrow import parquet

    with parquet.ParquetFile(file(folder, part)) as table:
        return table.read(list(names)).to_pylist()


def rows(folder: Path, places: Iterable[tuple[int, int]]) -> list[Seen]:
    """What was seen at places (part, row), in their order; each part is opened once, and little of it is read."""
    from pyarrow import parquet

    places, found = list(places), {}
    for part in sorted({part for part, _ in places}):
        wanted = sorted(row for other, row in places if other == part)
        with parquet.ParquetFile(file(folder, part)) as table:
            for group in sorted({row // _GROUP for row in wanted}):
                read = table.read_row_group(group).to_pylist()
                found |= {(part, row): _seen(read[row % _GROUP]) for row in wanted if row // _GROUP == group}
    return [found[place] for place in places]


def _seen(fields: dict[str, Any]) -> Seen:
    entry = Entry(**{name: fields[name] for name in _ENTRY} | {n: tuple(fields[n]) for n in ("tags", "clothes")})
    pairs = {name: fields[name] and tuple(fields[name]) for name in ("crop", "bbox")}
    rest = {name: fields[name] for name in ("digest", "mask", "dropped", "detail")}
    return Seen(entry, answers=tuple(fields["answers"]), **pairs, **rest)
