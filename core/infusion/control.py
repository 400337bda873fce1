"""The two streams of Infusion inside every cross-attention layer.

The customised stream C uses the foundation stream's maps M, and its concept word's value has a residual D (Eq. 7), so

    out_C = M V + sum over the word's tokens of their column of M (x) D

needs no query, key or softmax of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from ..attention import Layer, Rows, Site, shrink
from ..denoiser import Hooks
from ..reach import Reach
from .concept import Concept


@dataclass(frozen=True)
class Use:
    """A concept in a picture.

    Args:
        concept: what was learned.
        strength: multiplies the residuals; 0 is the untouched model, 1 what was learned.
        start_percent, end_percent: share of the noise schedule within which it works, 0 (pure noise) to 1 (clean)
            **[ours]**.
        mask: where it may work, (1 or B, H, W) in 0..1 of any size; None is everywhere **[ours]**.

    Raises:
        ValueError: start and end that are not within 0..1 in this order, or a mask of the wrong shape.
    """

    concept: Concept
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    mask: Tensor | None = field(default=None, repr=False)

    def __post_init__(self):
        _ = self.reach
        if self.mask is not None and self.mask.ndim != 3:
            raise ValueError(f"mask has shape {tuple(self.mask.shape)}, wanted (1 or batch, height, width)")

    @property
    def reach(self) -> Reach:
        return Reach(self.strength, self.start_percent, self.end_percent)


def check_words(uses: Sequence[Use]) -> tuple[str, ...]:
    """All words that the concepts stand at, each once.

    Raises:
        ValueError: two concepts on one word.
    """
    words: dict[str, None] = {}
    for use in uses:
        for word in use.concept.words:
            if word in words:
                raise ValueError(f"two concepts share the word {word!r}; train one of them on another word")
            words[word] = None
    return tuple(words)


def residual_of(
    residuals: Mapping[str, Tensor], space: str, site: Site, timestep: Tensor, steps: int, like: Tensor, layer: Layer
) -> Tensor | None:
    """A concept's residual values at a site for each row, (R, words, site width); None where it has none.

    Args:
        timestep: (R,), which choose the time bin.
        like: tensor whose type and device the values take.
    """
    if site.name not in residuals:
        return None
    residual = residuals[site.name].to(like.device)
    bins = (timestep * residual.shape[1] / steps).long().clamp(0, residual.shape[1] - 1)
    chosen = residual[:, bins].transpose(0, 1).to(like.dtype)
    return layer.values(chosen) if space == "text" else chosen


def add_values(site: Site, columns: Tensor, values: Tensor) -> Tensor:
    """The outer product of attention columns (R, heads, N, W) and values (R, W, width), (R, N, width)."""
    return rearrange(columns @ site.split(values), "r h n d -> r n (h d)")


@dataclass
class Infusion:
    """Attention control of both streams: rows of stream 0 are the foundation's, of stream 1 the customised ones.

    Args:
        uses: the concepts in use, each on words of its own.
        steps: length of the model's noise schedule.
        swap: False is the ablation without the foundation's maps (one stream, its own maps) **[the released code]**.

    Raises:
        ValueError: no concept, or two on one word.
    """

    uses: Sequence[Use]
    steps: int = 1000
    swap: bool = True

    def __post_init__(self):
        if not self.uses:
            raise ValueError("no concept to use")
        self.words = check_words(self.uses)
        self._plan: _Plan | None = None

    @property
    def hooks(self) -> Hooks:
        return Hooks(attention=self, streams=2 if self.swap else 1, words=self.words)

    def wants(self, site: Site) -> bool:
        return site.kind == "cross" and (self.swap or any(site.name in use.concept.residuals for use in self.uses))

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        plan = self._planned(rows, k.shape[1])
        if not self.swap:
            return attend(q, k, self._changed(plan, site, v, attend))
        out, q, k = torch.empty_like(q), q[plan.first], k[plan.first]
        foundation = attend(q, k, v[plan.first]).to(out.dtype)
        out[plan.first] = foundation
        out[plan.second] = self._infused(plan, site, q, k, foundation, rows.size, attend)
        return out

    def _planned(self, rows: Rows, tokens: int) -> _Plan:
        """What holds for all layers of one network call."""
        plan = self._plan
        if plan is None or plan.rows is not rows or plan.marks.shape[-1] != tokens:
            self._plan = plan = _Plan.of(rows, self.words, tokens)
        return plan  # another thread, of another device, may have put its own there

    def _infused(
        self, plan: _Plan, site: Site, q: Tensor, k: Tensor, out: Tensor, size: tuple[int, int], attend: Layer
    ) -> Tensor:
        """The foundation's attention output with the residuals in the rows that hold their words."""
        for use, values, where in self._values(plan, site, q, attend):
            columns = site.columns(q[plan.follow], k[plan.follow], where)
            if use.mask is not None:
                mask = shrink(use.mask.to(q.device), q.shape[1], size).to(columns.dtype)
                columns = columns * mask[plan.picture % len(mask)][:, None]
            out = out.index_add(0, plan.follow, add_values(site, columns, values).to(out.dtype))
        return out

    def _changed(self, plan: _Plan, site: Site, v: Tensor, attend: Layer) -> Tensor:
        """Values with the residuals at their words: the ablation."""
        for _, values, where in self._values(plan, site, v, attend):
            v = v.index_add(0, plan.follow, where.transpose(1, 2).to(v) @ values)
        return v

    def _values(self, plan: _Plan, site: Site, like: Tensor, attend: Layer) -> Iterator[tuple[Use, Tensor, Tensor]]:
        """Each use with its values (R, words, width) and positions (R, words, L) in the rows that hold a word."""
        for use in self.uses if len(plan.follow) else ():
            concept = use.concept
            values = residual_of(concept.residuals, concept.space, site, plan.timestep, self.steps, like, attend)
            if values is not None:
                weight = use.reach.weight(plan.timestep, self.steps).to(values.dtype)
                marks = plan.marks[:, [self.words.index(word) for word in concept.words]]
                yield use, values * weight[:, None, None], marks


@dataclass(frozen=True)
class _Plan:
    """Which rows do what in one network call.

    Args:
        first, second: rows of the two streams, in the same order.
        follow: (n,), places among the first stream's rows of those that hold a word in a prompt to be drawn towards.
        marks: bool, (n, words, L), where the words stand in them.
        timestep, picture: (n,), as in the rows.
    """

    rows: Rows
    first: Tensor
    second: Tensor
    follow: Tensor
    marks: Tensor
    timestep: Tensor
    picture: Tensor

    @classmethod
    def of(cls, rows: Rows, words: tuple[str, ...], tokens: int) -> _Plan:
        first, second = ((rows.stream == s).nonzero()[:, 0] for s in (0, 1))
        marks = torch.stack([rows.where(word, tokens)[first] for word in words], 1)
        if bool((marks.sum(1) > 1).any()):
            raise ValueError(f"two of the words {', '.join(words)} stand on one token; use one of them at a time")
        follow = (marks.flatten(1).any(1) & rows.conditional[first]).nonzero()[:, 0]
        chosen = first[follow]
        return cls(rows, first, second, follow, marks[follow], rows.timestep[chosen], rows.picture[chosen])
