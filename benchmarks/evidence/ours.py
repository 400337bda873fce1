"""The four papers' methods: Infusion, HiFi Tuner row by row, RetriNet in three forms, Toffee."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from grid import Case
from hifi_ablation import GUIDE, TURN, Row
from likeness.core import controlnet, files
from likeness.core.demo import MODEL
from likeness.core.denoiser import guided
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import sample
from likeness.core.hifi import guidance, subject
from likeness.core.hifi.align import align
from likeness.core.hifi.inversion import Trajectory, invert
from likeness.core.hifi.reference import pick
from likeness.core.hifi.subject import Subject, SubjectText, carry
from likeness.core.infusion.control import Infusion, Use
from likeness.core.infusion.sampling import draw
from likeness.core.metrics.overfitting import Model
from likeness.core.metrics.similarity import masked
from likeness.core.reach import Reach
from likeness.core.retrinet import network as retrinet
from likeness.core.retrinet.control import Retrieval
from likeness.core.retrinet.free import FreeRetrieval
from likeness.core.retrinet.reference import References, cut_out
from likeness.core.toffee import adapter as adapters
from likeness.core.toffee import tokens
from likeness.core.toffee.adapter import Injection
from likeness.core.toffee.drawing import prepared
from likeness.training import hifi, infusion, loop
from likeness.training.data.pairs.draw import Settings
from torch import Tensor

from .bench import Bench
from .learned import Customised, Recipe, Tuning, foundation, peak, plain

# --- Infusion --------------------------------------------------------------------------------------------------------


def learn_infusion(
    bench: Bench, case: Case, recipe: Recipe, fast: bool = False, bins: int = 1, snr: bool = False
) -> Tuning:
    """Residuals of the class word in every cross-attention layer, for so many parts of the noise schedule."""
    denoiser, prompt = bench.model.denoiser, bench.text(f"a photo of a {case.word}", [case.word])
    learn = infusion.Learn(batch=recipe.batch, bins=bins, snr=snr)
    training = infusion.Training(denoiser, prompt, bench.groups(case), case.word, learn)

    def use(costs: Mapping[str, float]) -> Customised:
        concept = training.concept()
        control = Infusion([Use(concept)], len(denoiser.schedule))

        @torch.no_grad()
        def latents(prompt: str, noise: Tensor) -> Tensor:
            text = bench.text(prompt, concept.words)
            settings = dict(guidance=bench.guidance, fast=fast)
            return draw(denoiser, text, bench.text(""), control, noise, bench.timesteps, **settings)[1]

        return Customised(latents, Model(denoiser, control.hooks), costs=costs)

    return Tuning(training.parameters, training.trainer.loss, use)


# --- HiFi Tuner ------------------------------------------------------------------------------------------------------


def subject_of(bench: Bench, case: Case, row: Row, steps: int) -> tuple[Subject, dict[str, float]]:
    """The learned rows of an ablation's row, kept; those that share the first stage share its checkpoint."""
    learn = learn_of(row, steps)
    own = f"hifi {row.start} {replace(learn, timesteps=0)} {bench.base} {case.word}"
    shown = {own: case.images} | ({"masks": case.masks} if row.masked else {})
    known = files.fingerprint(shown)
    path = bench.work / "subjects" / f"{known}-{row.timesteps}.safetensors"
    if not path.exists():
        prompt, null = (bench.text(text, [case.word]) for text in (f"a photo of a {case.word}", ""))
        word = prompt.tokens[:, prompt.words[case.word]].mean(1, keepdim=True).expand(-1, learn.rows, -1)
        start, data = (word if row.start == "word" else None), bench.groups(case, row.masked)
        kept = path.with_name(f"{known}.checkpoint")
        training = hifi.Training(bench.model.denoiser, prompt, null, data, case.word, learn, start, kept)
        trainer = training.trainer  # a step of the second stage is one of the first at one timestep
        memory = peak(lambda: trainer.loss(0, trainer.generator(0)).backward())
        began, first = time.perf_counter(), training.step
        found = training.run()
        rate = (time.perf_counter() - began) / max(1, training.step - first)
        costs = {"train_seconds": rate * learn.steps, "train_memory": memory}
        subject.save(path, replace(found, settings={**found.settings, "costs": costs}), torch.float32)
    found = subject.load(path)
    return found, {"storage": 2.0 * found.rows.numel(), **found.settings["costs"]}


def learn_of(row: Row, steps: int) -> hifi.Learn:
    """How an ablation's row is learned."""
    settings = loop.Settings(steps=steps, lr=5e-3, clip=0.0, every=100)
    return hifi.Learn(regularisation=row.regularisation, timesteps=row.timesteps, loop=settings)


def learned_rows(bench: Bench, case: Case, row: Row, steps: int) -> Customised:
    """Rows of text that the subject takes (HiFi Tuner, section 3.2), with as many of its parts as the row has."""
    what, costs = subject_of(bench, case, row, steps)

    def read(prompt: str) -> Text:
        return carry(bench.text(prompt), prompt, bench.model.text.tokenize, what) if prompt else bench.text("")

    known = plain(bench, bench.model.denoiser, read, SubjectText(what).hooks, costs=costs)
    return led(bench, case, known) if row.led else known


def led(bench: Bench, case: Case, known: Customised) -> Customised:
    """The same with a second pass that follows the most similar photo (HiFi Tuner, Algorithm 2)."""
    denoiser, times = known.denoiser, bench.timesteps

    @torch.no_grad()
    def latents(prompt: str, noise: Tensor) -> Tensor:
        first = known.latents(prompt, noise)
        path, mask, found = laid(bench, case, denoiser, bench.model.decode(first).cpu())
        if path is None:
            return first
        text, null = known.read(prompt), bench.text("")
        z = guidance.reference_guided(
            denoiser, text, null, noise[found], times, path, mask, bench.guidance, GUIDE, hooks=known.hooks
        )
        first[found] = z
        return first

    return replace(known, latents=latents, denoiser=None)


def laid(
    bench: Bench, case: Case, denoiser: DiffusersDenoiser, drawn: Tensor
) -> tuple[Trajectory | None, Tensor | None, Tensor]:
    """Photos laid where pictures have their subject, inverted (HiFi Tuner, section 3.3).

    Returns:
        Trajectory and masks of the pictures that have a subject, None where none has, and which they are, bool (B,).
    """
    seen, images, masks = bench.segment(drawn, case)[:, 0], [], []
    found = (seen > 0.5).flatten(1).float().mean(1) > 0.01
    for picture, mask in zip(drawn[found], seen[found]):
        best, _ = pick(bench.models.dino, picture[None], case.images, mask[None], case.masks[:, 0])
        moved = align(case.masks[best], mask[None], max_angle=TURN)
        size = (picture.shape[-2], picture.shape[-1])
        images.append(moved.apply(case.images[best : best + 1], size))
        masks.append(moved.apply(case.masks[best], size))
    if not images:
        return None, None, found
    z = bench.model.encode(torch.cat(images))
    path = invert(denoiser, bench.text(f"a photo of a {case.word}"), z, bench.timesteps)
    return path, guidance.at_latent_size(torch.cat(masks), (z.shape[-2], z.shape[-1])), found


def needs_masks(bench: Bench) -> str:
    """Why guidance by a photo can't be measured here; "" where it can."""
    known = bench.segmenter is not None and all(case.masks is not None for case in bench.cases)
    return "" if known else "needs masks of the photos (--masks) and a segmenter, which are not given"


# --- RetriNet --------------------------------------------------------------------------------------------------------


def weights_of(bench: Bench, name: str) -> Path | None:
    """The file of a network that is trained once for all subjects, in the weights' folder or the pack; or None."""
    places = [bench.weights / name]
    if bench.name == "demo":
        places += sorted(MODEL.parent.glob(f"*/demo {name}"))
    return next((path for path in places if path.is_file()), None)


def needs(name: str, command: str, bench: Bench) -> str:
    """Why a method whose weights are missing, or are of another model, is left out; "" where they are right."""
    path = weights_of(bench, name)
    if path is None:
        return f"no {name} in {bench.weights}; `{command}` makes one"
    own = files.fingerprint(bench.model.denoiser.unet.state_dict())
    if (source := files.peek(path).source) and source != own:
        return f"{name} was trained on another U-Net ({source}) than this one ({own})"
    return ""


def shown_to(bench: Bench, case: Case, word: str) -> References:
    """The photos as references: the subject cut out where its masks are known."""
    masks = case.masks if case.masks is not None else torch.ones_like(case.images[:, :1])
    cut = [cut_out(image, mask, bench.size) for image, mask in zip(case.images, masks)]
    images, seen = (torch.stack(part) for part in zip(*cut))
    text = bench.text(word)
    tokens = text.tokens.expand(len(images), -1, -1)
    extra = {k: v.expand(len(images), -1) for k, v in text.extra.get("added_cond_kwargs", {}).items()}
    return References(bench.model.encode(images), tokens, seen[:, 0], extra)


RETRINET_STRENGTH = 0.75  # on people as much likeness as 1, by DINO, and cleaner figures


def retrieval(bench: Bench, case: Case, time: str, name: str = "retrinet.safetensors") -> Customised:
    """RetriNet with whole figures as references, read at each timestep (paper) or once."""
    path, denoiser = weights_of(bench, name), bench.model.denoiser
    network = retrinet.load(path).to(denoiser.unet.device).eval().requires_grad_(False)
    shown, steps = shown_to(bench, case, "figure"), len(denoiser.schedule)
    control = Retrieval(network, shown, steps, Reach(RETRINET_STRENGTH), time=time)
    costs = {"storage": float(path.stat().st_size), "train_seconds": 0.0}
    return plain(bench, denoiser, bench.text, control.hooks, costs=costs)


def free_retrieval(bench: Bench, case: Case) -> Customised:
    """References in the decoder's self-attention, without any training **[ours]**."""
    denoiser = bench.model.denoiser
    references = shown_to(bench, case, f"a photo of a {case.word}")
    control = FreeRetrieval(references, denoiser.schedule, denoiser.sites)
    costs = {"storage": 2.0 * references.latents.numel(), "train_seconds": 0.0}
    return plain(bench, denoiser, bench.text, control.hooks, costs=costs)


# --- Toffee ----------------------------------------------------------------------------------------------------------

TOFFEE_GUIDANCE = 3.0
DEPTH = MODEL.parent / "controlnet" / "depth.safetensors"
NOISED = Settings().start  # t_0 of the Refiner, as a share of the schedule


def toffee(bench: Bench, case: Case, strength: float = 1.0, alone: bool = False, refined: bool = False,
           name: str = "toffeenet.safetensors") -> Customised:  # fmt: skip
    """ToffeeNet from the first photo, or from the subject of it alone; everything is drawn. A Refiner may follow."""
    path, base = weights_of(bench, name), bench.model.denoiser
    adapter = adapters.load(path).to(base.unet.device)
    image = masked(case.images[:1], case.masks[:1]) if alone else case.images[:1]
    denoiser, carried = prepared(bench.model, image, network=depth_of(bench))
    shown = bench.reader(adapter.dino).tokens(image).to(base.unet.device)
    hooks = Injection(adapter, shown, len(base.schedule), Reach(strength)).hooks

    def read(prompt: str) -> Text:
        return carried(bench.text(prompt))

    costs = {"storage": float(path.stat().st_size), "train_seconds": 0.0}
    known = plain(replace(bench, guidance=TOFFEE_GUIDANCE), denoiser, read, hooks, costs=costs)
    return refine(bench, case, known) if refined else known


def depth_file(bench: Bench) -> Path | None:
    """File or folder of a depth ControlNet, where there is one."""
    places = [bench.weights / "controlnet", bench.weights / "controlnet.safetensors"]
    if bench.name == "demo":
        places.append(DEPTH)
    return next((p for p in places if p.is_file() or (p / "config.json").is_file()), None)


def depth_of(bench: Bench) -> Any:
    """The depth ControlNet that ToffeeNet draws under, shown a constant depth (view change); or None."""
    found = depth_file(bench)
    return None if found is None else controlnet.load(found, bench.model.denoiser.unet)


def refined_foundation(bench: Bench, case: Case) -> Customised:
    """What the Refiner is for: the untouched model's pictures of the subject's kind, refined (Toffee, Figure 3)."""
    return refine(bench, case, foundation(bench, case))


def refine(bench: Bench, case: Case, known: Customised) -> Customised:
    """Details put right from the subject's patches (Toffee, section 2.1): noised part of the way, drawn by both's."""
    path, denoiser = weights_of(bench, "refiner.safetensors"), bench.model.denoiser
    adapter = adapters.load(path).to(denoiser.unet.device)
    dino = bench.reader(adapter.dino)
    masks = None if case.masks is None else case.masks[:1]
    own = tokens.encode(dino, adapter.dino, case.images[:1], masks)
    times = [t for t in bench.timesteps if t < NOISED * len(denoiser.schedule)]

    @torch.no_grad()
    def latents(prompt: str, noise: Tensor) -> Tensor:
        first = known.latents(prompt, noise)
        mixed, _, _ = tokens.blended(tokens.encode(dino, adapter.dino, bench.model.decode(first).cpu()), own)
        hooks = Injection(adapter, mixed.tokens.to(denoiser.unet.device), len(denoiser.schedule)).hooks
        z = denoiser.schedule.noise(first, noise, times[0])
        predict = guided(denoiser, bench.text(""), bench.text(""), TOFFEE_GUIDANCE, hooks)
        return sample(denoiser.schedule, predict, z, times)

    costs = {**known.costs, "storage": known.costs["storage"] + path.stat().st_size}
    return replace(known, latents=latents, costs=costs)
