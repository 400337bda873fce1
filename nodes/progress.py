"""What trainings inside ComfyUI share: progress, previews, Cancel, names of models."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from server import PromptServer
from torch import Tensor

from ..core.attention import base_of
from ..core.files import fingerprint
from ..training import loop
from .hooks import sites, unet_of

NATIVE_SIZE = {"sd1": 512, "sd2": 512, "sdxl": 1024}
PREVIEW_STEPS, PREVIEW_GUIDANCE = 12, 5.0


def native_size(model: Any) -> int:
    """Pixels of the side of a picture that a MODEL was made for."""
    return NATIVE_SIZE.get(base_of(tuple(sites(unet_of(model)))), 128)


def latents_of(model: Any, vae: Any, image: Tensor) -> Tensor:
    """A picture (1, 3, H, W) as latents in the model's scale."""
    return model.model.process_latent_in(vae.encode(image.movedim(1, -1)))


def name_of(model: Any) -> str:
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


def stopped_name(word: str, how: str, step: int) -> str:
    """The file name of what a training had learned when it was stopped."""
    return re.sub(r"[^\w -]", "_", f"{word} {how} at step {step}")


class Progress:
    """A training node's progress bar, what is ahead, and pictures drawn with what was learned so far.

    Args:
        positive: CONDITIONING of the previews.
        latent: a picture's latents, whose shape they take.
        steps: of the whole training.
    """

    def __init__(self, vae: Any, clip: Any, positive: list, latent: Tensor, node_id: str, steps: int):
        self.vae, self.node_id = vae, node_id
        self.positive, self.negative = positive, clip.encode_from_tokens_scheduled(clip.tokenize(""))
        self.latent, self.steps = torch.zeros_like(latent), steps
        self.bar = comfy.utils.ProgressBar(steps)

    def announce(self, trainer: loop.Trainer, left: int) -> None:
        """Say how long the steps left will take, before they start."""
        seconds, memory = trainer.probe()
        seconds *= left
        time = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
        text = f"{left} steps take about {time} and {memory / 2**30:.1f} GiB of memory"
        logging.info("Likeness: %s", text)
        PromptServer.instance.send_progress_text(text, self.node_id)

    def watch(self, progress: loop.Progress) -> None:
        """Called after every step."""
        self.bar.update_absolute(progress.step, self.steps)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def preview(self, patched: Any, step: int, positive: list | None = None) -> None:
        """Draw one picture of the training prompt by ordinary sampling and show it on the node."""
        from PIL import Image

        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(positive or self.positive, self.negative)
        guider.set_cfg(PREVIEW_GUIDANCE)
        sampling = patched.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", PREVIEW_STEPS)
        noise = torch.randn(self.latent.shape, generator=torch.Generator().manual_seed(0))
        sampler = comfy.samplers.ksampler("euler")
        latents = guider.sample(noise, self.latent, sampler, sigmas, disable_pbar=True, seed=0)
        pixels = (self.vae.decode(latents)[0].clamp(0, 1) * 255).round().byte().cpu().numpy()
        self.bar.update_absolute(step, self.steps, ("JPEG", Image.fromarray(pixels), 512))


def until_done(done: Callable[[], bool], some_steps: Callable[[], None], keep: Callable[[str], None]) -> None:
    """Go on until done; what was learned is kept under the name of what stopped it, Cancel or numbers overflowing."""
    try:
        while not done():
            some_steps()
    except comfy.model_management.InterruptProcessingException:
        keep("cancelled")
        raise
    except FloatingPointError:
        keep("stopped")
        raise
