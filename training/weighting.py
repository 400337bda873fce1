"""How much each timestep counts in a loss."""

from __future__ import annotations

from torch import Tensor

from ..core.diffusion import Schedule


def snr_weight(schedule: Schedule, low: float = 0.25, high: float = 5.0) -> Tensor:
    """Loss weights of every timestep, (T,): the error of the clean latents, weighted by the SNR within low..high.

    The upper bound is min-SNR's (Hang et al. 2023). The lower is ours: at strong noise only the conditions know the
    picture's colours and things, and without it those steps hardly count.
    """
    snr = schedule.alphas / (1 - schedule.alphas)
    scale = snr if schedule.prediction == "epsilon" else snr + 1
    return (snr.clamp(low, high) / scale).float()
