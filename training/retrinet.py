"""Training RetriNet (RetriBooru, section 5): `likeness train retrinet`, and the same from a node.

A target picture is denoised with references of its identity in the retrieval encoder. What is trained: the encoder, the
lookups of every level, and the U-Net's decoder, as differences to the frozen one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.denoiser import Conditioning, Denoiser
from ..core.retrinet.control import Retrieval
from ..core.retrinet.network import RetriNet
from ..core.retrinet.reference import References, box_mask
from . import loop, sharding
from .data import identities
from .data.identities import Bank, Choice
from .data.photos import weighted_mean
from .weighting import snr_weight

Watch = Callable[[loop.Progress], None]
LOCKS = ("none", "decoder", "both")


@dataclass(frozen=True)
class Learn:
    """What is learned, and how.

    Args:
        references: N a target (paper: 4).
        task: composition, reconstruction or multitask.
        pipeline: "b" takes references from other pictures of the identity, "a" from the target itself.
        drop: share of prompts that are dropped (paper: 0.5; 0.25 for composition).
        face_weight: lambda, weight of the face's loss (Eq. 3); the paper does not publish it, 0.5 is ours.
        figure_weight: of a third term, the loss of the figure outside of its face box **[ours]**; 0 is Eq. 3.
        lock: "decoder" freezes the U-Net's decoder (LockD), "both" the retrieval encoder too (LockB).
        rank: of the decoder's differences; None trains it whole, as the paper does **[a low rank is ours]**.
        levels: skips that retrieve; None is all.
        snr: weight the loss by the signal-to-noise ratio, as the embedded model was trained **[ours]**.
        batch: targets a step.
        size: pixels of targets and references.
        save_memory: recompute activations in the backward pass instead of keeping them (headless only).
        loop: steps and rates; the paper takes 9000 of 64 targets, its learning rate is unpublished.
    """

    references: int = 4
    task: str = "composition"
    pipeline: str = "b"
    drop: float = 0.5
    face_weight: float = 0.5
    figure_weight: float = 0.0
    lock: str = "none"
    rank: int | None = None
    levels: tuple[str, ...] | None = None
    snr: bool = False
    batch: int = 8
    size: int = 512
    save_memory: bool = False
    loop: loop.Settings = field(default_factory=lambda: loop.Settings(steps=9000, lr=1e-4, warmup=100, ema=0.999))

    def __post_init__(self):
        if self.task not in identities.TASKS or self.pipeline not in identities.PIPELINES or self.lock not in LOCKS:
            raise ValueError(
                f"task {self.task!r}, pipeline {self.pipeline!r}, lock {self.lock!r}: choose from "
                f"{identities.TASKS}, {identities.PIPELINES}, {LOCKS}"
            )
        lowest = min(self.face_weight, self.figure_weight)
        if min(self.references, self.batch) < 1 or not 0 <= self.drop <= 1 or lowest < 0:
            raise ValueError("references and batch must be at least 1, drop within 0..1, loss weights at least 0")


class Training:
    """A RetriNet being trained.

    Args:
        denoiser: the frozen model.
        network: what is trained; on the model's device.
        text: a prompt to its conditioning; "" is the null text. Asked for every time; may be replaced between runs.
        extra: what SDXL's encoder wants besides a concept's text, see `References`; None for models that want nothing.
        bank: pictures.
        learn: see `Learn`.
        checkpoint: file to save to and to resume from; None keeps nothing.
        accelerator, scale: see `loop.Trainer`.
        source: names model and pictures, so that the checkpoint of others is refused.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        network: RetriNet,
        text: Callable[[str], Conditioning],
        bank: Bank,
        learn: Learn,
        checkpoint: Path | None = None,
        accelerator: Any = None,
        scale: float = 1.0,
        source: str = "",
        extra: Callable[[str], Mapping[str, Tensor]] | None = None,
    ):
        self.denoiser, self.network, self.bank, self.learn = denoiser, network, bank, learn
        self.text, self.extra = text, extra
        self.device = next(network.parameters()).device
        self._weight = snr_weight(denoiser.schedule) if learn.snr else torch.ones(len(denoiser.schedule))
        frozen = {"none": (), "decoder": ("delta.",), "both": ("delta.", "encoder.")}[learn.lock]
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        if frozen:
            network.delta = None
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        identity = {k: v for k, v in vars(learn).items() if k not in ("loop", "save_memory")}
        # a sharded network can't be copied
        self._like = copy.deepcopy(network).cpu() if sharding.asked(accelerator) else network
        blocks = [*network.encoder.down_blocks, network.encoder.mid_block]
        self.trainer = loop.Trainer(
            parameters,
            self._loss,
            learn.loop,
            checkpoint,
            f"{source} {identity}",
            accelerator,
            scale,
            network,
            [block for block in blocks if any(p.requires_grad for p in block.parameters())],
        )

    def run(self, watch: Watch | None = None, until: int | None = None) -> RetriNet:
        """Train to the end, or until so many steps; what the watcher raises stops it, checkpointed."""
        self.trainer.run(watch, until)
        return self.learned()

    @torch.no_grad()
    def learned(self) -> RetriNet:
        """A copy of the network with the averaged weights, for use; every process of a sharded run has to ask."""
        network = copy.deepcopy(self._like)
        own = dict(network.named_parameters())
        for name, tensor in self.trainer.weights().items():
            own[name].copy_(tensor)
        s = self.learn
        network.settings = {"steps": self.trainer.step, "lr": s.loop.lr, "batch": s.batch, "seed": s.loop.seed}
        network.settings |= {"task": s.task, "pipeline": s.pipeline, "drop": s.drop, "references": s.references}
        network.settings |= {"size": s.size, "of": s.loop.steps}
        return network.eval().requires_grad_(False)

    def prepare(self, step: int) -> set[str]:
        """Encode the pictures that a step will show before it does, and say which prompts it may ask for."""
        numbers = range(self.learn.loop.accumulation)
        return {""}.union(*(self._prepared(self.trainer.generator(step, number)) for number in numbers))

    def _prepared(self, generator: torch.Generator) -> set[str]:
        chosen, aims, choices = self.drawn(generator)
        shots = [self.bank.target(i, aim)[1] for i, aim in zip(chosen, aims)]
        words = [self.bank.reference(i, choice)[0] for i, own in zip(chosen, choices) for choice in own]
        return {*words, *(shot.prompt for shot in shots)}

    def drawn(self, generator: torch.Generator) -> tuple[list[int], list[int], list[list[Choice]]]:
        """Identities of a step, their pictures to be drawn, and what is shown of the others."""
        people, s = self.bank.people, self.learn
        chosen = torch.randint(len(people), (s.batch,), generator=generator).tolist()
        aims = [int(torch.randint(len(people[i]), (), generator=generator)) for i in chosen]
        choose = partial(identities.choose, s.references, generator=generator, task=s.task, pipeline=s.pipeline)
        return chosen, aims, [choose(len(people[i]), aim) for i, aim in zip(chosen, aims)]

    def _loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Eq. 3; its terms are means over their masks **[ours]**."""
        s, schedule = self.learn, self.denoiser.schedule
        chosen, aims, choices = self.drawn(generator)
        targets = [self.bank.target(i, aim) for i, aim in zip(chosen, aims)]
        z0 = torch.stack([latents for latents, _ in targets])
        references = self.references(chosen, choices)
        dropped = (torch.rand(s.batch, generator=generator) < s.drop).tolist()
        prompts = [self.text("" if drop else shot.prompt) for (_, shot), drop in zip(targets, dropped)]
        t = schedule.stratified(s.batch, generator)
        eps = torch.randn(z0.shape, generator=generator)
        z, wanted = (x.to(self.device) for x in (schedule.noise(z0, eps, t), schedule.target(z0, eps, t)))
        hooks = Retrieval(self.network, references, len(schedule)).hooks
        answer = self.denoiser(z, t.to(self.device), prompts[0].with_rows(prompts[1:]), hooks=hooks)[0]
        wrong = (answer.float() - wanted).square() * self._weight[t].to(self.device).reshape(-1, 1, 1, 1)
        size = z0.shape[-2:]
        loss = weighted_mean(wrong, torch.stack([shot.seen for _, shot in targets]))
        faces = [torch.zeros(1, *size) if shot.face is None else box_mask(shot.face, size) for _, shot in targets]
        faces = torch.stack(faces)
        figures = torch.stack([shot.figure for _, shot in targets]) * (1 - faces)
        for weight, mask in ((s.face_weight, faces), (s.figure_weight, figures)):
            if weight and bool(mask.any()):
                loss = loss + weight * weighted_mean(wrong, mask)
        return loss

    def references(self, chosen: Sequence[int], choices: Sequence[Sequence[Choice]]) -> References:
        """What the encoder is shown: as many choices for each of these identities."""
        shown = [self.bank.reference(i, choice) for i, own in zip(chosen, choices) for choice in own]
        words, latents, masks = zip(*shown)
        tokens = torch.cat([self.text(word).tokens for word in words]).to(self.device)
        extra = [self.extra(word) for word in words] if self.extra else [{}]
        shape = (len(choices), len(choices[0]))
        return References(
            torch.stack(latents).unflatten(0, shape).to(self.device),
            tokens,
            torch.stack(masks).unflatten(0, shape),
            {k: torch.cat([each[k] for each in extra]).to(self.device) for k in extra[0]},
        )
