"""Making subjects and pairs, a part of them after the other, each part a file.

Nothing that is wrong with a picture, nor a model that fails on it, ends the work: the picture is dropped, with why.
Every picture has its own noise, which the seed and its number determine, and is drawn together with the same others
whichever worker draws it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....core import files
from ....core.metrics.similarity import matched
from .. import photos, stages
from ..photos import decode, png
from . import draw, plan, table
from .masks import edit_mask
from .models import Models
from .table import Pair, Row, Subject

_FLAT = 2 / 255  # standard deviation of a picture that shows nothing
UNREADABLE, EMPTY = "unreadable picture", "empty mask"
_UNSEEN = (plan.REPEATED, UNREADABLE, EMPTY)  # dropped before any model sees it


@dataclass
class Job:
    """A subject or a pair that is being made, with its pictures (3, S, S) and masks (1, S, S)."""

    row: Any
    prompt: str = ""
    made: dict[str, Any] = field(default_factory=dict)

    def drop(self, why: str, detail: str = "") -> None:
        self.row.drop(why, detail)


@dataclass
class Maker:
    """What makers of subjects and of pairs share.

    Args:
        work: folder of the stages.
        seed: of everything.
        settings: see `draw.Settings`.
        encoding: of pictures, png or jpeg; JPEG changes them, also outside of an edit's mask.
        threads: of the CPU.
        models: see `Models`.
    """

    work: Path
    seed: int
    settings: draw.Settings
    encoding: str
    threads: int
    models: Models

    def __post_init__(self):
        torch.set_num_threads(self.threads)

    def __call__(self, part: int) -> dict[str, Any]:
        """Make a part and write it; returns how many rows are used, and how many were not planned to be left out.

        Raises:
            ValueError: models failed on all of it, which is then not written.
        """
        started = time.perf_counter()
        rows = self.rows(part)
        seen = [(row.dropped, row.detail) for row in rows if row.dropped not in _UNSEEN]
        stages.check_worked(f"{self.folder} {part:06d}", seen)
        self._write(part, rows)
        counts = {
            "used": sum(not row.dropped for row in rows),
            "rows": sum(row.dropped != plan.REPEATED for row in rows),
        }
        # what it took is no content: it is not the same twice
        told = json.dumps({"seconds": time.perf_counter() - started, **counts})
        files.write_atomically(self.work / "seconds" / f"{self.folder}-{part:06d}.json", told.encode())
        return counts

    folder = ""

    def rows(self, part: int) -> list[Any]:
        """Make a part."""
        raise NotImplementedError

    def _write(self, part: int, rows: Sequence[Row]) -> None:
        kind = Subject if self.folder == plan.SUBJECTS else Pair
        table.write(table.file(self.work / self.folder, part), kind, rows)

    def _step(self, model: str, jobs: Sequence[Job], name: str, call: Callable[[Sequence[Job]], Sequence]) -> list[Job]:
        """Let a model make something of each job; returns the jobs for which it did."""
        for job, result in zip(jobs, stages.each(model, jobs, call, Job.drop)):
            job.made[name] = result
        return [job for job in jobs if not job.row.dropped]

    def _pictures(self, model: str, jobs: Sequence[Job], name: str, call: Callable) -> list[Job]:
        """The same with pictures, as they will be kept."""
        for job in (made := self._step(model, jobs, name, call)):
            if not bool(job.made[name].isfinite().all()) or float(job.made[name].std()) < _FLAT:
                job.drop(f"{model} drew nothing")
            job.made[name] = (job.made[name] * 255).round() / 255
        return [job for job in made if not job.row.dropped]

    def _batches(self, jobs: Sequence[Job]) -> list[Sequence[Job]]:
        size = self.settings.batch
        return [jobs[start : start + size] for start in range(0, len(jobs), size)]

    def _encoded(self, picture: Tensor) -> bytes:
        return png(picture) if self.encoding == "png" else jpeg(picture)

    def _depths(self, jobs: Sequence[Job], of: str, name: str) -> list[Job]:
        if self.models.depth is None:
            return list(jobs)
        return self._step("depth model", jobs, name, lambda some: self.models.depth(stack(some, of)))


class Subjects(Maker):
    """Makes subjects: drawn by the base model, or read from the user's pictures."""

    folder = plan.SUBJECTS

    def rows(self, part: int) -> list[Subject]:
        jobs = [Job(Subject(**line)) for line in plan.lines(self.work / plan.LIST, part)]
        for some in self._batches(jobs):
            self._make(some)
        return [job.row for job in jobs]

    def _make(self, jobs: Sequence[Job]) -> None:
        read = [job for job in jobs if job.row.file]
        for job in read:
            self._read(job)
        drawn = [job for job in jobs if not job.row.file]
        jobs = [job for job in read if not job.row.dropped]
        jobs += self._pictures("base model", drawn, "image", self._drawn)
        # of different words, each for itself: a segmenter is asked for one thing
        masked = [self._step("segmenter", [job], "mask", self._segmented) for job in jobs]
        whole = [job for some in masked for job in some if self._sized(job)]
        whole = self._step("DINO", whole, "vector", lambda some: self.models.dino.images(stack(some, "image")))
        for job in whole:
            job.row.image, job.row.mask = self._encoded(job.made["image"]), png(job.made["mask"])
            job.row.vector = job.made["vector"].half().cpu().numpy().tobytes()

    def _drawn(self, jobs: Sequence[Job]) -> Tensor:
        keys = [f"{self.seed} subject {job.row.number}" for job in jobs]
        return self.models.painter.draw([job.row.prompt for job in jobs], keys)

    def _read(self, job: Job) -> None:
        size = self.settings.size
        try:
            job.made["image"] = photos.prepare([decode(Path(job.row.file).read_bytes())], size)[0].data[0]
        except (OSError, ValueError, MemoryError) as e:
            job.drop(UNREADABLE, type(e).__name__ if isinstance(e, OSError) else str(e)[:200])

    def _segmented(self, jobs: Sequence[Job]) -> Tensor:
        return (self.models.segmenter.segment(stack(jobs, "image"), jobs[0].row.word) > 0.5).float().cpu()

    def _sized(self, job: Job) -> bool:
        share, s = float(job.made["mask"].mean()), self.settings
        if not s.least <= share <= s.most:
            job.drop("no subject found" if share < s.least else "subject fills the picture")
        return not job.row.dropped


class Pairs(Maker):
    """Makes pairs of the subjects that are there."""

    folder = plan.CANDIDATES

    def rows(self, part: int) -> list[Pair]:
        planned = plan.lines(self.work / plan.PLAN, part)
        places = [tuple(line["place"]) for line in planned]
        subjects = table.rows(self.work / plan.SUBJECTS, Subject, places)
        jobs = [self._job(line, subjects[place]) for line, place in zip(planned, places)]
        for editing in (False, True):
            wanted = [job for job in jobs if job.row.editing == editing and not job.row.dropped]
            for some in self._batches(wanted):
                self._make(some)
        return [job.row for job in jobs]

    def _job(self, line: dict[str, Any], subject: Subject) -> Job:
        """A pair before anything is drawn; for removal what is drawn is the input, and the subject's own the target."""
        category, editing, dropped = line["category"], line["editing"], line.get("dropped", "")
        prompt = subject.prompt if category == "removal" else line["prompt"]
        pair = Pair(line["number"], subject.number, subject.word, category, editing, prompt, dropped=dropped)
        made = {} if dropped else {"subject": decode(subject.image), "figure": decode(subject.mask)[:1]}
        return Job(pair, line["prompt"], made)

    def _make(self, jobs: Sequence[Job]) -> None:
        editing = jobs[0].row.editing
        jobs = self._masks(jobs) if editing else jobs
        jobs = self._depths(jobs, "subject", "control")
        jobs = self._pictures("base model", jobs, "drawn", self._edited if editing else self._drawn)
        jobs = self._step("refiner", jobs, "refined", self._refined)
        for job in jobs:
            job.made["refined"], job.row.matched = job.made["refined"]
        jobs = self._pictures("refiner", jobs, "refined", lambda some: stack(some, "refined"))
        for job in jobs:
            given, wanted = ("refined", "subject") if job.row.category == "removal" else ("subject", "refined")
            job.made |= {"input": job.made[given], "target": job.made[wanted]}
        if not editing:
            jobs = self._pictures("view generator", jobs, "input", self._viewed)
        self._judge(self._depths(jobs, "target", "depth"))

    def _masks(self, jobs: Sequence[Job]) -> list[Job]:
        for job in jobs:
            job.made["mask"] = edit_mask(job.made["figure"], job.row.category, self.settings.margin)
            if not bool(job.made["mask"].any()):
                job.drop(EMPTY)
        return [job for job in jobs if not job.row.dropped]

    def _keys(self, jobs: Sequence[Job]) -> list[str]:
        return [f"{self.seed} pair {job.row.number}" for job in jobs]

    def _drawn(self, jobs: Sequence[Job]) -> Tensor:
        return self.models.painter.draw([job.prompt for job in jobs], self._keys(jobs), self._control(jobs))

    def _edited(self, jobs: Sequence[Job]) -> Tensor:
        pictures, masks, prompts = stack(jobs, "subject"), stack(jobs, "mask"), [job.prompt for job in jobs]
        starts = [1.0 if job.row.category == "background" else self.settings.edit_start for job in jobs]
        return self.models.painter.edit(pictures, masks, prompts, self._keys(jobs), starts, self._control(jobs))

    def _control(self, jobs: Sequence[Job]) -> Tensor | None:
        return stack(jobs, "control") if self.models.depth is not None else None

    def _refined(self, jobs: Sequence[Job]) -> list[tuple[Tensor, float | None]]:
        pictures = (stack(jobs, name) for name in ("drawn", "subject", "figure"))
        masks = stack(jobs, "mask") if jobs[0].row.editing else None
        return list(zip(*self.models.painter.refine(*pictures, self._keys(jobs), masks)))

    def _viewed(self, jobs: Sequence[Job]) -> Tensor:
        return self.models.painter.view(stack(jobs, "input"), self._keys(jobs), [job.row.word for job in jobs])

    def _judge(self, jobs: Sequence[Job]) -> None:
        """Scores, and the pictures as they are kept."""
        jobs = self._step("DINO", jobs, "dino", lambda some: numbers(self._likeness(some)))
        for job in self._step("CLIP", jobs, "clip", lambda some: numbers(self._faith(some))):
            pair, made = job.row, job.made
            pair.dino, pair.clip = made["dino"], made["clip"]
            pair.input, pair.target = self._encoded(made["input"]), self._encoded(made["target"])
            pair.mask = png(made["mask"]) if pair.editing else None
            pair.depth = png(made["depth"]) if "depth" in made else None

    def _likeness(self, jobs: Sequence[Job]) -> Tensor:
        return matched(*(self.models.dino.images(stack(jobs, name)) for name in ("input", "target")))

    def _faith(self, jobs: Sequence[Job]) -> Tensor:
        texts = self.models.clip.texts([job.row.prompt for job in jobs])
        return matched(self.models.clip.images(stack(jobs, "target")), texts)


def stack(jobs: Sequence[Job], name: str) -> Tensor:
    return torch.stack([job.made[name] for job in jobs])


def numbers(scores: Tensor) -> list[float]:
    """Scores (B,) as numbers; ValueError where one is none, which no threshold would take out."""
    if not bool(scores.isfinite().all()):
        raise ValueError("its score is no number")
    return scores.tolist()


def jpeg(picture: Tensor) -> bytes:
    """A picture (3, H, W) in 0..1 as a JPEG file's bytes, at quality 95."""
    import io

    from PIL import Image

    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=95, subsampling=0)
    return sink.getvalue()
