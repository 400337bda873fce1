"""Training of a concept inside ComfyUI: previews, progress, Cancel, resume."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.infusion import concept as concepts
from ..core.infusion.concept import Concept
from ..core.infusion.control import Use
from ..training import infusion, loop
from ..training.data import photos
from ..training.plot import loss_curve
from . import denoiser, infusion_model, learned
from .hooks import sites, unet_of
from .progress import Progress, latents_of, name_of, native_size, stopped_name, until_done


def train(
    pictures: Sequence[Tensor],
    masks: Sequence[Tensor] | None,
    node_id: str,
    *,
    model: Any,
    clip: Any,
    vae: Any,
    prompt: str,
    word: str,
    steps: int,
    seed: int,
    learning_rate: float = 0.01,
    batch_size: int = 4,
    size: int = 0,
    fit: str = "crop",
    space: str = "text",
    layers: str = "all",
    preview_every: int = 100,
    snr_weighting: bool = False,
    bins: int = 1,
) -> tuple[Concept, Tensor]:
    """Learn a concept; returns it and the loss curve, (1, H, W, 3).

    Stopped by ComfyUI's Cancel, the concept of that moment is saved to models/likeness under a name that says so, and
    the same settings queued again go on from there.

    Raises:
        ValueError: pictures, masks or prompt that can't be used; each message names the input.
    """
    known = tuple(sites(unet_of(model)))
    fitted = photos.prepare(pictures, size or native_size(model), fit, masks)
    groups = photos.encode(fitted, lambda image: latents_of(model, vae, image))
    settings = loop.Settings(steps=steps, lr=learning_rate, clip=0.0, seed=seed, every=50)
    learn = infusion.Learn(space=space, layers=layers, bins=bins, batch=batch_size, snr=snr_weighting, loop=settings)
    blank = concepts.blank(known, [word], space, layers, bins)
    positive = infusion_model.encode(clip, prompt, blank, strict=True)
    if len(groups) > 1 and getattr(model.model, "concat_keys", ()):
        raise ValueError("fit: an inpainting model learns from photos of one shape; choose crop or pad")
    progress = Progress(vae, clip, positive, groups[0].data[:1], node_id, steps)
    training: list[infusion.Training] = []

    def work(native: denoiser.ComfyDenoiser, z: Tensor, prompts: dict[str, denoiser.Prompt]) -> None:
        if not training:
            training.append(_begin(native, prompts["positive"], groups, word, learn, z.device, name_of(model)))
            if (left := steps - training[0].trainer.step) > 0:
                progress.announce(training[0].trainer, left)
        training[0].denoiser, training[0].prompt = native, prompts["positive"]
        step = training[0].trainer.step
        until = (step // preview_every + 1) * preview_every if preview_every else None
        training[0].trainer.run(progress.watch, until)

    shape = torch.zeros(batch_size, *groups[0].data.shape[1:])  # what memory is made free for

    def some_steps() -> None:
        denoiser.run(model, {"positive": positive}, shape, work, gradients=True)
        if preview_every:
            concept = training[0].concept()
            progress.preview(infusion_model.apply(model, Use(concept)), concept.settings["steps"])

    until_done(lambda: bool(training) and training[0].trainer.step >= steps, some_steps, partial(_keep, training, word))
    return training[0].concept(), loss_curve(training[0].trainer.losses)[None]


def _begin(
    native: denoiser.ComfyDenoiser,
    prompt: denoiser.Prompt,
    groups: Sequence[photos.Group],
    word: str,
    learn: infusion.Learn,
    device: torch.device,
    model: str,
) -> infusion.Training:
    """A training that goes on from the checkpoint of the same settings, unless that one has gone further already."""
    scale = float(learn.batch * groups[0].data[0].numel())  # the loss is a mean over so many numbers
    make = partial(infusion.Training, native, prompt, groups, word, learn, scale=scale, device=device, model=model)
    training = make()
    training.trainer.keep(learned.folder() / ".training" / f"{training.trainer.identity}.checkpoint")
    return training if training.trainer.step <= learn.loop.steps else make()


def _keep(training: Sequence[infusion.Training], word: str, how: str) -> None:
    """Save what was learned until now under a name that says so."""
    if training and training[0].trainer.step:
        name = stopped_name(word, how, training[0].trainer.step)
        concepts.save(learned.free_path(name), training[0].concept())
