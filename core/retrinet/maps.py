"""Where a RetriNet looks in its references, level by level and step by step (RetriBooru, figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..hifi.maps import heat

SHADE = 0.35  # how much of the reference shows through


@dataclass
class RetrievalMaps:
    """A `control.Watch` that keeps what was looked at.

    Attributes:
        seen: skip name -> timestep -> (N, h, w) of float32, mean over pictures; sums to 1 over all references.
    """

    seen: dict[str, dict[float, Tensor]] = field(default_factory=dict)
    _calls: dict[tuple[str, float], int] = field(default_factory=dict)

    def __call__(self, name: str, timestep: float, looked: Tensor) -> None:
        maps = looked.float().mean(0).cpu()
        count = self._calls[name, timestep] = self._calls.get((name, timestep), 0) + 1
        times = self.seen.setdefault(name, {})
        times[timestep] = times.get(timestep, torch.zeros_like(maps)).lerp(maps, 1 / count)

    @property
    def times(self) -> list[float]:
        """The timesteps, from noise to clean."""
        return sorted({t for times in self.seen.values() for t in times}, reverse=True)


def contact_sheet(maps: RetrievalMaps, pictures: Sequence[Tensor], shown: int, cell: int = 96) -> Tensor:
    """Heat maps over references, (3, H, W) in 0..1.

    A block of rows for each reference, a row for each of so many steps, from noise to clean; first the reference
    itself, then a column for each level, from the finest to the middle. Each map is stretched to its own largest value.

    Args:
        pictures: the references, (3, S, S) in 0..1 each.

    Raises:
        ValueError: nothing was looked at.
    """
    times = maps.times
    if not times:
        raise ValueError("maps: the references were never looked at; raise the strength, or widen start and end")
    chosen = [times[round(i * (len(times) - 1) / max(1, shown - 1))] for i in range(min(shown, len(times)))]
    rows = []
    for i, picture in enumerate(pictures):
        small = F.interpolate(picture[None], (cell, cell), mode="bilinear", antialias=True)[0]
        rows += [_row(small, [steps[t][i] for steps in maps.seen.values() if t in steps]) for t in chosen]
    return torch.cat(rows, -2)


def _row(picture: Tensor, maps: Sequence[Tensor]) -> Tensor:
    cells = [picture]
    for values in maps:
        stretched = F.interpolate((values / values.max().clamp(min=1e-8))[None, None], picture.shape[-2:])[0]
        cells.append(heat(stretched)[0].lerp(picture.mean(0).expand_as(picture), SHADE))
    return F.pad(torch.stack(cells), (2, 2, 2, 2), value=1.0).movedim(0, -2).flatten(-2)
