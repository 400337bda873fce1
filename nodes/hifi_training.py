"""Training of a subject inside ComfyUI: both stages with previews, progress, Cancel, resume."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core import prompts as core_prompts
from ..core.hifi import subject as subjects
from ..core.hifi.subject import Subject
from ..training import hifi, loop
from ..training.data import photos
from ..training.plot import loss_curve
from . import denoiser, hifi_model, learned
from .progress import Progress, latents_of, name_of, native_size, stopped_name, until_done
from .words import find_words, laid_out, mark_words


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
    timesteps: int,
    seed: int,
    regularisation: float = hifi.Learn.regularisation,
    learning_rate: float = 5e-3,
    rows: int = subjects.ROWS,
    steps_each: int = 10,
    batch_size: int = 4,
    size: int = 0,
    fit: str = "crop",
    preview_every: int = 250,
) -> tuple[Subject, Tensor]:
    """Learn a subject; returns it and the loss curve, (1, H, W, 3).

    Stopped by ComfyUI's Cancel, the subject of that moment is saved to models/likeness under a name that says so, and
    the same settings queued again go on from there.

    Raises:
        ValueError: pictures, masks or prompt that can't be used; each message names the input.
    """
    fitted = photos.prepare(pictures, size or native_size(model), fit, masks)
    groups = photos.encode(fitted, lambda image: latents_of(model, vae, image))
    if len(groups) > 1 and getattr(model.model, "concat_keys", ()):
        raise ValueError("fit: an inpainting model learns from photos of one shape; choose crop or pad")
    settings = loop.Settings(steps=steps, lr=learning_rate, clip=0.0, seed=seed, every=50)
    learn = hifi.Learn(rows, regularisation, timesteps, steps_each, batch_size, loop=settings)
    positive = _encode(clip, prompt, word, rows)
    progress = Progress(vae, clip, positive, groups[0].data[:1], node_id, learn.steps)
    training: list[hifi.Training] = []

    def work(native: denoiser.ComfyDenoiser, z: Tensor, prompts: dict[str, denoiser.Prompt]) -> None:
        if not training:
            training.append(_begin(native, prompts, groups, word, learn, z.device, name_of(model)))
            if (left := learn.steps - training[0].step) > 0:
                progress.announce(training[0].trainer, left)
        training[0].denoiser, training[0].prompt = native, prompts["positive"]
        step = training[0].step
        training[0].run(progress.watch, (step // preview_every + 1) * preview_every if preview_every else None)

    shape = torch.zeros(batch_size, *groups[0].data.shape[1:])  # what memory is made free for

    def some_steps() -> None:
        both = {"positive": positive, "negative": progress.negative}
        denoiser.run(model, both, shape, work, gradients=True)
        if preview_every:
            subject = training[0].subject()
            marked = hifi_model.encode(clip, prompt, subject, positive)
            progress.preview(hifi_model.apply(model, subject), training[0].step, marked)

    until_done(lambda: bool(training) and training[0].step >= learn.steps, some_steps, partial(_keep, training, word))
    return training[0].subject(), loss_curve(training[0].losses)[None]


def _encode(clip: Any, prompt: str, word: str, rows: int) -> list:
    """The training prompt, whose word must be there and whose last text tokens must be free."""
    where = find_words(clip, prompt, [word])
    if not where[word].any():
        raise ValueError(f"prompt: {prompt!r} lacks the word {word!r}; both must name the subject alike")
    placed, tokens = laid_out(clip, prompt)
    subjects.places(tokens, core_prompts.end(placed), rows)
    return mark_words(clip.encode_from_tokens_scheduled(clip.tokenize(prompt)), where)


def _begin(
    native: denoiser.ComfyDenoiser,
    prompts: dict[str, denoiser.Prompt],
    groups: Sequence[photos.Group],
    word: str,
    learn: hifi.Learn,
    device: torch.device,
    model: str,
) -> hifi.Training:
    """A training that goes on from the checkpoint of the same settings, unless that one has gone further already."""
    scale = float(learn.batch * groups[0].data[0].numel())  # the loss is a mean over so many numbers
    both = prompts["positive"], prompts["negative"]
    make = partial(hifi.Training, native, *both, groups, word, learn, scale=scale, device=device, model=model)
    training = make()
    training.keep(learned.folder() / ".training" / f"{training.trainer.identity}.checkpoint")
    return training if training.trainer.step <= learn.loop.steps else make()


def _keep(training: Sequence[hifi.Training], word: str, how: str) -> None:
    """Save what was learned until now under a name that says so."""
    if training and training[0].step:
        subjects.save(learned.free_path(stopped_name(word, how, training[0].step)), training[0].subject())
