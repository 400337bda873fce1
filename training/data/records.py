"""RetriBooru's records (section 3) and their shards: Parquet, tar in webdataset's layout, or a folder a subject."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from . import photos
from .photos import SUFFIXES, Group

FORMATS = ("parquet", "tar")
MASKS = "masks"  # folder beside a subject's pictures
_NAMED = 8  # examples in a message
_BATCH = 16  # rows of a Parquet file in memory
_MOST = 64  # rows of a Parquet group that may be read for one picture
_FILES = ("image", "mask")

Data = bytes | Callable[[], bytes | None]  # a file's bytes, or what reads them


@dataclass(frozen=True)
class Record:
    """A picture of an identity, which is a character in an outfit by an artist.

    Args:
        id: of the picture, unique in its data set.
        character, artist: tags, "" where unknown.
        image: the picture's file, its bytes or a function that reads them.
        bbox: of the face, (cx, cy, w, h) in 0..1; None without one.
        mask: of the figure, a PNG file at the picture's size, as `image`, white where it is; None without one.
        clothes: tags of what is worn.
        prompts: what the picture shows, one line.
        similar: ids of the identity's other pictures.
    """

    id: str
    character: str
    artist: str
    image: Data
    bbox: tuple[float, float, float, float] | None
    mask: Data | None
    clothes: tuple[str, ...]
    prompts: str
    similar: tuple[str, ...]

    def picture(self) -> Tensor:
        """(3, H, W) in 0..1; ValueError for what is no picture or is gone."""
        return self._decoded(self.image)

    def figure(self, picture: Tensor | None = None) -> Tensor | None:
        """The mask, (1, H, W) in 0..1; None without one.

        Args:
            picture: the record's, where the mask has to be as large.

        Raises:
            ValueError: what is no mask, or of another size.
        """
        mask = self._decoded(self.mask, "black")
        if mask is None:
            return None
        if picture is not None and mask.shape[-2:] != picture.shape[-2:]:
            own, its = (f"{each.shape[-1]} x {each.shape[-2]}" for each in (mask, picture))
            raise ValueError(f"records: the mask of {self.id} is {own}, its picture {its} pixels; make them alike")
        return mask[:1]

    def _decoded(self, data: Data | None, under: str = "white") -> Tensor | None:
        try:
            data = data() if callable(data) else data
            return None if data is None else photos.decode(data, under)
        except (ValueError, OSError) as e:
            raise ValueError(f"record {self.id}: its picture or mask can't be read ({e}); build it again") from e


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: Path, leave: bool = False) -> Iterator[Record]:
    """Every record of a shard, of a folder of shards, or of a folder of subjects, one after the other.

    A folder of subjects has a folder of pictures for each, as DreamBooth's data has, with masks of the same names in
    its folder `masks` if there are any; or it is itself the pictures of one. The folder's name is the character.

    Args:
        leave: whether pictures and masks stay on disk until they are asked for, so that all records fit into memory.
            Those of Parquet files with large row groups, which this package does not write, are read at once.

    Raises:
        FileNotFoundError: nothing to read there.
        ValueError: shards of two formats, or a file that is no shard.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"records: no file or folder {path}")
    shards = [path] if path.is_file() else shards_in(path)
    if not shards:
        yield from _subjects(path, leave)
    for shard in shards:
        yield from _READERS.get(shard.suffix, _no_shard)(shard, leave)


def shards_in(folder: Path) -> list[Path]:
    """Parquet or tar files, in the order of their names; ValueError for both."""
    found = {kind: sorted(folder.glob(f"*.{kind}")) for kind in FORMATS}
    if all(found.values()):
        raise ValueError(f"records: {folder} has shards of two formats, {' and '.join(FORMATS)}; name one file")
    return next((shards for shards in found.values() if shards), [])


def _no_shard(path: Path, leave: bool) -> Iterator[Record]:
    raise ValueError(f"records: {path.name} is no shard; give a .parquet or .tar file, or a folder")


def _from_parquet(path: Path, leave: bool) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            left = [name for name in _FILES if leave and max(groups, default=0) <= _MOST]
            names = [name for name in file.schema_arrow.names if name not in left]
            left = [name for name in left if name in file.schema_arrow.names]
            places = ((group, row) for group, rows in enumerate(groups) for row in range(rows))
            for batch in file.iter_batches(_BATCH, columns=names):
                for fields, place in zip(batch.to_pylist(), places):
                    yield _record(fields | {name: partial(_cell, path, name, *place) for name in left})
    except (pa.ArrowInvalid, TypeError, KeyError) as e:
        raise ValueError(f"records: {path.name} is no shard of records ({e}); build or copy it again") from e


def _cell(path: Path, name: str, group: int, row: int) -> bytes | None:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return file.read_row_group(group, [name]).column(0)[row].as_py()


def _from_tar(path: Path, leave: bool) -> Iterator[Record]:
    fields: dict[str, Any] = {}
    key = None
    try:
        with tarfile.open(path, "r:") as file:
            for member in file:
                name, _, kind = member.name.partition(".")
                if name != key and key is not None:
                    yield _record(fields)
                    fields = {}
                key, data = name, partial(_part, path, member.offset_data, member.size)
                if kind == "json":
                    fields |= json.loads(data())
                else:
                    fields[kind.partition(".")[0]] = data if leave else data()
        if fields:
            yield _record(fields)
    except (tarfile.TarError, TypeError, AttributeError, KeyError, json.JSONDecodeError) as e:
        raise ValueError(f"records: {path.name} is no shard of records ({e}); build or copy it again") from e


def _part(path: Path, start: int = 0, size: int = -1) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


_READERS = {".parquet": _from_parquet, ".tar": _from_tar}


def _record(fields: dict[str, Any]) -> Record:
    bbox = fields.pop("bbox", None)
    lists = {name: tuple(fields.pop(name)) for name in ("clothes", "similar")}
    return Record(bbox=None if bbox is None else tuple(bbox), mask=fields.pop("mask", None), **lists, **fields)


def _subjects(folder: Path, leave: bool) -> Iterator[Record]:
    subjects = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name != MASKS and _pictures(p)]
    if _pictures(folder):
        subjects = [folder]
    if not subjects:
        raise FileNotFoundError(
            f"records: {folder} has neither shards nor pictures; give a folder of .parquet or .tar files, or one with "
            "a folder of pictures for each subject"
        )
    for subject in subjects:
        files = _pictures(subject)
        ids = [f"{subject.name}/{file.name}" for file in files]
        masks = {p.stem: p for p in _pictures(subject / MASKS)}
        for i, file in enumerate(files):
            found = [partial(_part, at) if at else None for at in (file, masks.get(file.stem))]
            image, mask = found if leave else (each and each() for each in found)
            others = tuple(ids[:i] + ids[i + 1 :])
            yield Record(ids[i], subject.name, "", image, None, mask, (), "", others)


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []


# --- writing ---------------------------------------------------------------------------------------------------------


def to_parquet(records: Sequence[Record]) -> bytes:
    """A shard's bytes, the same for the same records; ModuleNotFoundError without pyarrow."""
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.list_(pa.string())
    types = dict.fromkeys(("id", "character", "artist", "prompts"), pa.string())
    types |= {"image": pa.binary(), "mask": pa.binary(), "bbox": pa.list_(pa.float64())}
    types |= {"clothes": texts, "similar": texts}
    order = list(Record.__dataclass_fields__)
    table = pa.table({name: pa.array([getattr(record, name) for record in records], types[name]) for name in order})
    sink = io.BytesIO()
    parquet.write_table(table, sink, row_group_size=_BATCH)
    return sink.getvalue()


def to_tar(records: Sequence[Record]) -> bytes:
    """A shard's bytes in webdataset's layout, the same for the same records.

    Record i has the key of its number, as in 000012.image.png, 000012.mask.png, and 000012.json for the rest.
    """
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:", format=tarfile.PAX_FORMAT) as file:
        for i, record in enumerate(records):
            rest = {k: v for k, v in vars(record).items() if k not in ("image", "mask")}
            members = {f"image.{_suffix(record.image)}": record.image, "mask.png": record.mask}
            members["json"] = json.dumps(rest, ensure_ascii=False).encode()
            for name, data in members.items():
                if data is not None:
                    info = tarfile.TarInfo(f"{i:06d}.{name}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
    return sink.getvalue()


WRITERS = {"parquet": to_parquet, "tar": to_tar}
_STARTS = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"RIFF": "webp", b"BM": "bmp"}


def _suffix(image: bytes) -> str:
    return next((suffix for start, suffix in _STARTS.items() if image.startswith(start)), "tif")


# --- one identity ----------------------------------------------------------------------------------------------------


def of_identity(records: Iterable[Record], name: str) -> list[Record]:
    """The pictures of one identity, named by the id of any of them, or by the character if it has only one outfit.

    Raises:
        ValueError: no such identity, or a character with several.
    """
    byname: list[Record] = []
    same: list[Record] = []
    some: list[str] = []
    for record in records:
        if len(some) < _NAMED:
            some.append(record.id)
        if name == record.id or name in record.similar:
            same.append(record)
        elif name == record.character:
            byname.append(record)
    if same:
        return same
    # of each the first picture
    identities = {frozenset((record.id, *record.similar)): record.id for record in reversed(byname)}
    if len(identities) > 1:
        firsts = ", ".join([*identities.values()][: -_NAMED - 1 : -1])
        raise ValueError(f"identity: {name} has {len(identities)}; name one by the id of a picture: {firsts}")
    if not byname:
        known = f"name one by the id of a picture, as in {', '.join(some)}"
        raise ValueError(f"identity: there is no picture and no character {name!r}; {known}")
    return byname


def from_folders(images: Path, masks: Path | None, size: int, fit: str, identity: str | None = None) -> list[Group]:
    """Photos of one subject: a folder's, as `photos.from_folders`, or one identity's of what `read` takes.

    An identity's masks are used where every picture has one; without them the subject learns its background too.

    Raises:
        FileNotFoundError, ValueError: as `photos.from_folders`, `read` and `of_identity`; masks beside an identity.
    """
    if identity is None:
        return photos.from_folders(images, masks, size, fit)
    if masks is not None:
        raise ValueError("masks: an identity's records have their own; leave masks or identity out")
    found = of_identity(read(images), identity)
    figures = [record.figure() for record in found]
    whole = any(figure is None for figure in figures)
    return photos.prepare([record.picture() for record in found], size, fit, None if whole else figures)
