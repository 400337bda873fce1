"""A comparison's main numbers in short, for a README: `likeness evaluate summary`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core import files
from . import charts, comparison, report
from .comparison import told

COLUMNS = ("seg_dino", "seg_clip_i", "clip_t", "colour")
PAID = ("storage", "train_seconds", "seconds")
PLOT = ("clip_t", "seg_dino")


@dataclass(frozen=True)
class Config:
    """Print a comparison's main table as Markdown.

    Args:
        results: JSON file that `python benchmarks/evidence` writes.
        methods: rows to show, in this order; all that were measured by default.
        out: file to write the table to, too.
        plot: PNG of likeness against faith to the prompt to write.
        curves: PNG of the metrics along the training to write.
        claims: Markdown file to write the papers' claims to, with what was measured of each.
    """

    results: Path = Path("benchmarks/results/evidence.json")
    methods: tuple[str, ...] = ()
    out: Path | None = None
    plot: Path | None = None
    curves: Path | None = None
    claims: Path | None = None


def run(config: Config) -> str:
    """The table; files are written where they are asked for.

    Raises:
        FileNotFoundError: no results.
        ValueError: no such results, or a method that was not measured.
    """
    results = comparison.read(config.results)
    there = report.measured(results)
    if unknown := [name for name in config.methods if name not in there]:
        raise ValueError(f"methods: {unknown[0]!r} was not measured; choose from {', '.join(there) or 'none'}")
    names = config.methods or there
    text = table(results, names)
    if config.plot is not None:
        files.write_atomically(config.plot, plot(results, names))
    if config.out is not None:
        files.write_atomically(config.out, f"{text}\n".encode())
    if config.curves is not None:
        files.write_atomically(config.curves, curves(results))
    if config.claims is not None:
        files.write_atomically(config.claims, claims(results).encode())
    return text


def table(results: Mapping[str, Any], names: Sequence[str]) -> str:
    """Rows of methods, metrics that any of them has, costs, as Markdown."""
    metrics = [m for m in COLUMNS if any(comparison.mean(results, name, m) for name in names)]
    heads = ["", *(report.METRICS[m] for m in metrics), *(report.COSTS[key][0] for key in PAID)]
    rows = [heads, ["---"] * len(heads)]
    most = max(len(results["methods"][name]["subjects"]) for name in names)
    for name in names:
        costs, count = results["methods"][name].get("costs", {}), len(results["methods"][name]["subjects"])
        fewer = "" if count == most else f" ({count} of {most} subjects)"
        found = [told(comparison.mean(results, name, m)) for m in metrics]
        rows.append([name + fewer, *found, *(report.told_cost(costs.get(key), report.COSTS[key][1]) for key in PAID)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def curves(results: Mapping[str, Any], shown: int = 4) -> bytes:
    """PNG of the first plots of more training steps, two beside each other.

    Raises:
        ValueError: nothing was followed along its training.
    """
    from .data.photos import png

    plots = list(report.curves(results).values())[:shown]
    if not plots:
        raise ValueError("curves: none were measured; run python benchmarks/evidence --parts curves")
    rows = [torch.cat([*plots[i : i + 2], *[torch.ones_like(plots[0])] * (i + 2 > len(plots))], 1)
            for i in range(0, len(plots), 2)]  # fmt: skip
    return png(torch.cat(rows).permute(2, 0, 1))


def claims(results: Mapping[str, Any]) -> str:
    """A page of the papers' claims as Markdown: verdict, and each number with whether it holds.

    Raises:
        ValueError: no claims have been judged.
    """
    if not results["claims"]:
        raise ValueError("claims: none were judged; run python benchmarks/evidence --parts claims")
    counts = Counter(claim["verdict"] for claim in results["claims"])
    lines = ["# What the papers claim", "", ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) + ".", ""]
    lines += ["| | paper | claim | verdict | measured here |", "|---|---|---|---|---|"]
    for claim in results["claims"]:
        source, verdict = f"{claim['paper']}, {claim['where']}", claim["verdict"] + comparison.holding(claim)
        cells = (str(claim["number"]), source, claim["text"], verdict, "<br>".join(comparison.findings(claim)))
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """PNG: up is more like the subject, right is more like the prompt.

    Raises:
        ValueError: no method has both metrics.
    """
    from .data.photos import png

    shown = {p.name: p for p in report.points(results, *PLOT)}
    x, y = (report.METRICS[m] for m in PLOT)
    return png(charts.scatter([shown[n] for n in names if n in shown], x, y).permute(2, 0, 1))
