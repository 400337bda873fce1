"""Drawing with concepts, headless: both streams from one noise, each on its own trajectory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..denoiser import Conditioning, Denoiser, guided
from ..diffusion import Watch, guide, sample
from .control import Infusion


def draw(
    denoiser: Denoiser,
    positive: Conditioning,
    negative: Conditioning,
    infusion: Infusion,
    z: Tensor,
    timesteps: Sequence[int],
    *,
    guidance: float = 8.0,
    fast: bool = False,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """DDIM of the foundation's and the customised pictures (Infusion, section 4.3).

    Where the prompt holds none of the words there is nothing to customise: the foundation is drawn alone.

    Args:
        positive: the prompt, carrying the positions of `infusion.words`.
        z: latents at `timesteps[0]`, (B, C, H, W).
        guidance: 8 in the paper.
        fast: C reuses F's unconditional prediction, three network rows a picture instead of four **[ours]**.
        watch: called after each step as `(index, t, latents of all streams)`.

    Returns:
        Latents of the foundation and customised, each (B, C, H, W); without streams (`swap=False`) the first is z.
    """
    schedule, hooks, batch = denoiser.schedule, infusion.hooks, len(z)
    if not any(positive.holds(word) for word in infusion.words):
        plain = sample(schedule, guided(denoiser, positive, negative, guidance), z, timesteps, watch=watch)
        return plain, plain
    if not infusion.swap:
        predict = guided(denoiser, positive, negative, guidance, hooks)
        return z, sample(schedule, predict, z, timesteps, watch=watch)

    def reuse(z: Tensor, t: int) -> Tensor:
        cond = denoiser(z, t, positive, hooks=hooks)[0]
        uncond = denoiser(z[:batch], t, negative.unconditional())[0]
        return guide(cond, uncond.repeat(2, 1, 1, 1), guidance)

    predict = reuse if fast and guidance != 1 else guided(denoiser, positive, negative, guidance, hooks)
    return sample(schedule, predict, z.repeat(2, 1, 1, 1), timesteps, watch=watch).chunk(2)
