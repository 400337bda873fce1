"""What the factory keeps: subjects and pairs, pictures among them, as Parquet files that hold one part each."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ....core import files

log = logging.getLogger(__name__)
GROUP = 8  # rows that are read together
_ARROW = {"int": "int64", "str": "string", "bool": "bool", "bytes | None": "binary", "float | None": "float64"}


class Row:
    """A line that may be dropped, with why and an error's words."""

    number: int
    dropped: str
    detail: str

    def drop(self, why: str, detail: str = "") -> None:
        self.dropped, self.detail = why, detail
        # what a filter takes out is not worth a warning; what went wrong is
        kind = type(self).__name__.lower()
        log.log(logging.WARNING if detail else logging.INFO, "%s %d: %s %s", kind, self.number, why, detail)


@dataclass
class Subject(Row):
    """A subject's picture.

    Args:
        number: of the subject, from 0.
        word: its class, as in "cat".
        prompt: what the picture shows.
        file: of a user's picture, "" for a drawn one.
        image: an image file's bytes.
        mask: the subject, a PNG file's bytes, white where it is.
        vector: DINO's class token, unit length, float16 bytes.
        dropped, detail: why it is not used, "" where it is, and what the error said.
    """

    number: int
    word: str
    prompt: str
    file: str = ""
    image: bytes | None = None
    mask: bytes | None = None
    vector: bytes | None = None
    dropped: str = ""
    detail: str = ""


@dataclass
class Pair(Row):
    """A pair: two pictures of one subject.

    Args:
        number: of the pair, from 0.
        subject: its number.
        word: the subject's class.
        category: one of `prompts.CATEGORIES`.
        editing: whether the pictures differ within the mask only.
        prompt: what the target shows.
        input, target: image files' bytes, of one size.
        mask: where an editing pair may differ, a PNG file's bytes; None for a generation pair.
        depth: of the target, a PNG file's bytes, white nearest; None without a depth model.
        dino: cosine of input and target.
        clip: cosine of target and prompt.
        matched: share of the target's patches that the Refiner gave the subject's tokens, 0..1.
        dropped, detail: as a subject's.
    """

    number: int
    subject: int
    word: str
    category: str
    editing: bool
    prompt: str
    input: bytes | None = None
    target: bytes | None = None
    mask: bytes | None = None
    depth: bytes | None = None
    dino: float | None = None
    clip: float | None = None
    matched: float | None = None
    dropped: str = ""
    detail: str = ""


Kind = TypeVar("Kind", bound=Row)


def file(folder: Path, part: int) -> Path:
    """Where a part is."""
    return folder / f"{part:06d}.parquet"


def shard(out: Path, part: int) -> Path:
    """Where a finished part is, as a data set's shard."""
    return out / f"shard-{part:06d}.parquet"


def write(path: Path, kind: type[Kind], rows: Sequence[Kind]) -> None:
    """A part, whole or not at all; the same bytes for the same rows. ModuleNotFoundError without pyarrow."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {f.name: pa.array([getattr(r, f.name) for r in rows], _ARROW[f.type]) for f in fields(kind)}
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink, row_group_size=GROUP)
    files.write_atomically(path, sink.getvalue())


def columns(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of a part, so that pictures stay on disk.

    Raises:
        ValueError: a file that is no such part.
    """
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as table:
            missing = [name for name in names if name not in table.schema_arrow.names]
            if missing:
                raise ValueError(f"it has no column {missing[0]}")
            return table.read(list(names)).to_pylist()
    except (ArrowException, ValueError) as e:
        raise ValueError(f"{path.name} is no part of a pair factory's ({e}); build or copy it again") from e


def rows(folder: Path, kind: type[Kind], places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Kind]:
    """Rows at places (part, row); each part is opened once, and little of it is read."""
    from pyarrow import parquet

    found, wanted = {}, set(places)
    for part in sorted({part for part, _ in wanted}):
        here = sorted(row for other, row in wanted if other == part)
        with parquet.ParquetFile(file(folder, part)) as table:
            for group in sorted({row // GROUP for row in here}):
                read = table.read_row_group(group).to_pylist()
                found |= {(part, row): kind(**read[row % GROUP]) for row in here if row // GROUP == group}
    return found


def row(path: Path, number: int) -> Pair:
    """One pair of a shard, by its place."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        return Pair(**table.read_row_group(number // GROUP).to_pylist()[number % GROUP])


def each(path: Path, kind: type[Kind]) -> Iterator[Kind]:
    """All rows of a part, a few of them in memory."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(GROUP):
            for fields_of in batch.to_pylist():
                yield kind(**fields_of)
