"""Training of a RetriNet inside ComfyUI: previews, progress, Cancel, resume."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..core.retrinet import network as networks
from ..core.retrinet.control import Retrieval
from ..core.retrinet.reference import References
from ..training import loop, retrinet
from ..training.data.identities import Bank, choose
from ..training.plot import loss_curve
from . import denoiser, gradients, identities, learned, retrinet_model
from .managed import Managed, managed
from .progress import Progress, latents_of, name_of, native_size, stopped_name, until_done

BYTES = 20  # of a number in training: itself, its gradient, two moments, its average
CHUNK = 250  # steps between loadings of the model, where no preview asks for fewer


def train(
    node_id: str,
    *,
    model: Any,
    clip: Any,
    vae: Any,
    identities: str,
    steps: int,
    references: int,
    task: str,
    seed: int,
    prompt: str = "a photo of a person",
    learning_rate: float = 1e-4,
    batch_size: int = 1,
    accumulation: int = 8,
    rank: int = 0,
    size: int = 0,
    people: int = 200,
    preview_every: int = CHUNK,
    **widgets: Any,
) -> tuple[Managed, Tensor]:
    """Learn a RetriNet; returns it and the loss curve, (1, H, W, 3).

    Stopped by ComfyUI's Cancel, the RetriNet of that moment is saved to models/likeness under a name that says so, and
    the same settings queued again go on from there.

    Args:
        widgets: further fields of `training.retrinet.Learn`.

    Raises:
        FileNotFoundError, ValueError: identities, a size or a model that can't be used; each message names the input.
    """
    size = size or native_size(model)
    if size % 32:
        raise ValueError(f"size: {size} is no multiple of 32; choose another one")
    if getattr(model.model, "concat_keys", ()):
        raise ValueError("model: RetriNet can't learn on an inpainting model; connect the ordinary one")
    settings = loop.Settings(
        steps=steps, lr=learning_rate, warmup=100, accumulation=accumulation, ema=0.999, seed=seed, every=CHUNK
    )
    learn = retrinet.Learn(
        references=references, task=task, rank=rank or None, batch=batch_size, size=size, loop=settings, **widgets
    )
    session = Session(model, clip, vae, learn, (identities, prompt, people))
    progress = Progress(vae, clip, session.encoded(session.first), session.latent, node_id, steps)
    until_done(lambda: session.step >= steps, lambda: session.some_steps(progress, preview_every), session.keep)
    return managed(session.training.learned()), loss_curve(session.training.trainer.losses)[None]


class Session:
    """A training that ComfyUI loads the model for, some steps at a time.

    Pictures and prompts are encoded before the steps that need them: while the model learns, nothing else may claim
    its memory.

    Args:
        data: name of the identities, prompt of pictures without one, people of the demo world.
    """

    def __init__(self, model: Any, clip: Any, vae: Any, learn: retrinet.Learn, data: tuple[str, str, int]):
        self.model, self.learn, self._announced = model, learn, False

        @torch.no_grad()
        def encode(image: Tensor) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return latents_of(model, vae, image)

        self.encoded = cache(torch.no_grad()(lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text))))
        people = identities.load(data[0], learn.size, *data[1:], learn.loop.seed)
        self.bank = Bank(people, encode, learn.size)
        target, shot = self.bank.target(0, 0)
        self.first, self.latent = shot.prompt, target[None]
        self._source = f"{name_of(model)} {data} {identities.changed(data[0])}"
        self._make = retrinet_model.beginning(model, learn.rank, learn.loop.seed, name_of(model))
        with gradients.enabled():
            self.training, self._shown = self._begin()
            file = f"{self.training.trainer.identity}.checkpoint"
            self.training.trainer.keep(learned.folder() / ".training" / file)
            if self.step > learn.loop.steps:  # a longer training's
                self.training, self._shown = self._begin()

    @property
    def step(self) -> int:
        return self.training.trainer.step

    def some_steps(self, progress: Progress, preview_every: int) -> None:
        """Train until the next preview, and show it."""
        trainer, every = self.training.trainer, preview_every or CHUNK
        until = min((trainer.step // every + 1) * every, self.learn.loop.steps)
        prompts = set().union(*(self.training.prepare(step) for step in range(trainer.step, until)))

        def work(native: denoiser.ComfyDenoiser, text: Callable[[str], denoiser.Prompt]) -> None:
            self.training.denoiser, self.training.text = native, text
            if not self._announced:
                progress.announce(trainer, self.learn.loop.steps - trainer.step)
            self._announced = True
            trainer.run(progress.watch, until)

        self._run(prompts, work)
        if preview_every:
            network = self.training.learned()
            retrieval = Retrieval(network, self._shown, denoiser.timesteps_of(self.model))
            drawing = retrinet_model.attach(self.model, managed(network), retrieval)
            progress.preview(drawing, trainer.step)

    def keep(self, how: str) -> None:
        """Save what was learned until now under a name that says so."""
        if self.step:
            name = stopped_name("retrinet", how, self.step)
            networks.save(learned.free_path(name), self.training.learned())

    def _begin(self) -> tuple[retrinet.Training, References]:
        """A new training, and references of the first identity for previews."""
        network, device = self._make(), comfy.model_management.get_torch_device()
        comfy.model_management.free_memory(BYTES * sum(p.numel() for p in network.parameters()), device)
        learn, people = self.learn, self.bank.people
        choices = choose(learn.references, len(people[0]), 0, torch.Generator().manual_seed(0), learn.task)
        words = {self.bank.reference(0, choice)[0] for choice in choices}
        scale = float(learn.batch * self.latent[0].numel())  # the loss is a mean over so many numbers
        made = []

        def work(native: denoiser.ComfyDenoiser, text: Callable[[str], denoiser.Prompt]) -> None:
            training = retrinet.Training(
                native,
                network.to(device),
                text,
                self.bank,
                learn,
                scale=scale,
                source=self._source,
                extra=self._beside,
            )
            made.extend([training, training.references([0], [choices])])

        self._run(words, work)
        return tuple(made)

    def _beside(self, word: str) -> dict[str, Tensor]:
        """What SDXL wants besides a word that was encoded before: CLIP takes no memory while the model learns."""
        return gradients.plain(retrinet_model.beside_text(self.model, self.encoded(word), self.learn.size))

    def _run(self, prompts: set[str], work: Callable[[denoiser.ComfyDenoiser, Callable], None]) -> None:
        """`work(denoiser, text)` while the model is loaded; text gives the conditioning of any of these prompts."""
        names = {prompt: f"prompt {i}" for i, prompt in enumerate(sorted(prompts))}
        conditionings = {name: self.encoded(prompt) for prompt, name in names.items()}
        shape = torch.zeros(self.learn.batch, *self.latent.shape[1:])  # what memory is made free for

        def run(native: denoiser.ComfyDenoiser, z: Tensor, known: dict[str, denoiser.Prompt]) -> None:
            work(native, lambda prompt: known[names[prompt]])

        denoiser.run(self.model, conditionings, shape, run, gradients=True)
