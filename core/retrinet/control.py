"""RetriNet in a network call: what the levels retrieve is added to the skips, the decoder works as it was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attention import Rows
from ..denoiser import Hooks
from ..reach import Reach, Reached
from ..skips import Skip
from ..weights import Changed
from .lookup import Encoded
from .network import RetriNet
from .reference import References

TIMES = ("each", "cached")
AT_ONCE = 2**24  # scores of a row in memory
# told what was looked at: (skip name, timestep, (R, N, h, w): each row's attention, summing to 1 over all references)
Watch = Callable[[str, float, Tensor], None]


@dataclass
class Retrieval:
    """References in a picture: RetriNet's part in the skips.

    References act on rows that follow their prompt, not on those of the negative one **[ours]**.

    Args:
        network: the RetriNet, on the model's device.
        references: what to retrieve from.
        steps: timesteps of the model's noise schedule.
        reach: strength, and when.
        levels: skip names at which it retrieves; None is all that it was trained for **[ours]**.
        time: "each" reads the references anew at every timestep (paper), "cached" once at t = 0 **[ours, fast]**.
        watch: told what is looked at.

    Raises:
        ValueError: an unknown time or unknown levels.
    """

    network: RetriNet
    references: References
    steps: int
    reach: Reach = field(default_factory=Reach)
    levels: Sequence[str] | None = None
    time: str = "each"
    watch: Watch | None = None

    def __post_init__(self):
        if self.time not in TIMES:
            raise ValueError(f"mode: {self.time!r} is none of {', '.join(TIMES)}")
        trained = self.network.levels
        if unknown := [name for name in self.levels or () if name not in trained]:
            raise ValueError(f"levels: {', '.join(unknown)} not in this RetriNet; it has {', '.join(trained)}")
        self._levels = (
            frozenset(trained if self.levels is None else self.levels) if self.reach.strength else frozenset()
        )
        self._call: _Call | None = None

    @property
    def hooks(self) -> Hooks:
        """What to put into the network call."""
        delta = self.network.delta
        return Hooks(skips=self, weights=None if delta is None else Changed(delta, self.reach, self.steps))

    def wants(self, skip: Skip) -> bool:
        return skip.name in self._levels

    def __call__(self, skip: Skip, features: Tensor, rows: Rows) -> Tensor | None:
        if self._call is None or self._call.rows is not rows:
            self._call = self._next(rows)
        call, lookup = self._call, self.network.lookup(skip.name)
        reached = call.reached
        if not reached.some:
            return None
        asking = features[reached.on].to(lookup.to_q.weight.dtype)
        if skip.name not in call.keys:
            call.keys[skip.name] = lookup.keys(call.encoded.features[skip.name], call.encoded.mask(skip.name))
        k, v, mask = (call.each(x) for x in call.keys[skip.name])
        if self.watch:
            seen = call.encoded.unfold(skip.name, looked_at(lookup.queries(asking), k, mask))
            self.watch(skip.name, float(rows.timestep[reached.on][0]), seen)
        found = reached.scale(lookup(asking, k, v, mask)).to(features.dtype)
        if reached.every:
            return found
        residual = torch.zeros_like(features)
        residual[reached.on] = found
        return residual

    def forget(self) -> None:
        """Let go of what was read, when a picture is done."""
        self._call = None

    def _next(self, rows: Rows) -> _Call:
        """What is known about a new network call; references read at the same timestep before are not read again."""
        last, reached = self._call, Reached(self.reach, self.steps, rows)
        if not reached.some:
            return _Call(rows, reached, last and last.t, last and last.encoded, last.keys if last else {})
        batch = len(self.references.latents)
        t = rows.timestep.new_zeros(batch)
        if self.time == "each":
            picture = rows.picture[reached.on] if batch > 1 else torch.zeros_like(rows.picture[reached.on])
            t = t.index_copy(0, picture, rows.timestep[reached.on])
        learning = torch.is_grad_enabled() and any(p.requires_grad for p in self.network.parameters())
        if last is not None and last.t is not None and not learning and torch.equal(t, last.t):
            return _Call(rows, reached, t, last.encoded, last.keys)
        return _Call(rows, reached, t, self.network.encode(self.references, t), {})


@dataclass
class _Call:
    """One network call: its rows, the references as they were read for it, their keys, values and masks by level."""

    rows: Rows
    reached: Reached
    t: Tensor | None
    encoded: Encoded | None
    keys: dict[str, tuple[Tensor, Tensor, Tensor | None]]

    def each(self, x: Tensor | None) -> Tensor | None:
        """Every row's own part of something that references have, (B, ...) -> (R, ...)."""
        if x is None:
            return None
        picture = self.rows.picture[self.reached.on]
        return x.expand(len(picture), *x.shape[1:]) if len(x) == 1 else x[picture]


def looked_at(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """How much of the attention each pixel of the references gets, mean over heads and pixels of the picture, (R, M).

    Args:
        q, k: (R, heads, M', width) and (R, heads, M, width).
        mask: bool, (R, M).
    """
    pixels = q.shape[2]
    some = max(1, AT_ONCE // (k.shape[1] * k.shape[2]))
    total = torch.zeros(len(q), k.shape[2], device=q.device)
    for part in q.split(some, 2):
        scores = part.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
        total += scores.softmax(-1).sum(2).mean(1)
    return total / pixels
