"""Results of a comparison of methods, as `python benchmarks/evidence` writes them: read, checked, summed up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.metrics.similarity import Interval, paired_bootstrap

FORMAT = 1
PARTS = ("setting", "methods", "tuning", "curves", "recipes", "segmented")


def blank() -> dict[str, Any]:
    """Results of nothing yet."""
    return {"format": FORMAT, **{part: {} for part in PARTS}, "claims": [], "bar": []}


def read(path: Path) -> dict[str, Any]:
    """Results from a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or another format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"results: no file {path}; `python benchmarks/evidence` writes one")
    try:
        found = json.loads(path.read_text())
    except ValueError as e:
        raise ValueError(f"results: {path.name} is no JSON ({e}); measure again, or copy it again") from e
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"results: {path.name} has no format {FORMAT}, which is read here; measure again")
    return {**blank(), **found}


def values(results: Mapping[str, Any], method: str, metric: str) -> dict[str, list[float]]:
    """Subject -> numbers by prompt; empty where it was not measured."""
    subjects = results["methods"].get(method, {}).get("subjects", {})
    return {name: found[metric] for name, found in subjects.items() if metric in found}


def mean(results: Mapping[str, Any], method: str, metric: str, prompts: Sequence[int] | None = None) -> Interval | None:
    """Mean over subjects with its interval; None where it was not measured.

    Args:
        prompts: numbers of the prompts to look at; all by default.
    """
    found = values(results, method, metric)
    if prompts is not None:
        found = {name: [numbers[i] for i in prompts] for name, numbers in found.items()}
    return interval(found)


def trained_on(results: Mapping[str, Any], method: str) -> tuple[Any, ...]:
    """What rows that are compared share, as far as they say: base, settings, steps (of a longer run, before that)."""
    row = results["methods"].get(method, {})
    return row.get("base"), row.get("learn"), row.get("unit", row.get("steps"))


def difference(results: Mapping[str, Any], one: str, other: str, metric: str) -> Interval | None:
    """One method less the other, on the subjects that both were measured on.

    None where there is none, or where they were trained on different things, see `trained_on`.
    """
    if trained_on(results, one) != trained_on(results, other):
        return None
    a, b = (values(results, name, metric) for name in (one, other))
    return interval({name: [x - y for x, y in zip(a[name], b[name])] for name in a if name in b})


def interval(by_subject: Mapping[str, Sequence[float]]) -> Interval | None:
    """A mean of subjects' numbers with its 95% interval, NaN for a single subject; None without any."""
    if not by_subject:
        return None
    if len(by_subject) > 1:
        return paired_bootstrap(by_subject)
    (own,) = by_subject.values()
    return Interval(sum(own) / len(own), math.nan, math.nan, 1)


def told(found: Interval | None, digits: int = 3, signed: bool = False) -> str:
    """ "0.512 [0.480, 0.544]"; "" for nothing."""
    if found is None:
        return ""
    sign = "+" if signed else ""
    text = f"{found.mean:{sign}.{digits}f}"
    return text if math.isnan(found.low) else f"{text} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"


def findings(claim: Mapping[str, Any]) -> list[str]:
    """What was measured of a claim, each marked by whether it holds, what is open, and the note."""
    marks = ["✓ " if holds else "✗ " for holds in claim.get("holds", [])] or [""] * len(claim["found"])
    lines = [mark + text for mark, text in zip(marks, claim["found"], strict=True)]
    return [line for line in (*lines, *_open(claim.get("open", [])), claim.get("note", "")) if line]


def holding(claim: Mapping[str, Any]) -> str:
    """Of a claim that is not reproduced: how many of its findings hold."""
    held = claim.get("holds", [])
    return f": {sum(held)} of {len(held)} hold" if claim["verdict"] == "not reproduced" and len(held) > 1 else ""


def _open(missing: Sequence[str]) -> list[str]:
    """What is not decided, in one line."""
    more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
    return [f"not measured: {missing[0].rstrip(': ')}{more}"] if missing else []
