"""The second hook: a U-Net's encoder features in, residuals on its skip connections out.

Each encoder output (and the middle block's) is shown to a `SkipControl` before any ControlNet has touched it; what the
control answers is added where the decoder takes that skip up, after any ControlNet. The encoder itself never feels it.
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
        channels: channels of the features, known where the runtime can tell without running.
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
