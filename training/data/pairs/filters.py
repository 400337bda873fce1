"""Which pairs are good enough, and the shards of those."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import table
from .table import Pair

PAPER = {"dino": 0.6, "clip": 0.3}  # Toffee, section 2.1
_BY_SHARE = ("clip",)  # of the demo's judges; its DINO's cosines are on the paper's scale
_WHAT = {"dino": "DINO of input and target", "clip": "CLIP of target and prompt"}


@dataclass(frozen=True)
class Filters:
    """What a pair must reach.

    Args:
        dino: least cosine of input and target by DINO; the paper's 0.6 by default.
        clip: least cosine of target and prompt by CLIP; the paper's 0.3 by default.
        quantile: share of the pairs that CLIP takes out where the demo's measures and no number is given, because its
            cosines are on another scale **[ours]**.

    Raises:
        ValueError: a share outside of 0..1.
    """

    dino: float | None = None
    clip: float | None = None
    quantile: float = 0.2

    def __post_init__(self):
        if not 0 <= self.quantile < 1:
            raise ValueError(f"quantile is {self.quantile}; it must lie within 0..1")

    def thresholds(self, folder: Path, parts: int, judges: Mapping[str, str]) -> dict[str, float]:
        """The least values, from the scores of all candidates where a share is to be taken out.

        Args:
            judges: names of both models.
        """
        given = {name: getattr(self, name) for name in PAPER}
        by_share = [name for name in _BY_SHARE if given[name] is None and judges[name] == "demo"]
        found = {name: PAPER[name] if value is None else value for name, value in given.items()}
        for name in by_share:
            scores = array("d")  # 8 bytes a pair
            for part in range(parts):
                rows = table.columns(table.file(folder, part), [name])
                scores.extend(row[name] for row in rows if row[name] is not None)
            found[name] = _smallest(scores, int(self.quantile * len(scores))) if scores else 0.0
        return found


def _smallest(numbers: array[float], place: int) -> float:
    """The number at a place of the sorted ones."""
    import numpy as np

    return float(np.partition(np.frombuffer(numbers), place)[place])


def why(pair: Mapping[str, Any], thresholds: Mapping[str, float]) -> str:
    """Why a candidate, as columns, is no pair; "" where it is one."""
    if pair["dropped"]:
        return pair["dropped"]
    return next((f"{_WHAT[n]} below {least:.3g}" for n, least in thresholds.items() if pair[n] < least), "")


@dataclass
class Shards:
    """Writes shards by number, each of the pairs of one part; one without pairs is there too."""

    candidates: Path
    out: Path
    thresholds: Mapping[str, float]

    def __call__(self, part: int) -> dict[str, int]:
        """Write a shard; returns how many pairs it has."""
        found = table.each(table.file(self.candidates, part), Pair)
        kept = [pair for pair in found if not why(vars(pair), self.thresholds)]
        table.write(table.shard(self.out, part), Pair, kept)
        return {"pairs": len(kept)}
