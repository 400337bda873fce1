"""Pivotal inversion: a picture's way to noise (HiFi Tuner, Eq. 3), and the null texts that lead back (Eq. 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..denoiser import Conditioning, Denoiser, Hooks, guided
from ..diffusion import Watch, guide
from ..diffusion import invert as ddim


@dataclass(frozen=True)
class Trajectory:
    """The latents of a picture on its way from clean to noise.

    Args:
        latents: (T + 1, B, C, H, W), clean first: x*_0 ... x*_T.
        timesteps: falling, as `diffusion.sample` takes them.
        nulls: null texts phi*_t in the order of the timesteps, (T, B, L, width); None before `null_text`.
        drawn: the latents on the way back with these null texts, (T + 1, B, C, H, W), clean first; None before.
        weight: the guidance that the null texts are for.
    """

    latents: Tensor = field(repr=False)
    timesteps: tuple[int, ...]
    nulls: Tensor | None = field(default=None, repr=False)
    drawn: Tensor | None = field(default=None, repr=False)
    weight: float = 1.0

    @property
    def noise(self) -> Tensor:
        """x*_T, (B, C, H, W)."""
        return self.latents[-1]

    def at(self, index: int) -> Tensor:
        """x* before step `index` of the way back (0 is the noise), (B, C, H, W); index T is the clean picture."""
        return self.latents[len(self.timesteps) - index]

    def check(self, timesteps: Sequence[int], z: Tensor) -> None:
        """Whether it can lead a run over these timesteps from latents z; ValueError saying what differs."""
        if tuple(timesteps) != self.timesteps:
            raise ValueError(
                f"trajectory: it has {len(self.timesteps)} steps ({self.timesteps[0]} to {self.timesteps[-1]}), "
                f"the run {len(timesteps)} ({timesteps[0]} to {timesteps[-1]}); "
                "invert with the run's own steps and scheduler"
            )
        if self.noise.shape[1:] != z.shape[1:] or len(self.noise) not in (1, len(z)):
            raise ValueError(
                f"trajectory: its latents are {tuple(self.noise.shape)}, the run's {tuple(z.shape)}; invert a picture "
                "of the run's size, one alone or one for each"
            )


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    positive: Conditioning,
    z: Tensor,
    timesteps: Sequence[int],
    *,
    hooks: Hooks | None = None,
    watch: Watch | None = None,
) -> Trajectory:
    """DDIM inversion with the picture's own caption and no guidance (w = 1; HiFi Tuner, Eq. 3).

    Args:
        positive: the caption.
        z: clean latents in the model's scale, (B, C, H, W).
        timesteps: falling.
    """
    predict = guided(denoiser, positive, positive, 1.0, hooks)
    return Trajectory(torch.stack(ddim(denoiser.schedule, predict, z, timesteps, watch=watch)), tuple(timesteps))


def null_text(
    denoiser: Denoiser,
    positive: Conditioning,
    negative: Conditioning,
    path: Trajectory,
    weight: float,
    *,
    steps: int = 10,
    lr: float = 1e-2,
    tolerance: float = 1e-5,
    hooks: Hooks | None = None,
    watch: Watch | None = None,
) -> Trajectory:
    """Null-text optimisation (HiFi Tuner, Eq. 4; constants from Mokady et al. 2023).

    From noise back to clean, the null text of each step is moved until guided sampling meets the trajectory; it starts
    from the step before. The conditional prediction knows nothing of it and is made once a step. The error is a mean
    over a picture's latents; pictures of a batch learn apart.

    Args:
        positive: the caption that the trajectory was inverted with.
        negative: where the null texts start from; its tokens are (1 or B, L, width).
        weight: of the guidance; not 1, where the null text has no effect.
        steps: K, of Adam at each timestep.
        lr: learning rate of the first timestep; half of it at the last.
        tolerance: a picture is done with a timestep when its error is below tolerance (1 + 2 index).

    Returns:
        The trajectory with its null texts and the way back that they give.

    Raises:
        ValueError: weight 1.
    """
    refuse_unguided(weight)
    z, phi = path.noise, negative.tokens.detach().float().expand(len(path.noise), -1, -1).clone()
    nulls, drawn = [], [z]
    for i, (t, s) in enumerate(zip(path.timesteps, [*path.timesteps[1:], -1])):
        with torch.no_grad():
            cond = denoiser(z, t, positive, hooks=hooks)[0]
        step = Step(denoiser, negative, z, cond, weight, t, s, hooks)
        rate, enough = lr * (1 - 0.5 * i / len(path.timesteps)), tolerance * (1 + 2 * i)
        phi = step.fit(phi, path.at(i + 1), steps=steps, lr=rate, done=lambda error, e=enough: error < e)
        z = step(phi)
        nulls.append(phi)
        drawn.append(z)
        if watch:
            watch(i, t, z)
    return replace(path, nulls=torch.stack(nulls), drawn=torch.stack(drawn[::-1]), weight=weight)


def refuse_unguided(weight: float) -> None:
    """ValueError at guidance 1, where no null text has any effect."""
    if weight == 1:
        raise ValueError("guidance is 1, where the null text has no effect; use the guidance you draw with, as 5 or 8")


@dataclass
class Step:
    """One guided DDIM step F(x_t, c, phi) as a function of the null text alone.

    Args:
        z: latents at time t, (B, C, H, W).
        cond: the conditional prediction there.
        weight: of the guidance.
        t, s: from time t to time s.
    """

    denoiser: Denoiser
    negative: Conditioning
    z: Tensor
    cond: Tensor
    weight: float
    t: int
    s: int
    hooks: Hooks | None = None

    def after(self, uncond: Tensor) -> Tensor:
        """Latents at time s, from the unconditional prediction."""
        return self.denoiser.schedule.step(guide(self.cond, uncond, self.weight), self.z, self.t, self.s)

    def clean(self, uncond: Tensor) -> Tensor:
        """The clean latents that the guided prediction means."""
        return self.denoiser.schedule.x0(guide(self.cond, uncond, self.weight), self.z, self.t)

    def _forward(self, phi: Tensor) -> Tensor:
        null = self.negative.with_tokens(phi).unconditional()
        return self.after(self.denoiser(self.z, self.t, null, hooks=self.hooks)[0])

    @torch.no_grad()
    def __call__(self, phi: Tensor) -> Tensor:
        """Latents at time s with the null text (B, L, width)."""
        return self._forward(phi)

    def fit(
        self,
        phi: Tensor,
        target: Tensor,
        *,
        steps: int,
        lr: float,
        done: Callable[[Tensor], Tensor],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Move the null text by Adam, of fresh state, until the step ends at the target.

        Args:
            phi: (B, L, width), float32.
            target: latents at time s, (1 or B, C, H, W).
            done: error -> bool, both (B,): which pictures stop after this step.
            mask: where to look, (1 or B, 1, H, W) of 0 and 1; None is everywhere.

        Returns:
            The null text, detached.

        Raises:
            FloatingPointError: error or gradient are no longer numbers.
        """
        phi = phi.detach().clone().requires_grad_(True)
        optimiser, moving = torch.optim.Adam([phi], lr=lr), None
        scale = float(self.z[0].numel())  # gradients of a mean would vanish on their way through half precision
        for _ in range(steps):
            error, phi.grad, scale = self._pull(phi, target, mask, scale)
            kept = phi.detach().clone()
            optimiser.step()
            if moving is not None:
                with torch.no_grad():  # those that are done stay where they are
                    phi.copy_(torch.where(moving[:, None, None], phi, kept))
            finished = done(error)
            moving = ~finished if moving is None else moving & ~finished
            if not bool(moving.any()):
                break
        return phi.detach()

    def _pull(self, phi: Tensor, target: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor, float]:
        """The error (B,), its gradient, and the scale on the way back, halved while the gradient overflows."""
        while True:
            with torch.enable_grad():
                error = masked_mean((self._forward(phi) - target).square(), mask)
                (gradient,) = torch.autograd.grad(error.sum() * scale, phi)
            if bool(gradient.isfinite().all()):
                return error.detach(), gradient / scale, scale
            if scale <= 1 or not bool(error.isfinite().all()):
                raise FloatingPointError(
                    f"the null text's error or its gradient is not a number at timestep {self.t}; use a lower learning "
                    "rate, or run the model in a precision of more range (bfloat16 or float32)"
                )
            scale = max(1.0, scale / 2)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over channels and the mask's places, (B,)."""
    if mask is None:
        return values.mean((1, 2, 3))
    mask = mask.to(values).expand(len(values), -1, -1, -1)
    return (values * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * values.shape[1]).clamp(min=1)
