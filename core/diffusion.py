"""Noise schedules, the DDIM step in both directions, guidance.

Notation: `a_t` is the checkpoint's cumulative alpha, `z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) eps`. A model's raw output is
either the noise eps or the velocity `v = sqrt(a_t) eps - sqrt(1 - a_t) z_0`; `Schedule.prediction` says which.
Time -1 stands for "after the last step", where the alpha is `Schedule.final_alpha`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction")
Predict = Callable[[Tensor, int], Tensor]
Watch = Callable[[int, int, Tensor], None]
Shown = Callable[[int, Tensor], None]  # a step's index, and the clean latents it means, for previews


@dataclass(frozen=True)
class Schedule:
    """A checkpoint's noise schedule and what its network predicts.

    Args:
        alphas: cumulative alphas, shape (T,), float64, falling from almost 1 towards 0.
        prediction: "epsilon" or "v_prediction".
        final_alpha: alpha after the last step; 1 as in ComfyUI, or `alphas[0]` (diffusers' `set_alpha_to_one=False`).
        offset: added to evenly spaced timesteps (diffusers' `steps_offset`).

    Raises:
        ValueError: an unknown prediction type, or alphas that are not a falling sequence inside [0, 1].
    """

    alphas: Tensor = field(repr=False)
    prediction: str = "epsilon"
    final_alpha: float = 1.0
    offset: int = 1

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction is {self.prediction!r}; this pack knows {' and '.join(PREDICTIONS)}")
        a = self.alphas
        if a.ndim != 1 or len(a) < 2 or not bool((a[1:] <= a[:-1]).all()) or a[0] > 1 or a[-1] < 0:
            raise ValueError("alphas must be a one-dimensional sequence that falls from 1 towards 0")
        object.__setattr__(self, "alphas", a.detach().double().cpu())

    @classmethod
    def from_betas(cls, betas: Tensor, **kwargs: Any) -> Schedule:
        """Cumulative alphas from per-step variances `betas`, shape (T,)."""
        return cls(torch.cumprod(1 - betas.double(), 0), **kwargs)

    @classmethod
    def scaled_linear(cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000, **kwargs: Any) -> Schedule:
        """Stable Diffusion's schedule: the square root of beta is linear."""
        return cls.from_betas(torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2, **kwargs)

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Schedule:
        """From a diffusers scheduler, or the mapping in its `scheduler_config.json`.

        diffusers itself turns the configuration into alphas, so every beta schedule and zero-SNR rescaling it knows is
        understood here too.
        """
        from diffusers import DDIMScheduler

        config = scheduler if isinstance(scheduler, Mapping) else scheduler.config
        ddim = DDIMScheduler.from_config(config)
        return cls(
            ddim.alphas_cumprod,
            prediction=ddim.config.prediction_type,
            final_alpha=float(ddim.final_alpha_cumprod),
            offset=int(ddim.config.steps_offset),
        )

    def __len__(self) -> int:
        return len(self.alphas)

    def alpha(self, t: int | Tensor) -> Tensor:
        """Cumulative alpha at timestep t (float64). t = -1, or anything below 0, is the end of sampling."""
        t = torch.as_tensor(t).cpu()
        return torch.where(t < 0, torch.tensor(self.final_alpha, dtype=torch.float64), self.alphas[t.clamp(min=0)])

    def sigma(self, t: int | Tensor) -> Tensor:
        """Noise level in the variance-exploding convention that ComfyUI and k-diffusion use: sqrt((1 - a) / a)."""
        a = self.alpha(t)
        return ((1 - a) / a).sqrt()

    def timesteps(self, steps: int) -> list[int]:
        """`steps` DDIM timesteps, each once, falling.

        Spaced as diffusers' "leading" spacing (whatever the checkpoint's own says). Above half of the schedule that
        would be the first `steps` timesteps, without the noisy ones; there they lie evenly over all of it **[ours]**.

        Raises:
            ValueError: steps outside 1..T.
        """
        if not 1 <= steps <= len(self):
            raise ValueError(f"steps is {steps}; it must lie between 1 and {len(self)}")
        stride = len(self) // steps
        even = [i * stride if stride > 1 else i * len(self) // steps for i in range(steps)]
        offset = min(self.offset, len(self) - 1 - even[-1])
        return [t + offset for t in reversed(even)]

    def stratified(self, count: int, generator: torch.Generator) -> Tensor:
        """Random timesteps, (count,), one from each of so many equal parts **[ours]**.

        Losses over them vary less from step to step than over independent ones.
        """
        parts = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        return (parts * len(self)).long().clamp(max=len(self) - 1)

    def _roots(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alpha(t)
        shape = (-1,) + (1,) * (like.ndim - 1) if a.ndim else ()
        return a.sqrt().to(like).reshape(shape), (1 - a).sqrt().to(like).reshape(shape)

    def noise(self, z0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """z_t from clean latents and noise, each (B, C, H, W); t a timestep or one per row (B,)."""
        signal, noise = self._roots(t, z0)
        return signal * z0 + noise * eps

    def target(self, z0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """What the network should answer at z_t: eps itself, or the velocity."""
        if self.prediction == "epsilon":
            return eps
        signal, noise = self._roots(t, z0)
        return signal * eps - noise * z0

    def epsilon(self, output: Tensor, z: Tensor, t: int | Tensor) -> Tensor:
        """The noise that a raw output means at z_t."""
        if self.prediction == "epsilon":
            return output
        signal, noise = self._roots(t, z)
        return signal * output + noise * z

    def x0(self, output: Tensor, z: Tensor, t: int | Tensor) -> Tensor:
        """The clean latents that a raw output means at z_t. With v prediction no division, so zero SNR is safe."""
        signal, noise = self._roots(t, z)
        if self.prediction == "epsilon":
            return (z - noise * output) / signal
        return signal * z - noise * output

    def output(self, x0: Tensor, z: Tensor, t: int | Tensor) -> Tensor:
        """The inverse of `x0`: the raw output that means these clean latents at z_t."""
        signal, noise = self._roots(t, z)
        if self.prediction == "epsilon":
            return (z - signal * x0) / noise
        return (signal * z - x0) / noise

    def step(self, output: Tensor, z: Tensor, t: int, s: int) -> Tensor:
        """One deterministic DDIM step (eta = 0) of z from time t to time s, in either direction.

        Args:
            output: the network's raw output, (B, C, H, W).
            z: latents at time t, same shape.
            t, s: timesteps; -1 is the end of sampling. s > t inverts.

        Returns:
            Latents at time s.
        """
        signal, noise = self._roots(s, z)
        return signal * self.x0(output, z, t) + noise * self.epsilon(output, z, t)


def guide(cond: Tensor, uncond: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance: `w cond + (1 - w) uncond`, written so that w = 1 is exactly `cond`."""
    return cond if weight == 1 else uncond + weight * (cond - uncond)


def sample(
    schedule: Schedule, predict: Predict, z: Tensor, timesteps: Sequence[int], *, watch: Watch | None = None
) -> Tensor:
    """DDIM from noise to latents.

    Args:
        predict: `(z, t) -> raw output`, guidance included.
        z: latents at `timesteps[0]`, (B, C, H, W).
        timesteps: falling.
        watch: called after each step as `(index, t, z)`; what it raises stops the loop.

    Returns:
        Latents after the last step.
    """
    for i, (t, s) in enumerate(zip(timesteps, [*timesteps[1:], -1])):
        z = schedule.step(predict(z, t), z, t, s)
        if watch:
            watch(i, t, z)
    return z


def invert(
    schedule: Schedule, predict: Predict, z: Tensor, timesteps: Sequence[int], *, watch: Watch | None = None
) -> list[Tensor]:
    """DDIM inversion: clean latents back to noise, asking the network at the destination's time.

    Args:
        predict: `(z, t) -> raw output`; unguided (w = 1), as the methods that use inversion want it.
        z: clean latents, (B, C, H, W).
        timesteps: falling, the same list that `sample` takes.

    Returns:
        The trajectory `[z_0, z_{t_n}, ..., z_{t_1}]`, `len(timesteps) + 1` latents from clean to noisy.
    """
    path, s = [z], -1
    for i, t in enumerate(reversed(timesteps)):
        path.append(schedule.step(predict(path[-1], t), path[-1], s, t))
        s = t
        if watch:
            watch(i, t, path[-1])
    return path
