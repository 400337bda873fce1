"""Where a subject's tokens are drawn, step by step (HiFi Tuner, figure 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..attention import Layer, Rows, Site


@dataclass
class SubjectMaps:
    """Attention control that keeps how much of each place's attention goes to each of a subject's tokens.

    Args:
        mark: name of the subject's places.
        count: n, tokens of the subject.
        largest: layers with more positions than these are left out, but for those of the fewest, which tell the most.

    Attributes:
        seen: timestep -> (n, h, w) of float32, mean over layers, heads and pictures, at the latents' size.
    """

    mark: str
    count: int
    largest: int = 1024
    seen: dict[int, Tensor] = field(default_factory=dict)
    _layers: dict[int, int] = field(default_factory=dict)
    _fewest: int = 0  # positions of a layer, met so far

    def wants(self, site: Site) -> bool:
        return site.kind == "cross"

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        places = rows.where(self.mark, k.shape[1])
        held = places.any(1).nonzero()[:, 0]
        if len(held) and self._keeps(q.shape[1]):
            each = places[held].cumsum(1)[:, None] == torch.arange(1, self.count + 1, device=q.device)[:, None]
            where = each & places[held][:, None]  # one token a word
            parts = q[held].split(self.largest, 1)  # for a large layer's memory
            columns = torch.cat([site.columns(part, k[held], where).float().mean((0, 1)) for part in parts])  # (N, n)
            self._add(int(rows.timestep[held[0]]), columns.T, rows.size)
        return attend(q, k, v)

    def _keeps(self, positions: int) -> bool:
        """Whether a layer counts. A large picture's layers are all above the limit; then the smallest ones do."""
        if not self._fewest or positions < self._fewest:
            if self._fewest > self.largest:  # the first picture's first step began with larger ones
                self.seen.clear()
                self._layers.clear()
            self._fewest = positions
        return positions <= max(self.largest, self._fewest)

    def _add(self, timestep: int, columns: Tensor, size: tuple[int, int]) -> None:
        height, width = size
        while height * width > columns.shape[1]:
            height, width = -(-height // 2), -(-width // 2)
        maps = F.interpolate(columns.unflatten(1, (height, width))[None], size, mode="bilinear")[0].cpu()
        count = self._layers[timestep] = self._layers.get(timestep, 0) + 1
        before = self.seen.get(timestep, torch.zeros_like(maps))
        self.seen[timestep] = before + (maps - before) / count


def contact_sheet(maps: SubjectMaps, shown: int, cell: int = 96) -> Tensor:
    """A picture (3, H, W) in 0..1 of heat maps: a row for each of so many steps, from noisy to clean, a column a token.

    Each map is stretched to its own largest value.
    """
    times = sorted(maps.seen, reverse=True)
    chosen = [times[round(i * (len(times) - 1) / max(1, shown - 1))] for i in range(min(shown, len(times)))]
    rows = []
    for t in chosen:
        grey = maps.seen[t] / maps.seen[t].flatten(1).amax(1).clamp(min=1e-8)[:, None, None]
        cells = F.interpolate(grey[:, None], (cell, cell), mode="bilinear")
        framed = F.pad(heat(cells[:, 0]), (2, 2, 2, 2), value=1.0)
        rows.append(torch.cat(list(framed), -1))
    return torch.cat(rows, -2)


def heat(values: Tensor) -> Tensor:
    """Values (B, H, W) in 0..1 as colours from black over red and yellow to white, (B, 3, H, W)."""
    return torch.stack([(3 * values - i).clamp(0, 1) for i in range(3)], 1)
