"""A picture drawn by ordinary sampling, watched at a subject's tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
from torch import Tensor

from ..core.hifi.maps import SubjectMaps, contact_sheet
from ..core.hifi.subject import Subject, SubjectText
from . import denoiser, hifi_model
from .hooks import sites, unet_of


def draw(
    model: Any,
    clip: Any,
    vae: Any,
    subject: Subject,
    prompt: str,
    latent: dict[str, Any],
    seed: int,
    steps: int,
    guidance: float,
    shown: int,
) -> tuple[Tensor, Tensor]:
    """The maps of some steps as one picture, and the pictures, both (B, H, W, 3)."""
    subject.check(tuple(sites(unet_of(model))))
    maps = SubjectMaps(subject.mark, subject.count)
    watched = denoiser.attach(model, replace(SubjectText(subject).hooks, attention=maps))
    drawn = sampled(watched, clip, hifi_model.encode(clip, prompt, subject), latent, seed, steps, guidance)
    return contact_sheet(maps, shown).movedim(0, -1)[None], vae.decode(drawn)


def sampled(model: Any, clip: Any, positive: list, latent: dict, seed: int, steps: int, guidance: float) -> Tensor:
    """Latents by ordinary sampling, with an empty negative prompt."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, clip.encode_from_tokens_scheduled(clip.tokenize("")))
    guider.set_cfg(guidance)
    start = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    noise = comfy.sample.prepare_noise(start, seed)
    return guider.sample(noise, start, comfy.samplers.ksampler("euler"), sigmas, seed=seed)
