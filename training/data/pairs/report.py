"""What was made, what was left out and why, what it took and what a million pairs would; a contact sheet."""

from __future__ import annotations

import json
import os
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ....core import files
from ....core.demo.sheet import contact_sheet
from .. import photos
from . import filters, plan, table
from .prompts import CATEGORIES

JSON, TEXT, DROPPED, TOOK, SHEET = "report.json", "report.txt", "dropped.jsonl", "took.json", "pairs.jpg"
_EXAMPLES = 8  # numbers of each reason
_SIDE = 160  # pixels of a picture on the contact sheet, at most
_MILLION = 1_000_000


def write(
    out: Path, parts: int, planned: int, thresholds: Mapping[str, float], sheet: int, seed: int, price: float
) -> dict[str, Any]:
    """Count everything, and write the report's files; returns it with `took`, which is not the same twice.

    Args:
        parts, planned: of subjects and of pairs.
        sheet: pairs on the contact sheet.
        price: of a worker's hour.
    """
    work = out / "work"
    subjects, pairs = Tally("subject"), Tally("pair")
    with replaced(out / DROPPED) as listed:
        for tally, lines in ((subjects, _subjects(work, parts)), (pairs, _pairs(work, planned, thresholds))):
            for part, line in lines:
                if tally.count(part, line):
                    listed.write(json.dumps(tally.told(line), ensure_ascii=False) + "\n")
    left_out = plan.load_prompts(work / plan.LIST)[1]
    kept = sum(pairs.kept.values())
    found = {
        "pairs": kept,
        "generation": pairs.of["generation"],
        "editing": pairs.of["editing"],
        "categories": {name: pairs.of[name] for name in CATEGORIES},
        "made": {tally.what: tally.made for tally in (subjects, pairs)},
        "subjects": sum(subjects.kept.values()),
        "thresholds": thresholds,
        "dropped": {tally.what: tally.reasons() for tally in (subjects, pairs)},
    }
    found["dropped"]["prompt"] = {why: {"count": n, "examples": []} for why, n in left_out.items()}
    if sheet and kept:
        draw_sheet(out, pairs.some(sheet, seed), out / SHEET)
    drawn = {"subject": subjects.made, "pair": pairs.made - pairs.dropped[plan.REPEATED]}
    told = {**found, "took": took(work, drawn, kept, price)}
    files.write_atomically(out / TOOK, (json.dumps(told["took"], indent=2) + "\n").encode())
    files.write_atomically(out / TEXT, (text(found) + "\n").encode())
    files.write_atomically(out / JSON, (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())
    return told


@dataclass
class Tally:
    """Counts rows, so that none of them has to stay in memory.

    Args:
        what: they are.

    Attributes:
        made: how many.
        kept: how many in each part.
        of: how many of those of each kind and category.
        dropped, examples: how many for each reason, and the first of them.
    """

    what: str
    made: int = 0
    kept: Counter[int] = field(default_factory=Counter)
    of: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)

    def count(self, part: int, line: Mapping[str, Any]) -> bool:
        """Count a row; whether it is dropped."""
        self.made += 1
        if not line["why"]:
            self.kept[part] += 1
            self.of.update(line["of"])
            return False
        self.dropped[line["why"]] += 1
        if self.dropped[line["why"]] <= _EXAMPLES:
            self.examples.setdefault(line["why"], []).append(line["number"])
        return True

    def told(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """A dropped row, to be listed."""
        return {"what": self.what, **{name: line[name] for name in ("number", "why", "detail")}}

    def reasons(self) -> dict[str, Any]:
        return {why: {"count": n, "examples": self.examples[why]} for why, n in self.dropped.most_common()}

    def some(self, count: int, seed: int) -> list[tuple[int, int]]:
        """Random kept rows, as part and place in its shard."""
        ends = list(accumulate(n for _, n in sorted(self.kept.items())))
        parts = sorted(self.kept)
        found = []
        for chosen in sorted(random.Random(f"{seed} sheet").sample(range(ends[-1]), min(count, ends[-1]))):
            i = bisect_right(ends, chosen)
            found.append((parts[i], chosen - (ends[i - 1] if i else 0)))
        return found


@contextmanager
def replaced(path: Path) -> Iterator[IO[str]]:
    """A text file to be written bit by bit, and put into its place whole."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _subjects(work: Path, parts: int) -> Iterator[tuple[int, dict[str, Any]]]:
    alike = {line["number"]: line for line in plan.read(work / plan.PLAN / plan.ALIKE)}
    for part in range(parts):
        for row in table.columns(table.file(work / plan.SUBJECTS, part), ("number", "dropped", "detail")):
            line = {"number": row["number"], "why": row["dropped"], "detail": row["detail"], "of": ()}
            if again := alike.get(row["number"]):
                line |= {"why": "near-identical to another", "detail": f"{again['of']}, cosine {again['cosine']}"}
            yield part, line


def _pairs(work: Path, parts: int, thresholds: Mapping[str, float]) -> Iterator[tuple[int, dict[str, Any]]]:
    names = ("number", "editing", "category", "dino", "clip", "dropped", "detail")
    for part in range(parts):
        for row in table.columns(table.file(work / plan.CANDIDATES, part), names):
            of = ("editing" if row["editing"] else "generation", row["category"])
            line = {"number": row["number"], "why": filters.why(row, thresholds), "detail": row["detail"], "of": of}
            yield part, line


def lost_subjects(work: Path, parts: int) -> str:
    """Why there are no subjects, in a line."""
    rows = (r for part in range(parts) for r in table.columns(table.file(work / plan.SUBJECTS, part), ["dropped"]))
    return ", ".join(f"{n} {why}" for why, n in Counter(row["dropped"] for row in rows).most_common())


def took(work: Path, made: Mapping[str, int], kept: int, price: float) -> dict[str, float]:
    """Workers' seconds without starting, and an estimate for a million pairs of as many subjects a pair.

    Parts whose seconds an interruption took along count as long as the others.

    Args:
        made: how many subjects and pairs; planned repeats, which cost nothing, are none.
        kept: pairs.
        price: of a worker's hour.
    """
    each = {what: _seconds(work, folder) for what, folder in (("subject", plan.SUBJECTS), ("pair", plan.CANDIDATES))}
    whole = sum(each[what] * made[what] for what in each)
    hours = whole / kept * _MILLION / 3600 if kept else 0.0
    return {
        "worker seconds": round(whole, 3),
        "seconds a subject": round(each["subject"], 4),
        "seconds a pair made": round(each["pair"], 4),
        "seconds a pair kept, with its subjects": round(whole / max(1, kept), 4),
        "pairs kept in a worker's hour": round(3600 * kept / whole, 1) if whole else 0.0,
        "worker hours of 1 M pairs": round(hours, 1),
        "price of 1 M pairs": round(hours * price, 2),
    }


def _seconds(work: Path, folder: str) -> float:
    """Of a row, in the mean."""
    told = [json.loads(file.read_text()) for file in sorted((work / "seconds").glob(f"{folder}-*.json"))]
    return sum(each["seconds"] for each in told) / max(1, sum(each["rows"] for each in told))


def text(report: Mapping[str, Any]) -> str:
    """The report to be read."""
    made, kept, limits = report["made"], report["pairs"], report["thresholds"]
    lines = [
        f"{kept} pairs ({report['generation']} generation, {report['editing']} editing) out of {made['pair']}, "
        f"of {report['subjects']} subjects out of {made['subject']}",
        f"least DINO of input and target {limits['dino']:.3f}, least CLIP of target and prompt {limits['clip']:.3f}",
        "",
        "categories",
        *(f"  {n:>7}  {name}" for name, n in report["categories"].items()),
    ]
    for what, reasons in report["dropped"].items():
        lines += ["", f"dropped {what}s" + (f"; each is listed in {DROPPED}" if what != "prompt" else "")]
        lines += [f"  {found['count']:>7}  {why}" for why, found in reasons.items()] or ["        0"]
    if "took" in report:
        lines += ["", "what it took"] + [f"  {value:>12,.2f}  {name}" for name, value in report["took"].items()]
    return "\n".join(lines)


# --- the contact sheet -----------------------------------------------------------------------------------------------


def draw_sheet(out: Path, places: Sequence[tuple[int, int]], file: Path) -> None:
    """Pairs at places (part, row of its shard): input, target, and of editing pairs where they may differ."""
    rows = []
    for part, number in places:
        pair = table.row(table.shard(out, part), number)
        shown = [photos.decode(data) for data in (pair.input, pair.target, pair.mask) if data is not None]
        label = f"{pair.number} {pair.category}: {pair.prompt} (DINO {pair.dino:.2f}, CLIP {pair.clip:.2f})"
        rows.append((label, torch.stack([_thumbnail(picture) for picture in shown])))
    contact_sheet(rows, file, ("input", "target", "may change"))


def _thumbnail(picture: Tensor) -> Tensor:
    side = min(_SIDE, picture.shape[-1])
    return photos.resize(picture, side, side)
