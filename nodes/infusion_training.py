"""Training of a concept inside ComfyUI: previews, progress, Cancel, resume."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from server import PromptServer
from torch import Tensor

from ..core.attention import base_of
from ..core.files import fingerprint
from ..core.infusion import concept as concepts
from ..core.infusion.concept import Concept
from ..core.infusion.control import Use
from ..training import infusion, loop
from ..training.data import photos
from ..training.plot import loss_curve
from . import concepts as files
from . import denoiser, infusion_model
from .hooks import sites, unet_of

NATIVE_SIZE = {"sd1": 512, "sd2": 512, "sdxl": 1024}
PREVIEW_STEPS, PREVIEW_GUIDANCE = 12, 5.0


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
) -> tuple[Concept, Tensor]:
    """Learn a concept; returns it and the loss curve, (1, H, W, 3).

    Stopped by ComfyUI's Cancel, the concept of that moment is saved to models/likeness under a name that says so, and
    the same settings queued again go on from there.

    Raises:
        ValueError: pictures, masks or prompt that can't be used; each message names the input.
    """
    known = tuple(sites(unet_of(model)))
    size = size or NATIVE_SIZE.get(base_of(known), 128)
    groups = photos.encode(photos.prepare(pictures, size, fit, masks), lambda image: _latents(model, vae, image))
    settings = loop.Settings(steps=steps, lr=learning_rate, clip=0.0, seed=seed, every=50)
    learn = infusion.Learn(space=space, layers=layers, batch=batch_size, loop=settings)
    blank = concepts.blank(known, [word], space, layers)
    positive = infusion_model.encode(clip, prompt, blank, strict=True)
    if len(groups) > 1 and getattr(model.model, "concat_keys", ()):
        raise ValueError("fit: an inpainting model learns from photos of one shape; choose crop or pad")
    progress = _Progress(model, clip, vae, positive, groups[0].data[:1], node_id, steps)
    training: list[infusion.Training] = []

    def work(native: denoiser.ComfyDenoiser, z: Tensor, prompts: dict[str, denoiser.Prompt]) -> None:
        if not training:
            training.append(_begin(native, prompts["positive"], groups, word, learn, z.device, _fingerprint(model)))
            if training[0].trainer.step < steps:
                progress.announce(training[0].trainer)
        training[0].denoiser, training[0].prompt = native, prompts["positive"]
        step = training[0].trainer.step
        until = (step // preview_every + 1) * preview_every if preview_every else None
        training[0].trainer.run(progress.watch, until)

    shape = torch.zeros(batch_size, *groups[0].data.shape[1:])  # what memory is made free for
    try:
        while not training or training[0].trainer.step < steps:
            denoiser.run(model, {"positive": positive}, shape, work, gradients=True)
            if preview_every:
                progress.preview(training[0].concept())
    except comfy.model_management.InterruptProcessingException:
        _keep(training, word, "cancelled")
        raise
    except FloatingPointError:
        _keep(training, word, "stopped")
        raise
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
    training.trainer.keep(files.folder() / ".training" / f"{training.trainer.identity}.checkpoint")
    return training if training.trainer.step <= learn.loop.steps else make()


def _fingerprint(model: Any) -> str:
    """Names a MODEL: some weights that adapters leave alone, and the adapters on it."""
    unet = unet_of(model)
    own = {f"{i}": p for i, p in enumerate([*unet.time_embed.parameters(), *unet.out.parameters()])}
    strengths = sorted((key, [(patch[0], patch[2]) for patch in patches]) for key, patches in model.patches.items())
    learned = {f"{key} {i}": t for key, patches in model.patches.items() for i, t in enumerate(_tensors(patches))}
    return f"{fingerprint(own | learned)} {strengths}"


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors inside a weight patch, which ComfyUI nests in tuples and adapters."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
    elif hasattr(value, "weights"):
        yield from _tensors(value.weights)


def _keep(training: Sequence[infusion.Training], word: str, how: str) -> None:
    """Save what was learned until now under a name that says so."""
    if training and training[0].trainer.step:
        name = re.sub(r"[^\w -]", "_", f"{word} {how} at step {training[0].trainer.step}")
        concepts.save(files.free_path(name), training[0].concept())


def _latents(model: Any, vae: Any, image: Tensor) -> Tensor:
    """A picture (1, 3, H, W) as latents in the model's scale."""
    return model.model.process_latent_in(vae.encode(image.movedim(1, -1)))


class _Progress:
    """The node's progress bar, what is ahead, and pictures drawn with the concept so far."""

    def __init__(self, model: Any, clip: Any, vae: Any, positive: list, latent: Tensor, node_id: str, steps: int):
        self.model, self.vae, self.node_id = model, vae, node_id
        self.positive, self.negative = positive, clip.encode_from_tokens_scheduled(clip.tokenize(""))
        self.latent, self.steps = torch.zeros_like(latent), steps
        self.bar = comfy.utils.ProgressBar(steps)

    def announce(self, trainer: loop.Trainer) -> None:
        """Say what is ahead before it starts."""
        seconds, memory = trainer.probe()
        seconds *= self.steps - trainer.step
        left = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
        text = f"{self.steps - trainer.step} steps take about {left} and {memory / 2**30:.1f} GiB of memory"
        logging.info("Likeness: %s", text)
        PromptServer.instance.send_progress_text(text, self.node_id)

    def watch(self, progress: loop.Progress) -> None:
        """Called after every step."""
        self.bar.update_absolute(progress.step, self.steps)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def preview(self, concept: Concept) -> None:
        """Draw one picture of the training prompt by ordinary sampling and show it on the node."""
        from PIL import Image

        guider = comfy.samplers.CFGGuider(infusion_model.apply(self.model, Use(concept)))
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(PREVIEW_GUIDANCE)
        sampling = self.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", PREVIEW_STEPS)
        noise = torch.randn(self.latent.shape, generator=torch.Generator().manual_seed(0))
        sampler = comfy.samplers.ksampler("euler")
        latents = guider.sample(noise, self.latent, sampler, sigmas, disable_pbar=True, seed=0)
        pixels = (self.vae.decode(latents)[0].clamp(0, 1) * 255).round().byte().cpu().numpy()
        self.bar.update_absolute(concept.settings["steps"], self.steps, ("JPEG", Image.fromarray(pixels), 512))
