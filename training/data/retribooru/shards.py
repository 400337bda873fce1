"""Writing the records: shards of whole identities, with a contact sheet for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ....core import files
from ....core.demo.sheet import contact_sheet
from .. import records
from ..photos import decode, png
from ..records import Record
from . import identities, parts
from .parts import Seen

_ROW, _ROWS, _SIDE = 6, 4, 128  # pictures beside and below each other on a contact sheet, and their side in pixels


@dataclass
class Shards:
    """Writes shards by number; a shard's file is there only when its contact sheets are.

    Args:
        images, annotations, plan: folders of the pictures, of the parts and of the plan.
        out: folder of the shards.
        sheets: folder of the contact sheets, None for none.
        format: one of `records.FORMATS`.
    """

    images: Path
    annotations: Path
    plan: Path
    out: Path
    sheets: Path | None
    format: str

    def __call__(self, number: int) -> dict[str, int]:
        """Write a shard; returns how many pictures it has."""
        written: list[Record] = []
        for i, members in enumerate(identities.planned(self.plan, number)):
            seen = parts.rows(self.annotations, [(member.part, member.row) for member in members])
            found = [record(self.images, each, [other.id for other in members]) for each in seen]
            if self.sheets is not None:
                draw_sheet(found, seen[0].answers, self.sheets / f"{number:05d}-{i:04d}--{name(found[0])}.jpg")
            written += found
        files.write_atomically(path(self.out, number, self.format), records.WRITERS[self.format](written))
        return {"pictures": len(written)}


def path(out: Path, number: int, suffix: str) -> Path:
    """Where a shard is."""
    return out / f"shard-{number:05d}.{suffix}"


def record(images: Path, seen: Seen, ids: Sequence[str]) -> Record:
    """The paper's record of a picture whose identity has these ids.

    Raises:
        ValueError: the picture has changed since it was looked at.
    """
    entry = seen.entry
    try:
        image = (images / entry.file).read_bytes()
    except OSError as e:
        raise ValueError(f"{entry.file} was there when it was looked at, and is gone; put it back") from e
    if parts.digest(image) != seen.digest:
        raise ValueError(
            f"{entry.file} is another picture than when it was looked at; put the old one back, or build anew"
        )
    similar = tuple(other for other in ids if other != entry.id)
    # the general tags, as the paper's prompts are
    prompts = ", ".join(tag.replace("_", " ") for tag in entry.tags)
    image = image if seen.crop is None else _cropped(image, seen.crop)
    bbox, mask = seen.bbox, seen.mask
    return Record(entry.id, entry.character, entry.artist, image, bbox, mask, entry.clothes, prompts, similar)


def _cropped(data: bytes, crop: tuple[int, int, int, int]) -> bytes:
    left, top, right, bottom = crop
    return png(decode(data)[:, top:bottom, left:right])


# --- contact sheets --------------------------------------------------------------------------------------------------


def name(first: Record) -> str:
    """A part of a file name for an identity: its character and its artist."""
    return "--".join(re.sub(r"[^\w()+-]+", "_", part)[:60] for part in (first.character, first.artist))


def draw_sheet(found: Sequence[Record], answers: Sequence[str], file: Path) -> None:
    """An identity's first pictures on one sheet: what is not the figure is pale, the face has a frame."""
    shown = torch.stack([_thumbnail(each) for each in found[: _ROW * _ROWS]])
    rows = list(shown.split(_ROW))
    labels = [f"{found[0].character} by {found[0].artist}, {len(found)} pictures", "; ".join(answers)]
    labels = [*labels, *[""] * len(rows)][: max(len(rows), 1)]
    if len(rows) == 1:
        labels = [f"{labels[0]}: {'; '.join(answers)}"]
    contact_sheet(list(zip(labels, rows)), file)


def _thumbnail(each: Record) -> Tensor:
    """A picture in the middle of a white square, (3, side, side)."""
    picture, figure = each.picture(), each.figure()
    picture = picture if figure is None else picture * (0.35 + 0.65 * figure) + 0.65 * (1 - figure)
    height, width = picture.shape[-2:]
    scale = _SIDE / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    small = torch.nn.functional.interpolate(picture[None], (h, w), mode="bilinear", antialias=True)[0]
    square = torch.ones(3, _SIDE, _SIDE)
    y, x = (_SIDE - h) // 2, (_SIDE - w) // 2
    square[:, y : y + h, x : x + w] = small
    if each.bbox is not None:
        _frame(square[:, y : y + h, x : x + w], each.bbox)
    return square


def _frame(picture: Tensor, bbox: tuple[float, float, float, float]) -> None:
    """Draw a box (cx, cy, w, h) into a picture, red."""
    height, width = picture.shape[-2:]
    cx, cy, w, h = bbox
    left, right = (min(width - 1, max(0, round((cx + s * w / 2) * width))) for s in (-1, 1))
    top, bottom = (min(height - 1, max(0, round((cy + s * h / 2) * height))) for s in (-1, 1))
    red = torch.tensor([0.9, 0.1, 0.1])[:, None]
    for line in (picture[:, top, left : right + 1], picture[:, bottom, left : right + 1]):
        line[:] = red
    for line in (picture[:, top : bottom + 1, left], picture[:, top : bottom + 1, right]):
        line[:] = red
