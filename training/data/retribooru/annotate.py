"""Looking at the pictures: figure, face and answers, a part of them after the other, each part a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from .. import stages
from ..photos import decode, png
from . import answers, parts
from .models import QUESTIONS, Models
from .parts import Seen

Result = TypeVar("Result")
UNREADABLE = "unreadable picture"
Item = tuple[Seen, Tensor]  # and its picture


@dataclass(frozen=True)
class Settings:
    """How pictures are looked at; all of it is the same for the whole of a data set.

    Args:
        questions: name -> question about the clothes; the first is the paper's, the others are ours.
        subject, face: what the segmenter and the face detector are asked for.
        need_face: drop pictures without a face, as from behind.
        least, most: share of the picture that the figure may take, 0..1.
        margin: crop pictures to the figure's box and so much of its longer side around it; None keeps them whole, for
            pictures that are cropped already, as the paper's are.
        views: times that a question is asked, of the picture, mirrored and cropped (ours; the paper asks once).
        agreement: share of the views that must answer alike (ours).
        batch: pictures that a model sees together, if they are of one size.
        part: pictures a file; what an interruption costs at most, for each worker.
    """

    questions: Mapping[str, str] = field(default_factory=lambda: dict(QUESTIONS))
    subject: str = "person"
    face: str = "face"
    need_face: bool = True
    least: float = 0.01
    most: float = 0.98
    margin: float | None = None
    views: int = 1
    agreement: float = 0.0
    batch: int = 8
    part: int = 128

    def __post_init__(self):
        if not self.questions:
            raise ValueError("questions: there is none; ask at least one")
        if not 1 <= self.views <= answers.VIEWS:
            raise ValueError(f"views is {self.views}; it must lie between 1 and {answers.VIEWS}")
        if min(self.batch, self.part) < 1:
            raise ValueError(f"batch is {self.batch} and part {self.part}; at least 1")


@dataclass
class Annotator:
    """Annotates parts: reads a part's entries, looks at the pictures, writes a part's Parquet file.

    Nothing that is wrong with a picture, nor a model that fails on it, ends the work: the picture is dropped, with why.
    Models that fail on all pictures of a part do, as on a broken device: that part is not written.
    """

    images: Path
    entries: Path
    out: Path
    settings: Settings
    models: Models

    def __call__(self, part: int) -> dict[str, int]:
        """Annotate a part; returns how many pictures are used, and how many it has."""
        seen = [Seen(entry, dropped=entry.dropped) for entry in parts.entries(self.entries, part)]
        used = [each for each in seen if not each.dropped]
        for start in range(0, len(used), self.settings.batch):
            self._look(used[start : start + self.settings.batch])
        stages.check_worked(f"part {part:06d}", [(e.dropped, e.detail) for e in used if e.dropped != UNREADABLE])
        parts.write(self.out, part, seen)
        return {"used": sum(not each.dropped for each in seen), "pictures": len(seen)}

    def _look(self, seen: Sequence[Seen]) -> None:
        """All that is done to a batch; pictures of one size go to the models together."""
        pictures = [(each, _read(self.images / each.entry.file, each)) for each in seen]
        figures: list[Item] = []
        for items in _by_size([(each, picture) for each, picture in pictures if picture is not None]):
            masks = self._each(
                "segmenter", items, lambda x: list(self.models.segmenter.segment(x, self.settings.subject))
            )
            figures += self._figures(items, masks)
        for items in _by_size(figures):  # cropped, they have other sizes
            self._faces(items)
            self._answers([item for item in items if not item[0].dropped])

    def _figures(self, items: list[Item], masks: Sequence[Tensor | None]) -> list[Item]:
        """Those with a figure, cropped to it."""
        kept = []
        for (each, picture), mask in zip(items, masks):
            if mask is None:
                continue
            share = float((mask > 0.5).float().mean())
            if not self.settings.least <= share <= self.settings.most:
                each.drop("no figure" if share < self.settings.least else "figure fills the picture")
                continue
            if self.settings.margin is not None:
                each.crop = around(mask, self.settings.margin)
                left, top, right, bottom = each.crop
                picture, mask = picture[:, top:bottom, left:right], mask[:, top:bottom, left:right]
            each.mask = png((mask > 0.5).float())
            kept.append((each, picture))
        return kept

    def _faces(self, items: Sequence[Item]) -> None:
        boxes = self._each("face detector", items, lambda x: self.models.faces.boxes(x, self.settings.face))
        for (each, picture), found in zip(items, boxes):
            each.bbox = None if found is None else face_box(found, picture)
            if found is not None and each.bbox is None and self.settings.need_face:
                each.drop("no face")

    def _answers(self, items: Sequence[Item]) -> None:
        s, questions = self.settings, list(self.settings.questions.values())
        asked = self._each("vqa", items, lambda x: answers.ask(self.models.vqa, x, questions, s.views, s.agreement))
        for (each, _), given in zip(items, asked):
            each.answers = tuple(given or ())

    def _each(self, model: str, items: Sequence[Item], call: Callable[[Tensor], list[Result]]) -> list[Result | None]:
        """A model's results, one a picture; where it fails on a batch, picture by picture, None where it fails."""

        def together(some: Sequence[Item]) -> list[Result]:
            return call(torch.stack([picture for _, picture in some]))

        return stages.each(model, items, together, lambda item, why, detail: item[0].drop(why, detail))


def _by_size(items: Sequence[Item]) -> list[list[Item]]:
    sizes: dict[tuple[int, ...], list[Item]] = {}
    for item in items:
        sizes.setdefault(tuple(item[1].shape), []).append(item)
    return list(sizes.values())


def _read(path: Path, each: Seen) -> Tensor | None:
    try:
        data = path.read_bytes()
        each.digest = parts.digest(data)
        return decode(data)
    except (OSError, ValueError, MemoryError) as e:
        each.drop(UNREADABLE, type(e).__name__ if isinstance(e, OSError) else str(e)[:200])
        return None


def around(mask: Tensor, margin: float) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of a mask (1, H, W) that is not empty, with a margin, within the picture."""
    ys, xs = (mask[0] > 0.5).nonzero(as_tuple=True)
    left, top, right, bottom = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
    more = round(margin * max(right - left, bottom - top))
    height, width = mask.shape[-2:]
    return max(0, left - more), max(0, top - more), min(width, right + more), min(height, bottom + more)


def face_box(boxes: Tensor, picture: Tensor) -> tuple[float, float, float, float] | None:
    """The largest of boxes (N, 4) in pixels as (cx, cy, w, h) in 0..1; None where there is none."""
    height, width = picture.shape[-2:]
    size = torch.tensor([width, height, width, height])
    boxes = (boxes.cpu().double() / size).clamp(0, 1)
    sides = boxes[:, 2:] - boxes[:, :2]
    if not len(boxes) or not bool((sides > 0).all(-1).any()):
        return None
    best = int(sides.clamp(min=0).prod(-1).argmax())
    return tuple(round(v, 6) for v in [*((boxes[best, :2] + boxes[best, 2:]) / 2).tolist(), *sides[best].tolist()])
