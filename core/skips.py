"""The second hook: a U-Net's encoder features in, residuals on its skip connections out.

Each encoder output (and the middle block's) is shown to a `SkipControl` before ControlNet has touched it (a
T2I-Adapter's residuals are inside: they enter the encoder); what the control answers is added where the decoder takes
that skip up. The encoder itself never feels it. Several methods all see the same features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from .attention import Rows


@dataclass(frozen=True)
class Skip:
    """One skip connection.

    Args:
        name: "skip.0", "skip.1", ... in the encoder's order, and "mid"; the same in every runtime.
        level: resolution level; 0 is the latent's own resolution.
        order: position in the encoder's order, the middle last.
        channels: channels of the features.
    """

    name: str
    level: int
    order: int
    channels: int


@runtime_checkable
class SkipControl(Protocol):
    """A method's part in the skip connections."""

    def wants(self, skip: Skip) -> bool:
        """Whether to be called at this skip."""

    def __call__(self, skip: Skip, features: Tensor, rows: Rows) -> Tensor | None:
        """A residual of the features' shape (R, C, H, W), or None to add nothing.

        The features are the network's own, which a runtime may change in place later: copy what is kept.
        """
