"""Parallel streams inside ordinary sampling: the batch is repeated within, the user gets their own batch back.

The streams start from the same noise, see the same conditioning, and stochastic samplers draw the same noise for each.
Two samplers stay unpaired: `dpm_adaptive` chooses its step over the whole batch, and `s_churn > 0` draws its own noise.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import comfy.conds
import comfy.k_diffusion.sampling as k_sampling
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

# tensors of a conditioning entry whose first dimension is the batch: those that ComfyUI repeats, and those it stretches
BATCHED = ("cross_attn", "pooled_output", "mask")
STRETCHED = ("concat_latent_image", "concat_mask", "concat_image")
BROWNIAN = re.compile(r"sample_dpmpp_(2m_|3m_)?sde(_heun)?(_gpu)?$")


def sample(
    streams: int,
    executor: Any,
    guider: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Callable | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Run a guider's sampling with every picture `streams` times; returns the last stream's pictures."""
    batch = len(noise)
    guider.conds = {name: [fit_entry(e, batch, streams) for e in entries] for name, entries in guider.conds.items()}
    if denoise_mask is not None:
        mask = denoise_mask.reshape(-1, 1, *denoise_mask.shape[-2:]) if denoise_mask.ndim < 4 else denoise_mask
        denoise_mask = _repeat(comfy.utils.repeat_to_batch_size(mask, batch), streams)
    if kwargs.get("latent_shapes"):
        kwargs["latent_shapes"] = [(streams * s[0], *s[1:]) for s in kwargs["latent_shapes"]]

    def cropped(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        callback(step, x0[-batch:], x[-batch:], total)

    noise, latent_image = _repeat(noise, streams), _repeat(latent_image, streams)
    sampler, callback_ = paired(sampler, streams), callback and cropped
    return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback_, *args, **kwargs)[-batch:]


def _repeat(x: Tensor, streams: int) -> Tensor:
    return x.repeat(streams, *[1] * (x.ndim - 1))


# --- conditioning ----------------------------------------------------------------------------------------------------


def fit_entry(entry: dict[str, Any], batch: int, streams: int) -> dict[str, Any]:
    """A conditioning entry whose tensors give every stream what the batch alone would get."""
    fitted = {}
    for name in STRETCHED:
        if torch.is_tensor(entry.get(name)) and len(entry[name]) > 1:
            fitted[name] = _repeat(comfy.utils.resize_to_batch_size(entry[name], batch), streams)
    for name in BATCHED:
        value = entry.get(name)
        if torch.is_tensor(value) and value.ndim > 2 - (name == "pooled_output") and len(value) not in (1, batch):
            fitted[name] = comfy.utils.repeat_to_batch_size(value, batch)
    if "cross_attn" in fitted and "model_conds" in entry:
        tokens = comfy.conds.CONDCrossAttn(fitted["cross_attn"])
        fitted["model_conds"] = {**entry["model_conds"], "c_crossattn": tokens}
    if entry.get("control") is not None:
        fitted["control"] = _fit_control(entry["control"], batch)
    return {**entry, **fitted}


def _fit_control(control: Any, batch: int) -> Any:
    """A chain of ControlNets whose pictures are 1 or `batch`; the same objects where nothing has to change."""
    before = getattr(control, "previous_controlnet", None)
    fitted = before and _fit_control(before, batch)
    hint = getattr(control, "cond_hint_original", None)
    odd = torch.is_tensor(hint) and len(hint) not in (1, batch)
    if fitted is before and not odd:
        return control
    control = control.copy()
    control.set_previous_controlnet(fitted)
    if odd:
        control.cond_hint_original = comfy.utils.repeat_to_batch_size(hint, batch)
    return control


# --- samplers --------------------------------------------------------------------------------------------------------


def paired(sampler: Any, streams: int) -> Any:
    """A sampler that draws the same noise for every stream: what it would draw for one stream alone."""
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        return sampler
    function = sampler.sampler_function
    takes = "noise_sampler" in inspect.signature(function).parameters

    @functools.wraps(function)
    def sample(model: Any, x: Tensor, sigmas: Tensor, *args: Any, **options: Any) -> Tensor:
        batch = len(x) // streams
        # what is kept of the picture outside of a mask; `ddim` has drawn it for the whole batch
        model.noise = _repeat(model.noise[:batch], streams)
        if takes and options.get("noise_sampler") is None:
            seed = (options.get("extra_args") or {}).get("seed")
            draw = _noise_sampler(function.__name__, x[:batch], sigmas, seed)
            options["noise_sampler"] = lambda *at: _repeat(draw(*at), streams)
        return function(model, x, sigmas, *args, **options)

    # the sampler may be shared with other nodes
    sampler = copy.copy(sampler)
    sampler.sampler_function = sample
    return sampler


def _noise_sampler(name: str, x: Tensor, sigmas: Tensor, seed: int | None) -> Callable[..., Tensor]:
    """What ComfyUI's sampler functions use where they are given none."""
    if not BROWNIAN.match(name):
        return k_sampling.default_noise_sampler(x, seed=seed)
    low, high = sigmas[sigmas > 0].min(), sigmas.max()
    return k_sampling.BrownianTreeNoiseSampler(x, low, high, seed=seed, cpu=not name.endswith("_gpu"))


# --- one unconditional prediction for all ----------------------------------------------------------------------------

ALONE = "likeness_one_stream"


def share_unconditional(streams: int, is_conditional: Callable[[list], bool]) -> Callable:
    """A CALC_COND_BATCH wrapper: the unconditional prompts see the first stream alone, the others take its noise.

    Args:
        is_conditional: whether a list of conditioning entries is to be drawn towards.
    """

    def wrapper(executor: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, options: dict) -> list[Tensor]:
        towards = [cond is None or is_conditional(cond) for cond in conds]
        if all(towards):
            return executor(model, conds, x, timestep, options)
        batch = len(x) // streams
        first = x[:batch]
        inner = {**options.get("transformer_options", {}), ALONE: True}
        alone = [None if t else c for t, c in zip(towards, conds)]
        drawn = [c if t else None for t, c in zip(towards, conds)]
        outs = executor(model, drawn, x, timestep, options)
        ours = executor(model, alone, first, timestep[:batch], {**options, "transformer_options": inner})
        # the same predicted noise (or velocity) from another place: denoising is linear in both
        sigma = timestep.reshape(-1, *[1] * (x.ndim - 1))
        apart = model.model_sampling.calculate_denoised(sigma, torch.zeros_like(x), x - _repeat(first, streams))
        return [out if t else _repeat(own, streams) + apart for t, out, own in zip(towards, outs, ours)]

    return wrapper
