"""HiFi Tuner's loops over a MODEL: inversion, null texts, guidance by a reference, replacement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..core.denoiser import Hooks
from ..core.hifi import inversion, replacement
from ..core.hifi.guidance import Guidance, at_latent_size, reference_guided
from ..core.hifi.inversion import Trajectory
from ..core.hifi.subject import Subject, SubjectText
from . import denoiser, hifi_model
from . import gradients as autograd
from .hooks import sites, unet_of
from .words import find_words, mark_words


def timesteps_of(model: Any, sigmas: Tensor) -> list[int]:
    """The model's own timesteps of a scheduler's noise levels, the nearest ones, each once.

    Raises:
        ValueError: a distilled sampling, whose table of noise levels has gaps, or sigmas that don't fall.
    """
    sampling = model.get_model_object("model_sampling")
    denoiser.schedule_of(sampling)
    if int(sampling.timestep(sampling.sigma_max)) + 1 != len(sampling.sigmas):
        raise ValueError("model: its sampling is a distilled one (LCM or the like), which DDIM can't invert")
    timesteps = [round(float(sampling.timestep(sigma))) for sigma in sigmas if sigma > 0]
    if not timesteps or timesteps != sorted(timesteps, reverse=True):
        raise ValueError("sigmas: they must fall; connect a scheduler's")
    return list(dict.fromkeys(timesteps))


def invert(model: Any, positive: list, latent: dict[str, Any], sigmas: Tensor) -> tuple[Trajectory, dict[str, Any]]:
    """A picture's trajectory, and its noise as a LATENT from which a sampler without added noise goes on."""
    timesteps, samples = timesteps_of(model, sigmas), latent["samples"]
    watch = _watch(len(timesteps))

    def work(native: denoiser.ComfyDenoiser, z: Tensor, prompts: dict[str, denoiser.Prompt]) -> Trajectory:
        path = inversion.invert(native, prompts["positive"], z, timesteps, watch=watch)
        return replace(path, latents=path.latents.cpu())

    path = denoiser.run(model, {"positive": positive}, samples, work)
    sigma = model.get_model_object("model_sampling").sigmas[timesteps[0]]
    noise = model.model.process_latent_out(path.noise * (1 + sigma**2).sqrt().to(path.noise))
    return path, {"samples": noise}


def null_text(
    model: Any, positive: list, negative: list, path: Trajectory, guidance: float, steps: int, learning_rate: float
) -> tuple[Trajectory, dict[str, Any]]:
    """The trajectory with null texts that lead back at this guidance, and the picture they lead to."""
    inversion.refuse_unguided(guidance)
    watch = _watch(len(path.timesteps))

    def work(native: denoiser.ComfyDenoiser, z: Tensor, prompts: dict[str, denoiser.Prompt]) -> Trajectory:
        here = _moved(path, z.device)
        both = prompts["positive"], prompts["negative"]
        found = inversion.null_text(native, *both, here, guidance, steps=steps, lr=learning_rate, watch=watch)
        return _moved(found, torch.device("cpu"))

    both = {"positive": positive, "negative": negative}
    found = denoiser.run(model, both, torch.zeros_like(path.noise), work, gradients=True)
    return found, {"samples": model.model.process_latent_out(found.drawn[0])}


def replace_subject(
    model: Any,
    clip: Any,
    path: Trajectory,
    caption: str,
    old_word: str,
    new_word: str,
    subject: Subject | None = None,
    renormalise: bool = False,
) -> tuple[dict[str, Any], str]:
    """The picture with another subject, as a LATENT, and what it took.

    Raises:
        ValueError: a caption without the word, or a trajectory without null texts.
    """
    prompt = replacement.with_word(caption, old_word, new_word)
    source, target = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (caption, prompt))
    hooks = Hooks()
    if subject is not None:
        subject.check(tuple(sites(unet_of(model))))
        target, hooks = hifi_model.encode(clip, prompt, subject, target), SubjectText(subject).hooks
    target = mark_words(target, find_words(clip, prompt, [new_word]))
    mapper, kept = hifi_model.align(clip, caption, prompt), [0]
    preview = latent_preview.prepare_callback(model, len(path.timesteps))

    def work(native: denoiser.ComfyDenoiser, z: Tensor, prompts: dict[str, denoiser.Prompt]) -> Tensor:
        named = prompts["source"], prompts["target"], prompts["negative"]
        here = _moved(path, z.device)
        return replacement.replace_subject(
            native,
            *named,
            here,
            mapper,
            new_word,
            hooks=hooks,
            renormalise=renormalise,
            shown=lambda i, clean: preview(i, clean, clean, len(path.timesteps)),
            told=kept.append,
        )

    null = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    named = {"source": source, "target": target, "negative": null}
    z = denoiser.run(model, named, torch.zeros_like(path.noise), work)
    return {"samples": model.model.process_latent_out(z.cpu())}, f"attention maps: {max(kept) / 2**20:.1f} MiB a step"


def _moved(path: Trajectory, device: torch.device) -> Trajectory:
    """Plain copies on a device: tensors of another node can't enter autograd."""
    tensors = {f.name: getattr(path, f.name) for f in fields(path) if torch.is_tensor(getattr(path, f.name))}
    return replace(path, **{name: autograd.plain(t).to(device) for name, t in tensors.items()})


def _watch(steps: int) -> Callable[[int, int, Tensor], None]:
    bar = comfy.utils.ProgressBar(steps)
    return lambda i, t, z: bar.update_absolute(i + 1, steps)


class ReferenceSampler(comfy.samplers.Sampler):
    """Algorithm 2 as a SAMPLER: prompts and guidance are the guider's, the noise is the first pass's.

    Args:
        path: the aligned reference's trajectory.
        mask: the aligned reference's subject, (1 or B, H, W).
    """

    def __init__(self, path: Trajectory, mask: Tensor, guidance: Guidance):
        self.path, self.mask, self.guidance = path, mask, guidance

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Called by any node that takes a SAMPLER, as SamplerCustomAdvanced."""
        if denoise_mask is not None:
            raise ValueError("latent: it has a noise mask, which guidance by a reference can't keep; leave it out")
        if sigmas[-1] > 0:
            raise ValueError("sigmas: guidance by a reference draws to the end; connect sigmas whose last one is 0")
        conds = getattr(model_wrap, "original_conds", {})
        if {"positive", "negative"} - set(conds) or not hasattr(model_wrap, "cfg"):
            raise ValueError("guider: guidance by a reference needs a positive and a negative prompt; use CFGGuider")
        timesteps = timesteps_of(model_wrap.model_patcher, sigmas)
        x = model_wrap.inner_model.model_sampling.noise_scaling(
            sigmas[0], noise, latent_image, self.max_denoise(model_wrap, sigmas)
        )
        start = x / (1 + sigmas[0] ** 2).sqrt()

        def shown(i: int, clean: Tensor) -> None:
            if callback is not None:
                callback(i, clean, clean, len(timesteps))

        def work(native: denoiser.ComfyDenoiser, z: Tensor, prompts: dict[str, denoiser.Prompt]) -> Tensor:
            mask = at_latent_size(autograd.plain(self.mask), start.shape[-2:]).to(z.device)
            both, here = (prompts["positive"], prompts["negative"]), _moved(self.path, z.device)
            args = (native, *both, autograd.plain(start).to(z.device), timesteps, here, mask, model_wrap.cfg)
            return reference_guided(*args, self.guidance, shown=shown)

        prompts = {name: [[e.get("cross_attn"), e] for e in conds[name]] for name in ("positive", "negative")}
        gradients = bool(self.guidance.steps) and not self.guidance.fast
        return denoiser.run(model_wrap.model_patcher, prompts, torch.zeros_like(x), work, gradients=gradients).to(x)
