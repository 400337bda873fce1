"""How a method takes part in a U-Net's attention, whichever program runs the U-Net.

A runtime (`core.diffusers`, `nodes.denoiser`) tells a method's `AttentionControl` about every attention layer as a
`Site`, and about every row of the batch as `Rows`. The control sees the projected q, k, v and answers with the
attention output, before the layer's output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


class Layer(Protocol):
    """What a runtime lends of one of its attention layers."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The runtime's own attention, (R, N, width), with whatever was patched in before; some rows will do."""

    def values(self, context: Tensor) -> Tensor:
        """The layer's value projection (LoRA included) of text vectors, (..., context) -> (..., width)."""


@dataclass(frozen=True)
class Site:
    """One attention layer of a U-Net.

    Args:
        name: the same in every runtime, `part.level.index.block.kind`, as in "down.1.0.0.cross".
        part: "down", "mid" or "up".
        level: resolution level; 0 is the latent's own resolution, each further level halves it.
        kind: "cross" (text) or "self".
        order: position in the order of execution, from 0.
        heads: number of heads.
        width: channels of q, of v and of the output; heads times the width of one head.
        context: channels that k and v are projected from (the text's width at a cross-attention site).
    """

    name: str
    part: str
    level: int
    kind: str
    order: int
    heads: int
    width: int
    context: int

    def split(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, heads, N, width / heads)."""
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)

    def merge(self, x: Tensor) -> Tensor:
        """(B, heads, N, width / heads) -> (B, N, width)."""
        return rearrange(x, "b h n d -> b n (h d)")

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Scaled logits of every query and key, (B, heads, N, L)."""
        q, k = self.split(q), self.split(k)
        return (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # the scaling first: half precision overflows

    def columns(self, q: Tensor, k: Tensor, where: Tensor) -> Tensor:
        """How much of each pixel's attention goes to some words, without keeping the full maps.

        Args:
            q, k: projected, (B, N, width) and (B, L, width).
            where: bool, (B, W, L): the tokens of each of W words.

        Returns:
            For each word the sum of its tokens' columns of the softmax map, (B, heads, N, W).
        """
        maps = self.scores(q.float(), k.float()).softmax(-1)
        return (maps @ where[:, None].to(maps).transpose(-1, -2)).to(q.dtype)


def base_of(sites: Sequence[Site]) -> str:
    """The family of models that learned things of a U-Net fit, for `files.Header.base`.

    Told by the text's width: "sd1" (768), "sd2" (1024), "sdxl" (2048), else "context-<width>", as in the demo model's.
    """
    width = next(site.context for site in sites if site.kind == "cross")
    return {768: "sd1", 1024: "sd2", 2048: "sdxl"}.get(width, f"context-{width}")


@dataclass(frozen=True)
class Rows:
    """What is known about each of the R rows of the batch that a network call carries.

    Args:
        conditional: bool, (R,): drawn towards its prompt (True) or away from it (False: null text, negative prompt).
        stream: long, (R,): which of a method's parallel streams; 0 everywhere unless the method runs several.
        timestep: float, (R,): the model's own time label.
        words: bool, (R, W, L): where each of the method's W words stands among the row's L text tokens.
        picture: long, (R,): which picture of its stream's batch.
        names: the W words, in order.
        size: height and width of the latents.
    """

    conditional: Tensor
    stream: Tensor
    timestep: Tensor
    words: Tensor
    picture: Tensor
    names: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)

    def where(self, word: str, tokens: int) -> Tensor:
        """bool, (R, tokens): the word's positions; nowhere if this word is not followed or not in the prompt.

        Runtimes repeat a short text until it is as long as the longest in the batch; positions repeat with it.
        """
        if word not in self.names or not self.words.shape[-1]:
            return torch.zeros(len(self.conditional), tokens, dtype=torch.bool, device=self.conditional.device)
        marks = self.words[:, self.names.index(word)]
        return marks.repeat(1, -(-tokens // marks.shape[-1]))[:, :tokens]


@runtime_checkable
class AttentionControl(Protocol):
    """A method's part in attention."""

    def wants(self, site: Site) -> bool:
        """Whether to be called at this site; elsewhere the runtime's own attention runs untouched."""

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        """Attention output, (R, N, width), before the output projection.

        Args:
            q: (R, N, width).
            k, v: (R, L, width).
            attend: the layer itself, as the runtime would run it.
        """


def shrink(mask: Tensor, positions: int, size: tuple[int, int]) -> Tensor:
    """A mask (b, H, W) at a layer of so many positions, (b, positions, 1).

    Args:
        size: height and width of the latents, whose shape the layer keeps (rounded up at each halving).

    Raises:
        ValueError: a layer of another shape, as packs that cut the picture into tiles make it.
    """
    height, width = size
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != positions:
        raise ValueError(f"a layer has {positions} positions, which no halving of {size} gives; leave the mask out")
    return F.adaptive_avg_pool2d(mask[None].float(), (height, width))[0].flatten(1)[..., None]


@dataclass
class MuteWord:
    """Zeroes a word's column of every cross-attention map, without renormalising: the word is no longer drawn.

    Only rows that follow the word are touched, so a prompt without it is drawn exactly as before.
    """

    word: str
    sites: Callable[[Site], bool] = field(default=lambda site: True)

    def wants(self, site: Site) -> bool:
        return site.kind == "cross" and self.sites(site)

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        where = rows.where(self.word, k.shape[1])
        # M V with the word's columns zero is the map applied to values that are zero at the word
        return attend(q, k, v.masked_fill(where[..., None], 0))
