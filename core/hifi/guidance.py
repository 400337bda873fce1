"""Reference-guided generation (HiFi Tuner, Algorithm 2): the subject's region is led along a real picture's way."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..denoiser import Conditioning, Denoiser, Hooks
from ..diffusion import Shown, Watch
from .inversion import Step, Trajectory, refuse_unguided


@dataclass(frozen=True)
class Guidance:
    """How strongly, and when, the reference leads.

    Args:
        start, end: t_s and t_e, the first and the last guided step, counted from the end of a run of 50 steps; they
            scale with the run's own number of steps **[ours]**.
        steps: J, Adam steps on the null text at each; more come closer to the reference.
        lr: of Adam.
        stop: a picture is done with a timestep once its error is below this share of the largest that it had; 0 always
            takes all steps **[ours]**.
        fast: without gradients: at each guided step the region moves by this share towards the reference's latents
            instead, and `steps` is not used **[ours]**; 0 is the paper's way.

    Raises:
        ValueError: numbers out of range.
    """

    start: int = 40
    end: int = 10
    steps: int = 10
    lr: float = 1e-2
    stop: float = 0.0
    fast: float = 0.0

    def __post_init__(self):
        if not (0 <= self.end <= 50 and 0 <= self.start <= 50):
            raise ValueError(f"start is {self.start} and end {self.end}; both are steps of 50, within 0..50")
        if self.steps < 0 or self.lr <= 0 or not 0 <= self.stop < 1 or not 0 <= self.fast <= 1:
            raise ValueError("steps must be 0 or more, lr above 0, stop within 0..1 and fast within 0..1")
        self.span(50)

    def span(self, count: int) -> tuple[int, int]:
        """First and last guided step of a run of `count`, numbered as in Algorithm 2: count ... 1.

        Raises:
            ValueError: no step lies between them.
        """
        first, last = round(self.start * count / 50), max(1, round(self.end * count / 50))
        if first < last:
            raise ValueError(
                f"start is {self.start} and end {self.end}: steps count down from 50, so none of {count} would be "
                "guided; set start above end"
            )
        return first, last


def at_latent_size(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A subject's mask at latent size, (B, 1, h, w) of 0 and 1: the places of which it covers at least half **[ours]**.

    Args:
        mask: (B, H, W) or (B, 1, H, W) in 0..1.

    Raises:
        ValueError: an empty mask.
    """
    mask = mask if mask.ndim == 4 else mask[:, None]
    if not bool((mask.flatten(1) > 0).any(1).all()):
        raise ValueError("mask: it is empty; give the subject's mask, aligned to where it stands in the picture")
    return (F.adaptive_avg_pool2d(mask.float(), size) >= 0.5).float()


@torch.no_grad()
def reference_guided(
    denoiser: Denoiser,
    positive: Conditioning,
    negative: Conditioning,
    z: Tensor,
    timesteps: Sequence[int],
    path: Trajectory,
    mask: Tensor,
    weight: float,
    guidance: Guidance = Guidance(),
    *,
    hooks: Hooks | None = None,
    watch: Watch | None = None,
    shown: Shown | None = None,
) -> Tensor:
    """Algorithm 2: a second pass from the same noise, whose subject follows the reference's trajectory.

    Steps before the first guided one are the plain run, bit for bit. The null text phi_h carries over from step to
    step; what is outside of the mask is always drawn with the plain null text.

    Args:
        positive, negative: as for the first pass; the negative prompt is the null text that is moved.
        z: the first pass's noise, x_T, (B, C, H, W).
        timesteps: falling.
        path: the aligned reference's trajectory over the same timesteps.
        mask: the aligned reference's subject at latent size, (1 or B, 1, h, w) of 0 and 1; see `at_latent_size`.
        weight: of the classifier-free guidance.
        hooks: the subject's, for example.
        shown: called before `watch` with what the step means before it is led.

    Returns:
        Latents after the last step.

    Raises:
        ValueError: weight 1, a trajectory of other steps or another size, masks of another number, or no guided step.
    """
    refuse_unguided(weight)
    path.check(timesteps, z)
    if len(mask) not in (1, len(z)):
        raise ValueError(f"mask: it has {len(mask)} pictures, the latents {len(z)}; connect one alone or one for each")
    first, last = guidance.span(len(timesteps))
    inside, phi = mask.to(z).expand(len(z), -1, -1, -1) > 0.5, None
    worst = torch.zeros(len(z), device=z.device)
    if not bool(inside.any()):
        warnings.warn("the mask vanishes at the latents' size; the picture is drawn without reference", stacklevel=2)
        first = 0
    for i, (t, s) in enumerate(zip(timesteps, [*timesteps[1:], -1])):
        number = len(timesteps) - i
        if number == first:
            z = torch.where(inside, path.at(i), z)
            phi = negative.tokens.float().expand(len(z), -1, -1)
        uncond, cond = denoiser(z, t, negative.unconditional(), positive, hooks=hooks)
        step = Step(denoiser, negative, z, cond, weight, t, s, hooks)
        if shown:
            shown(i, step.clean(uncond))
        z = step.after(uncond)
        if last <= number <= first:
            z, phi = _led(step, z, phi, path.at(i + 1), inside, guidance, worst)
        if watch:
            watch(i, t, z)
    return z


def _led(
    step: Step, plain: Tensor, phi: Tensor, target: Tensor, inside: Tensor, guidance: Guidance, worst: Tensor
) -> tuple[Tensor, Tensor]:
    """The step's end with its region led, and the null text that led it; `worst` (B,) follows the largest errors."""
    if guidance.fast:
        return torch.where(inside, torch.lerp(plain, target.to(plain), guidance.fast), plain), phi
    if not guidance.steps:
        return plain, phi

    def done(error: Tensor) -> Tensor:
        return error < guidance.stop * worst.copy_(torch.maximum(worst, error))

    phi = step.fit(phi, target, steps=guidance.steps, lr=guidance.lr, done=done, mask=inside)
    return torch.where(inside, step(phi), plain), phi
