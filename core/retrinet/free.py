"""Retrieval without training **[ours]**: references enter the decoder's self-attention of any checkpoint.

RetriNet begins as a copy of the U-Net, so the U-Net can read references itself. What its decoder's self-attention makes
of them, keys and values, stands beside the picture's own: each pixel may look at the references as at its neighbours.
This is a mode of its own, not RetriNet; what is retrieved is less exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attention import Layer, Rows, Site, shrink
from ..denoiser import Hooks, Network
from ..diffusion import Schedule
from ..reach import Reach, Reached
from .control import TIMES
from .reference import References

LEVELS = ("all", "deep", "shallow")


class _Recorder:
    """Keeps keys and values at some sites."""

    def __init__(self, wanted: frozenset[str]):
        self.wanted, self.kept = wanted, {}

    def wants(self, site: Site) -> bool:
        return site.name in self.wanted

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        self.kept[site.name] = k, v
        return attend(q, k, v)


@dataclass
class FreeRetrieval:
    """References in a picture by its own network: a part in the decoder's self-attention.

    References act on rows that follow their prompt.

    Args:
        references: what to retrieve from.
        schedule: of the model.
        sites: of the model.
        reach: strength (below 1 a mixture with the layer's own output), and when.
        levels: resolution levels of the layers that retrieve; None is all.
        time: "cached" reads the references once, clean, at t = 0; "each" at every timestep with as much noise as the
            picture has, as the network is used to, at the price of some of that noise in the picture.
        seed: of that noise.
        steps: timesteps that the model counts, where they are more than its schedule has; None is as many.

    Raises:
        ValueError: an unknown time, or levels without such a layer.
    """

    references: References
    schedule: Schedule
    sites: Sequence[Site]
    reach: Reach = field(default_factory=Reach)
    levels: Sequence[int] | None = None
    time: str = "cached"
    seed: int = 0
    steps: int | None = None

    def __post_init__(self):
        if self.time not in TIMES:
            raise ValueError(f"mode: {self.time!r} is none of {', '.join(TIMES)}")
        there = [s for s in self.sites if s.part == "up" and s.kind == "self"]
        chosen = [s for s in there if self.levels is None or s.level in self.levels]
        if not chosen:
            known = ", ".join(map(str, sorted({s.level for s in there})))
            raise ValueError(f"levels: no layer of the decoder has self-attention there; choose from {known}")
        self._sites = frozenset(s.name for s in chosen if self.reach.strength)
        self._reached: tuple[Rows, Reached] | None = None
        self._read: tuple[int, dict[str, tuple[Tensor, Tensor]]] | None = None

    @property
    def hooks(self) -> Hooks:
        """What to put into the network call."""
        return Hooks(attention=self, before=self.read if self.reach.strength else None)

    def read(self, network: Network, rows: Rows) -> None:
        """Let the network read the references at these rows' timestep, unless it has just done so."""
        reached = Reached(self.reach, self.steps or len(self.schedule), rows)
        self._reached = rows, reached
        if not reached.some:
            return
        t = 0 if self.time == "cached" else round(float(rows.timestep[reached.on][0]))
        if self._read is not None and self._read[0] == t:
            return
        z, device = self.references.latents[0], rows.timestep.device
        if self.time == "each":
            noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(self.seed))
            z = self.schedule.noise(z, noise.to(z), t)
        recorder = _Recorder(self._sites)
        extra = {name: value.to(device) for name, value in self.references.extra.items()}
        times = torch.full((len(z),), t, device=device)
        network(z.to(device), times, self.references.tokens.to(device), recorder, **extra)
        self._read = t, {name: self._seen(*kept) for name, kept in recorder.kept.items()}

    def forget(self) -> None:
        """Let go of what was read, when a picture is done or the network has become another."""
        self._reached = self._read = None

    def wants(self, site: Site) -> bool:
        return site.name in self._sites

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        if self._reached is None or self._reached[0] is not rows:
            raise RuntimeError("the references were not read before this network call")
        reached = self._reached[1]
        if not reached.some:
            return attend(q, k, v)
        more = [x.to(q).expand(len(q), -1, -1) for x in self._read[1][site.name]]
        # every row, since another method may lie within that needs them all
        led = attend(q, *(torch.cat([own, added], 1) for own, added in zip((k, v), more)))
        if reached.every and self.reach.strength == 1:
            return led
        out = attend(q, k, v)
        return torch.where(reached.on[:, None, None], torch.lerp(out, led, self.reach.strength), out)

    def _seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the references' pixels that lie in their masks, as one row, (1, M, width)."""
        if self.references.masks is None:
            return tuple(x.flatten(0, 1)[None] for x in (k, v))
        size = (self.references.latents.shape[-2], self.references.latents.shape[-1])
        share = shrink(self.references.masks[0].to(k), k.shape[1], size)[..., 0]
        # a mask smaller than a pixel of this layer still has one
        where = (share > 0.5) | (share == share.amax(1, keepdim=True))
        return tuple(x[where][None] for x in (k, v))


def levels_of(choice: str, sites: Sequence[Site]) -> list[int]:
    """Resolution levels whose self-attention in the decoder is meant by a word.

    Args:
        choice: "all", "deep" for the coarser half of them or "shallow" for the finer half.

    Raises:
        ValueError: another word.
    """
    if choice not in LEVELS:
        raise ValueError(f"levels: {choice!r} is none of {', '.join(LEVELS)}")
    there = sorted({site.level for site in sites if site.part == "up" and site.kind == "self"})
    half = (len(there) + 1) // 2
    return {"all": there, "deep": there[-half:], "shallow": there[:half]}[choice]
