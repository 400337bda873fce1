"""How far a MODEL has drifted from its base: both over the same noised pictures, one after the other."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..core.infusion.control import Infusion
from ..core.metrics.overfitting import (
    Captioned,
    Distance,
    Estimate,
    Model,
    divergence,
    fisher_divergence,
    predictions,
    wasserstein2,
)
from . import denoiser, infusion_model
from .hooks import sites, unet_of
from .words import find_words, mark_words

NOT_MEASURED = -1.0


def measure(
    model: Any,
    custom: Any,
    clip: Any,
    vae: Any,
    images: Tensor,
    captions: str,
    base_samples: dict[str, Tensor] | None = None,
    custom_samples: dict[str, Tensor] | None = None,
    draws: int = 4,
    batch_size: int = 4,
    seed: int = 0,
) -> tuple[float, float, float, str]:
    """The two distances of Infusion, definitions 3.1 and 3.2.

    Args:
        model, custom: MODELs on one noise schedule; either may carry concepts.
        images: real pictures, (B, H, W, C) in 0..1.
        captions: a line for all pictures, or a line a picture.
        base_samples, custom_samples: LATENTs that the two drew with one prompt, both or neither.

    Returns:
        Latent Fisher divergence (a sum over latent dimensions), its standard error, 2-Wasserstein distance (the root,
        in the model's own scale of latents), and all of it in words. What was not measured is -1, which no distance is.

    Raises:
        ValueError: each message names the input.
    """
    lines = _lines(captions, len(images))
    _check_models(model, custom)
    distance = _distance(model, base_samples, custom_samples)
    sides = infusion_model.detach(model), infusion_model.detach(custom)
    words = tuple(dict.fromkeys(word for _, control in sides if control for word in control.words))
    where = {line: find_words(clip, line, words) for line in dict.fromkeys(lines)}
    prompts = {
        line: mark_words(clip.encode_from_tokens_scheduled(clip.tokenize(line)), marks) for line, marks in where.items()
    }
    latents = model.model.process_latent_in(vae.encode(images[..., :3]))
    fisher = _fisher(*sides, latents, lines, prompts, draws, batch_size, seed)
    if not math.isfinite(fisher.mean):
        raise ValueError("custom: its predictions or those of model are not finite; try whether both draw pictures")
    held = [line for line in lines if any(marks.any() for marks in where[line].values())]
    error = fisher.error if fisher.n > 1 else NOT_MEASURED
    w2 = NOT_MEASURED if distance is None else distance.w2
    return fisher.mean, error, w2, _describe(fisher, draws, distance, words, len(held))


# --- latent Fisher divergence ----------------------------------------------------------------------------------------

Side = tuple[Any, Infusion | None]


def _fisher(
    base: Side,
    custom: Side,
    latents: Tensor,
    lines: list[str],
    prompts: dict[str, list],
    draws: int,
    batch: int,
    seed: int,
) -> Estimate:
    """Both MODELs in one batch where one is the other with concepts, else one after the other."""
    # names of our own: a caption may read like what samplers call the negative prompt
    conditionings = {f"caption {i + 1}": cond for i, cond in enumerate(prompts.values())}
    groups = {name: [i for i, each in enumerate(lines) if each == line] for name, line in zip(conditionings, prompts)}
    beside = base[1] is None and custom[1] is not None and _same(base[0], custom[0])
    total = len(lines) * draws * (1 if beside else 2)
    bar = comfy.utils.ProgressBar(total)

    def watch(before: int, done: int, _: int) -> None:
        bar.update_absolute(before + done, total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def over(side: Side, before: int = 0) -> Any:
        model, control = side
        hooks = control.hooks if control else None

        def work(native: denoiser.ComfyDenoiser, z: Tensor, named: dict[str, denoiser.Prompt]) -> Any:
            pictures = [Captioned(latents[chosen].to(z), named[name]) for name, chosen in groups.items()]
            generator = torch.Generator().manual_seed(seed)  # both models see the same noise
            how = {"generator": generator, "draws": draws, "batch": batch, "watch": partial(watch, before)}
            if beside:
                return fisher_divergence(Model(native), Model(native, hooks), pictures, **how)
            return predictions(Model(native, hooks), pictures, **how)

        shape = torch.zeros(batch * (hooks.streams if hooks else 1), *latents.shape[1:])  # what memory is made free for
        return denoiser.run(model, conditionings, shape, work)

    return over(custom) if beside else divergence(over(base), over(custom, total // 2))


def _same(a: Any, b: Any) -> bool:
    """Whether two MODELs compute the same: the same weights under the same patches of every kind."""
    kinds = ("model_options", "object_patches", "wrappers", "callbacks", "injections", "hook_patches", "forced_hooks")
    alike = all(_alike(getattr(a, kind), getattr(b, kind)) for kind in kinds)
    return alike and a.is_clone(b) and a.patches_uuid == b.patches_uuid


def _alike(a: Any, b: Any) -> bool:
    """Whether nested options hold the very same things; clones share them, and tensors have no plain `==`."""
    if isinstance(a, dict) and isinstance(b, dict):
        # what was taken out leaves an empty dict behind
        return all(_alike(a.get(key, {}), b.get(key, {})) for key in a.keys() | b.keys())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    return a is b


# --- the rest --------------------------------------------------------------------------------------------------------


def _distance(model: Any, base: dict[str, Tensor] | None, custom: dict[str, Tensor] | None) -> Distance | None:
    """2-Wasserstein distance of two LATENTs in the model's own scale, None where neither is there."""
    given = {"base_samples": base, "custom_samples": custom}
    missing = [name for name, latent in given.items() if latent is None]
    if len(missing) == 2:
        return None
    if missing:
        raise ValueError(f"{missing[0]}: not connected, but the other model's samples are; connect both or neither")
    for name, latent in given.items():
        if len(latent["samples"]) < 2:
            raise ValueError(f"{name}: one sample has no spread; draw at least two with each model, better hundreds")
    sizes = [tuple(latent["samples"].shape[1:]) for latent in (base, custom)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"custom_samples: latents of {sizes[1]}, base_samples of {sizes[0]}; draw both in one size")
    return wasserstein2(*(model.model.process_latent_in(latent["samples"]) for latent in (base, custom)))


def _lines(captions: str, pictures: int) -> list[str]:
    """A caption for every picture."""
    lines = [line.strip() for line in captions.splitlines() if line.strip()]
    if not pictures:
        raise ValueError("images: the batch is empty; connect at least one real picture")
    if len(lines) not in (1, pictures):
        raise ValueError(
            f"captions: {len(lines)} lines for {pictures} pictures; write one line for all of them, or a line for each"
        )
    return lines if len(lines) == pictures else lines * pictures


def _check_models(model: Any, custom: Any) -> None:
    layouts, alphas = zip(*(_read(name, m) for name, m in (("model", model), ("custom", custom))))
    if layouts[0] != layouts[1]:
        raise ValueError("custom: its U-Net is built unlike that of model; connect the model that it was made from")
    if not torch.equal(*alphas):
        raise ValueError(
            "custom: its noise schedule is not that of model; give both the same sampling patch (ModelSampling "
            "nodes), or none"
        )


def _read(name: str, model: Any) -> tuple[tuple, Tensor]:
    """The attention layers of a MODEL and its cumulative alphas."""
    try:
        return tuple(sites(unet_of(model))), denoiser.schedule_of(model.get_model_object("model_sampling")).alphas
    except ValueError as e:
        raise ValueError(str(e).replace("model:", f"{name}:", 1)) from e


def _describe(fisher: Estimate, draws: int, distance: Distance | None, words: tuple[str, ...], held: int) -> str:
    spread = f" ± {fisher.error:.2g}" if fisher.n > 1 else ""
    lines = [f"Fisher divergence: {fisher.mean:.4g}{spread}", f"pictures: {fisher.n}, draws of each: {draws}"]
    if held:
        lines.append(f"of {held} the caption names {' or '.join(words)}: there the concept is at work")
    if distance is None:
        lines.append("2-Wasserstein distance: not measured, no samples connected")
    else:
        lines.append(f"2-Wasserstein distance: {distance.w2:.4g} ({distance.n[0]} and {distance.n[1]} samples)")
    return "\n".join(lines)
