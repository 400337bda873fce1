"""What learns a subject: trained once, kept, gone on with for more steps, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from grid import Case
from infusion import peak_memory
from likeness.core import files
from likeness.core.denoiser import Hooks, guided
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import sample
from likeness.core.metrics.overfitting import Model
from likeness.training import loop
from torch import Tensor

from .bench import Bench

KIND = "evidence-learned"
SHORT = 4  # steps of the drawing whose memory is measured: each step needs the same


@dataclass(frozen=True)
class Customised:
    """A model that knows a subject.

    Args:
        latents: `(prompt, noise (S, C, h, w)) -> clean latents`.
        model: how it predicts noise under prompts without the subject; None where it is the foundation itself.
        denoiser, read, hooks: of a method that is drawn as the foundation is, by another network, text or hooks; None
            for others.
        costs: numbers by name: "train_seconds", and "train_memory" and "storage" in bytes.
    """

    latents: Callable[[str, Tensor], Tensor]
    model: Model | None = None
    denoiser: Any = None
    read: Callable[[str], Text] | None = None
    hooks: Hooks | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


Build = Callable[[Bench, Case], Customised]


def plain(bench: Bench, denoiser: Any, text: Callable[[str], Text], hooks: Hooks | None = None, **more: Any):
    """A `Customised` that is drawn as the foundation is, by another network, text or hooks."""

    @torch.no_grad()
    def latents(prompt: str, noise: Tensor) -> Tensor:
        predict = guided(denoiser, text(prompt), text(""), bench.guidance, hooks)
        return sample(denoiser.schedule, predict, noise, bench.timesteps)

    return Customised(latents, denoiser=denoiser, read=text, hooks=hooks, **more)


def foundation(bench: Bench, case: Case) -> Customised:
    """The untouched model."""
    return plain(bench, bench.model.denoiser, bench.text, costs={"storage": 0.0, "train_seconds": 0.0})


class Drawer:
    """A `grid.Draw` with its costs."""

    def __init__(self, bench: Bench, known: Customised, costs: Mapping[str, float]):
        self.bench, self.known, self.costs = bench, known, dict(costs)

    def __call__(self, prompt: str, noise: Tensor) -> Tensor:
        return self.bench.model.decode(self.known.latents(prompt, noise))


def drawer(bench: Bench, build: Build, case: Case) -> Drawer:
    """A method's pictures of a case; "memory" is the peak of drawing one of them, beside the weights."""
    known, short = build(bench, case), replace(bench, steps=min(SHORT, bench.steps))
    other = build(short, case)
    memory = peak(lambda: other.latents(short.asked(case)[0], short.noise(1)))
    return Drawer(bench, known, {**known.costs, "memory": memory})


def peak(function: Callable[[], Any]) -> float:
    """Peak bytes of what a function makes: torch's allocator on a GPU, live tensors on a CPU."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return float(torch.cuda.max_memory_allocated() - before)
    return float(peak_memory(function))


# --- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a method is trained on a subject.

    Args:
        lr: learning rate.
        steps: optimiser steps.
        batch: pictures a step.
        prior: weight of the class pictures' loss; 0 leaves them out.
        identifier: word before the class word, "" is none.
        rank: of a LoRA.
    """

    lr: float
    steps: int
    batch: int = 4
    prior: float = 0.0
    identifier: str = ""
    rank: int = 0

    def but_steps(self) -> str:
        return repr(replace(self, steps=0))


@dataclass
class Tuning:
    """A method about to learn a subject.

    Args:
        parameters: what is learned, by name; changed in place.
        loss: see `loop.Trainer`.
        use: what it is once the parameters are learned; called with the costs.
    """

    parameters: dict[str, Tensor]
    loss: loop.Loss
    use: Callable[[Mapping[str, float]], Customised]


Begin = Callable[[Bench, Case, Recipe], Tuning]


def tuned(bench: Bench, case: Case, name: str, begin: Begin, recipe: Recipe) -> Customised:
    """A subject as learned by a recipe: from its file, or trained so far, going on from fewer steps if they are kept.

    Raises:
        ValueError: the training has already gone on further; its state of fewer steps is gone.
    """
    tuning = begin(bench, case, recipe)
    known = files.fingerprint({f"{name} {recipe.but_steps()} {bench.base} {case.word}": case.images})
    folder = bench.work / "learned"
    path = folder / f"{known}-{recipe.steps}.safetensors"
    if not path.exists():
        settings = loop.Settings(steps=recipe.steps, lr=recipe.lr, clip=0.0, every=100)
        trainer = loop.Trainer(tuning.parameters, tuning.loss, settings, folder / f"{known}.checkpoint", known)
        if trainer.step > recipe.steps:
            raise ValueError(
                f"{trainer.checkpoint} has gone on to step {trainer.step}; remove it to go back to {recipe.steps}"
            )
        memory = peak(lambda: trainer.run(until=trainer.step + 1)) if trainer.step < recipe.steps else 0.0
        for steps in sorted({*(m for m in bench.milestones if trainer.step <= m < recipe.steps), recipe.steps}):
            seconds = _run(trainer, steps)
            save(folder / f"{known}-{steps}.safetensors", trainer.weights(), seconds, memory)
    tensors, header = files.load(path, kind=KIND)
    with torch.no_grad():
        for key, parameter in tuning.parameters.items():
            parameter.copy_(tensors[key])
            parameter.requires_grad_(False)
    return tuning.use(costs_of(tensors, header.settings))


def _run(trainer: loop.Trainer, steps: int) -> float:
    """Train up to so many steps; seconds that all of them take at the speed of these."""
    began, first = time.perf_counter(), trainer.step
    trainer.run(until=steps)
    return (time.perf_counter() - began) / max(1, trainer.step - first) * steps


def save(path: Path, tensors: Mapping[str, Tensor], seconds: float, memory: float) -> Path:
    """Keep what was learned, in full precision, with what it took."""
    settings = {"train_seconds": seconds, "train_memory": memory}
    return files.save(path, dict(tensors), files.Header(KIND, settings=settings))


def costs_of(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, float]:
    """Costs of something learned; its storage is that of its numbers in half precision."""
    return {"storage": 2.0 * sum(t.numel() for t in tensors.values()), **settings}


# --- losses ----------------------------------------------------------------------------------------------------------


def denoising(
    denoiser: DiffusersDenoiser, text: Callable[[], Text], latents: Tensor, batch: int
) -> Callable[[torch.Generator], Tensor]:
    """The plain loss of these baselines: mean squared error of the prediction on some of the pictures.

    Args:
        text: what they show, encoded anew each time where it is learned.
        latents: (N, C, h, w).
    """
    schedule = denoiser.schedule

    def loss(generator: torch.Generator) -> Tensor:
        z0 = latents[torch.randint(len(latents), (batch,), generator=generator)]
        t, eps = schedule.stratified(batch, generator), torch.randn(z0.shape, generator=generator)
        device = denoiser.unet.device
        answer = denoiser(schedule.noise(z0, eps, t).to(device), t.to(device), text())[0]
        return (answer - schedule.target(z0, eps, t).to(device)).square().mean()

    return loss


def with_prior(own: Callable, prior: Callable | None, weight: float) -> loop.Loss:
    """A subject's loss and, weighted, that of class pictures (DreamBooth's prior preservation)."""

    def loss(step: int, generator: torch.Generator) -> Tensor:
        value = own(generator)
        return value if prior is None else value + weight * prior(generator)

    return loss


def class_pictures(bench: Bench, case: Case, count: int) -> Tensor:
    """Latents of pictures that the foundation draws of the subject's class, (count, C, h, w); kept."""
    known = files.fingerprint({f"class {case.word} {bench.sampling} {count}": bench.noise(1)})
    path = bench.work / "classes" / f"{known}.safetensors"
    if not path.exists():
        drawn = foundation(bench, case).latents
        noise = bench.noise(count, first=50_000)
        parts = [drawn(f"a photo of a {case.word}", part) for part in noise.split(8)]
        files.save(path, {"latents": torch.cat(parts)}, files.Header(KIND))
    return files.load(path, kind=KIND)[0]["latents"]
