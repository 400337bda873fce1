"""The one protocol by which a method sees a model.

Conditioning stays opaque: pooled vectors, ControlNet, inpainting channels and areas pass through untouched; a method
reads and replaces the text tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from .attention import AttentionControl, Rows, Site
from .diffusion import Schedule, guide
from .skips import Skip, SkipControl
from .weights import WeightControl

C = TypeVar("C", bound="Conditioning")


class Conditioning(Protocol):
    """A prompt as the model takes it."""

    @property
    def tokens(self) -> Tensor:
        """Text tokens, (1 or B, L, width)."""

    def with_tokens(self: C, tokens: Tensor) -> C:
        """The same conditioning with other text tokens; everything else is kept."""

    def with_rows(self: C, others: Sequence[C]) -> C:
        """A batch's conditioning: a row of this prompt, then one of each other; short texts repeat to one length."""

    def unconditional(self: C) -> C:
        """The same conditioning in the role of the negative prompt, for `Rows.conditional`."""

    def holds(self, word: str) -> bool:
        """Whether the positions of this word are known in it."""


def rows_of(texts: Sequence[Tensor]) -> Tensor:
    """Text tokens (1, L, width) of several prompts as a batch; short ones repeat until all are as long."""
    length = math.lcm(*(text.shape[1] for text in texts))
    return torch.cat([text.repeat(1, length // text.shape[1], 1) for text in texts])


@runtime_checkable
class TextControl(Protocol):
    """A method's part in the text that the network reads."""

    def __call__(self, tokens: Tensor, rows: Rows) -> Tensor:
        """The text tokens of every row, (R, L, width), as the network shall see them."""


class Network(Protocol):
    """The network that is about to run, for a method that has something else to ask of it first."""

    def __call__(self, z: Tensor, t: Tensor, tokens: Tensor, attention: AttentionControl, **extra: Tensor) -> None:
        """Run it untouched by other methods; only what the control sees counts.

        Args:
            z: latents at time t, (N, C, h, w).
            t: (N,).
            tokens: text, (N, L, width).
            extra: what else this runtime's network wants, (N, ...) each.
        """


class Prelude(Protocol):
    """What a method does before each network call."""

    def __call__(self, network: Network, rows: Rows) -> None:
        """Look at the rows that will run; nothing of the call itself can be changed here."""


@dataclass(frozen=True)
class Hooks:
    """What a method puts into a network call.

    Args:
        attention: taken part in at every attention site it wants.
        skips: shown every skip it wants.
        streams: the latents' batch holds this many equal parts, one after the other: rows of the first stream first.
        words: the words whose positions the controls ask for.
        text: shown the text tokens of every row, before any layer reads them.
        weights: taken part in at every layer of the decoder that it names.
        before: called before the network runs.
    """

    attention: AttentionControl | None = None
    skips: SkipControl | None = None
    streams: int = 1
    words: tuple[str, ...] = ()
    text: TextControl | None = None
    weights: WeightControl | None = None
    before: Prelude | None = None


@runtime_checkable
class Denoiser(Protocol):
    """A frozen text-conditioned U-Net in any runtime."""

    schedule: Schedule
    sites: tuple[Site, ...]
    skips: tuple[Skip, ...]

    def __call__(
        self, z: Tensor, t: int | Tensor, *conditions: Conditioning, hooks: Hooks | None = None
    ) -> tuple[Tensor, ...]:
        """Raw network outputs at z_t, one for each conditioning, each (B, C, H, W).

        Args:
            z: latents at time t, variance-preserving scale, (B, C, H, W).
            t: timestep, or one per latent (B,).
            conditions: evaluated in one batch where memory allows.
            hooks: a method's part; None runs the model untouched.
        """


def guided(
    denoiser: Denoiser, positive: Conditioning, negative: Conditioning, weight: float, hooks: Hooks | None = None
):
    """`predict(z, t)` for `diffusion.sample` and `diffusion.invert`, with classifier-free guidance.

    At weight 1 the negative prompt is not evaluated.
    """

    def predict(z: Tensor, t: int) -> Tensor:
        if weight == 1:
            return denoiser(z, t, positive, hooks=hooks)[0]
        uncond, cond = denoiser(z, t, negative.unconditional(), positive, hooks=hooks)
        return guide(cond, uncond, weight)

    return predict
