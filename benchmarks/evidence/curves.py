"""What more training steps do (Infusion, Figs. 9 to 11): W2, Fisher divergence, likeness and faith to the prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from grid import Case
from likeness.core.demo import world
from likeness.core.metrics.overfitting import Captioned, Model, fisher_divergence, wasserstein2
from torch import Tensor

from .bench import Bench
from .learned import Customised, Recipe, foundation, tuned
from .measure import kept, measured
from .methods import BEGIN

STEPS = (100, 500, 1000, 2000)
SAMPLES, DIMENSIONS, BATCH = 256, 64, 32
SAMPLING = 10  # DDIM steps of a sample for W2
PICTURES = 32  # for the Fisher divergence
UNSEEN = 31_000_000  # first seed of pictures that no training saw
OTHER = 90_000  # first seed of the customised model's noise


@torch.no_grad()
def samples(bench: Bench, known: Customised, case: Case, first: int) -> Tensor:
    """Latents drawn for the superclass prompt, (SAMPLES, d)."""
    parts = bench.noise(min(SAMPLES, 4 * bench.limit or SAMPLES), first).split(BATCH)
    return torch.cat([known.latents(f"a photo of a {case.word}", part) for part in parts]).flatten(1).cpu()


def projection(latents: Tensor, dimensions: int = DIMENSIONS) -> Callable[[Tensor], Tensor]:
    """Onto the largest principal components of some latents (N, d), (N, d) to (N, dimensions)."""
    x = latents.double()
    _, _, rows = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return lambda other: other.double() @ rows[:dimensions].T


def captioned(bench: Bench, case: Case, count: int = PICTURES) -> list[Captioned]:
    """Pictures of the world that show other kinds than the subject's, with their captions; no caption has its word."""
    found, seed = [], UNSEEN
    while len(found) < count:
        subject, scene = world.sample_scene(seed)
        caption = world.caption(subject, scene, random.Random(seed))
        seed += 1
        if case.word not in caption.split() and not (case.word == "person" and subject.word == "person"):
            picture = world.draw(subject, scene)
            found.append(Captioned(bench.model.encode(picture.image[None]), bench.text(caption)))
    return found


def fisher(bench: Bench, known: Customised, pictures: list[Captioned]) -> float:
    """Mean latent Fisher divergence from the foundation under prompts without the subject."""
    custom = known.model or Model(bench.model.denoiser)
    generator = torch.Generator().manual_seed(0)
    return fisher_divergence(Model(bench.model.denoiser), custom, pictures, generator=generator, draws=4).mean


def curve(bench: Bench, case: Case, name: str, recipe: Recipe, steps: Sequence[int], shown: list[Any]) -> dict:
    """Steps -> metric -> value, for a tuned method on a subject.

    Args:
        shown: `captioned` pictures.
    """
    quick = replace(bench, steps=min(SAMPLING, bench.steps))
    plain = samples(quick, foundation(quick, case), case, OTHER)
    onto, found = projection(plain), {}
    for count in sorted(steps):
        own = replace(recipe, steps=count)
        known = tuned(bench, case, name, BEGIN[name], own)
        drawn = samples(quick, tuned(quick, case, name, BEGIN[name], own), case, OTHER + SAMPLES)
        values = {"w2": wasserstein2(onto(plain), onto(drawn)).w2, "fisher": fisher(bench, known, shown)}
        noise = bench.noise(1)
        latents = [known.latents(prompt, noise) for prompt in bench.asked(case)]
        images = torch.stack([bench.model.decode(z) for z in latents])
        scores = kept(measured(bench, case, images))
        values |= {k: sum(v) / len(v) for k, v in scores.items() if k in ("clip_t", "clip_i", "dino", "seg_dino")}
        found[str(count)] = {k: round(v, 4) for k, v in values.items()}
    return found


def floor(bench: Bench, case: Case) -> dict[str, float]:
    """W2 of the foundation to itself under other seeds: what two finite samples of one model are apart."""
    quick = replace(bench, steps=min(SAMPLING, bench.steps))
    known = foundation(quick, case)
    plain, again = (samples(quick, known, case, first) for first in (OTHER, OTHER + SAMPLES))
    onto = projection(plain)
    return {"w2": round(wasserstein2(onto(plain), onto(again)).w2, 4), "fisher": 0.0}
