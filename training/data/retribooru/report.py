"""What a data set has, and what was left out and why: as JSON, as text, and as the paper's three plots (Fig. 2)."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....core import files
from . import parts
from .identities import Groups

JSON, TEXT, PLOT, DROPPED = "report.json", "report.txt", "statistics.png", "dropped.jsonl"
_EXAMPLES = 8  # ids of each reason
_CHARACTERS, _GARMENTS = 15, 30  # as many as the paper's figure has
_COLUMNS = ("id", "file", "character", "clothes", "dropped", "detail")


def count(annotations: Path, number: int, groups: Groups, out: Path) -> dict[str, Any]:
    """Count all parts, and list every dropped picture in `dropped.jsonl`: id, file, why, and an error's words."""
    reasons: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    characters: Counter[str] = Counter()
    garments: Counter[str] = Counter()
    beside = out / f".{DROPPED}.part"
    with beside.open("w", encoding="utf-8") as listed:
        for part in range(number):
            for fields in parts.columns(annotations, part, _COLUMNS):
                why = fields["dropped"] or groups.dropped.get(fields["id"], "")
                if not why:
                    characters[fields["character"]] += 1
                    garments.update(fields["clothes"])
                    continue
                reasons[why] += 1
                if reasons[why] <= _EXAMPLES:
                    examples.setdefault(why, []).append(fields["id"])
                line = {"id": fields["id"], "file": fields["file"], "why": why, "detail": fields["detail"]}
                listed.write(json.dumps(line, ensure_ascii=False) + "\n")
        listed.flush()
        os.fsync(listed.fileno())
    os.replace(beside, out / DROPPED)
    sizes = Counter(len(members) - 1 for members in groups.identities for _ in members)
    kept = sum(sizes.values())
    return {
        "pictures": kept + sum(reasons.values()),
        "samples": kept,
        "identities": len(groups.identities),
        "similar": {str(n): sizes[n] for n in sorted(sizes)},
        "characters": dict(characters.most_common(_CHARACTERS)),
        "garments": dict(garments.most_common(_GARMENTS)),
        "dropped": {why: {"pictures": n, "examples": examples[why]} for why, n in reasons.most_common()},
    }


def write(out: Path, report: Mapping[str, Any]) -> None:
    """The three files; without matplotlib the text says that there are no plots."""
    plotted = plot(report)
    if plotted is not None:
        files.write_atomically(out / PLOT, plotted)
    text_of = text(report) + (
        "" if plotted or not report["samples"] else "\n\nno plots: they need matplotlib (pip install matplotlib)"
    )
    files.write_atomically(out / TEXT, (text_of + "\n").encode())
    files.write_atomically(out / JSON, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())


def text(report: Mapping[str, Any]) -> str:
    """The report to be read."""
    samples, pictures = report["samples"], report["pictures"]
    lines = [f"{samples} samples of {report['identities']} identities, out of {pictures} pictures", ""]
    lines += ["similar pictures a sample"] + [f"  {n:>6}  {c} samples" for n, c in report["similar"].items()]
    for name, title in (("characters", "characters, most samples first"), ("garments", "clothing tags, most first")):
        lines += ["", title] + [f"  {n:>6}  {tag}" for tag, n in report[name].items()]
    lines += ["", f"dropped, {pictures - samples} pictures; each is listed in {DROPPED}"]
    for why, found in report["dropped"].items():
        lines.append(f"  {found['pictures']:>6}  {why}, as {', '.join(found['examples'][:3])}")
    return "\n".join(lines)


def plot(report: Mapping[str, Any]) -> bytes | None:
    """Lengths of the similar lists, top characters, top clothing tags (Fig. 2, right), a PNG file's bytes.

    None without matplotlib, or where there is no sample.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    if not report["samples"]:
        return None
    figure = Figure(figsize=(15, 6), layout="constrained")
    lengths, characters, garments = figure.subplots(1, 3)
    lengths.bar([int(n) for n in report["similar"]], list(report["similar"].values()), color="tab:blue")
    lengths.set(title="similar pictures a sample", xlabel="similar pictures", ylabel="samples")
    lengths.locator_params(integer=True)
    for axes, name in ((characters, "characters"), (garments, "garments")):
        found = report[name]
        axes.barh([tag.replace("$", r"\$") for tag in found], list(found.values()), color="tab:blue")
        axes.invert_yaxis()
        axes.set(title=name, xlabel="samples")
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=80)
    return sink.getvalue()
