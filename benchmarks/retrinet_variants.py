"""Conditioners that are compared by what RetriBooru claims, and how each is trained; see retrinet_claims.py.

All learn from the same pictures of the demo world's people in the same order, two references a target, and are kept in
runs/retrinet. RetriNets go on from the one that comes with the pack, because from nothing they need many thousand steps
to bring more than colours. Where something is locked from the beginning, they begin anew, beside one without a lock.

* IP-Adapter: diffusers' own layers, whole references as image prompts.
* ControlNet: diffusers' own network, the references as its control image, one behind the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from diffusers import ControlNetModel
from evidence import zero_shot
from grid import model, told
from likeness.core import files
from likeness.core.controlnet import Controlled
from likeness.core.demo import judges
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.retrinet import network as retrinet
from likeness.training import loop
from likeness.training import retrinet as training
from likeness.training.data import identities
from retrinet import SHIPPED, SIZE
from torch import Tensor
from torch.nn import functional as F

CACHE = Path("runs/retrinet")
LOOP = loop.Settings(steps=500, lr=3e-4, warmup=100, ema=0.995, every=100)
LEARN = training.Learn(
    references=2, task="reconstruction", rank=16, snr=True, batch=16, size=SIZE, loop=LOOP,
    face_weight=0.2, figure_weight=1.0,  # as the shipped one was trained
)  # fmt: skip
HIDDEN = (16, 32, 64, 64)  # channels of the ControlNet's way from picture to latents


@dataclass(frozen=True)
class Run:
    """A conditioner and how it is trained.

    Args:
        learn: what differs from `LEARN`.
        longer: how many times as many steps.
        anew: a RetriNet that does not go on from the shipped one.
    """

    kind: str = "retrinet"
    learn: dict[str, Any] = field(default_factory=dict)
    longer: int = 1
    anew: bool = False

    def settings(self, steps: int) -> training.Learn:
        return replace(LEARN, **self.learn, loop=replace(LOOP, steps=steps * self.longer))


PRECISION = "bf16"  # of the trainings; on a CPU faster than float32
KINDS = {"retrinet": 1, "ip-adapter": 2, "controlnet": 2}  # how many times as many steps: only the first goes on
LOCKED = {"not locked": "none", "decoder locked": "decoder", "both locked": "both"}
DROPS = [(task, p) for task in ("composition", "reconstruction") for p in (0.25, 0.75)]
RUNS = {
    **{f"{kind}-{p}": Run(kind, {"pipeline": p}, longer) for kind, longer in KINDS.items() for p in "ba"},
    **{name: Run(learn={"lock": lock}, longer=3, anew=True) for name, lock in LOCKED.items()},
    "composition, drop 0.5": Run(learn={"task": "composition"}),
    **{f"{task}, drop {p}": Run(learn={"task": task, "drop": p}) for task, p in DROPS},
    "longer": Run(longer=3),
}


# --- training --------------------------------------------------------------------------------------------------------


@cache
def bank(people: int) -> identities.Bank:
    """People to learn from, none of whom is measured."""
    return identities.Bank(identities.rendered(people, 5, size=SIZE, style="photo"), model()[0].encode, SIZE)


@cache
def learned_by(name: str) -> str:
    """Fingerprint of what a run shares with those it is compared with: how it learns, and what it goes on from."""
    run, how = RUNS[name], replace(LEARN, loop=replace(LOOP, steps=0))
    began = zero_shot.load_file(SHIPPED) if run.kind == "retrinet" and not run.anew else {}
    return files.fingerprint({**began, f"{how} {PRECISION}": torch.empty(0)})


@cache
def accelerator() -> Accelerator:
    return Accelerator(cpu=True, mixed_precision=PRECISION)


def trained(name: str, steps: int, people: int) -> Any:
    """A run's conditioner: a RetriNet, or a U-Net or ControlNet of diffusers."""
    run, own = RUNS[name], f"{model()[1]} {learned_by(name)} {name} {steps} {people}"
    file = CACHE / f"{own.replace(' ', '-')}.safetensors"
    train = {
        "retrinet": partial(_retrinet, anew=run.anew),
        "ip-adapter": _ip_adapter,
        "controlnet": _controlnet,
    }
    with patch("torch.nn.functional.scaled_dot_product_attention", partial(_exact, F.scaled_dot_product_attention)):
        return train[run.kind](run.settings(steps), file, people)


def _exact(attention: Callable, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
    """Attention in float32, whose gradients take half as long on a CPU as bf16's."""
    with torch.autocast("cpu", enabled=False):
        return attention(q.float(), k.float(), v.float(), **how).to(q.dtype)


def _retrinet(learn: training.Learn, file: Path, people: int, anew: bool = False) -> retrinet.RetriNet:
    if not file.exists():
        loaded = model()[0]
        torch.manual_seed(0)
        network = retrinet.blank(loaded.denoiser, learn.rank) if anew else retrinet.load(SHIPPED)
        kept = file.with_suffix(".checkpoint")
        begun = training.Training(
            loaded.denoiser, network, cache(loaded.text), bank(people), learn, kept, accelerator()
        )
        retrinet.save(file, begun.run(told(file.stem)))
    return retrinet.load(file).eval().requires_grad_(False)


def _ip_adapter(learn: training.Learn, file: Path, people: int) -> DiffusersDenoiser:
    setting = SimpleNamespace(model=model()[0])
    if file.exists():
        return zero_shot.with_ip_adapter(setting, zero_shot.read_ip_adapter(file))
    width = embed(torch.zeros(1, 3, SIZE, SIZE)).shape[-1]
    denoiser = zero_shot.with_ip_adapter(setting, zero_shot.blank_ip_adapter(setting.model.denoiser.unet, width))
    own = {n: p for n, p in denoiser.unet.named_parameters() if "_ip." in n or n.startswith("encoder_hid_proj")}
    _train(own, learn, file, people, lambda seen: (denoiser, lambda text: image_prompt(text, seen)))
    files.write_atomically(file, zero_shot.save(zero_shot.written_ip_adapter(denoiser.unet)))
    return denoiser


def _controlnet(learn: training.Learn, file: Path, people: int) -> ControlNetModel:
    folder, base = file.with_suffix(""), model()[0].denoiser
    if folder.is_dir():
        return ControlNetModel.from_pretrained(folder).eval().requires_grad_(False)
    torch.manual_seed(0)
    network = ControlNetModel.from_unet(
        base.unet, conditioning_embedding_out_channels=HIDDEN, conditioning_channels=3 * learn.references
    )

    def way(seen: Tensor) -> tuple[Any, Callable[[Text], Text]]:
        return Controlled(base, network, seen.flatten(1, 2)), lambda text: text

    _train(dict(network.named_parameters()), learn, file, people, way)
    network.save_pretrained(folder)
    return network.eval().requires_grad_(False)


def _train(own: dict[str, Tensor], learn: training.Learn, file: Path, people: int, way: Callable) -> None:
    """Any conditioner that sees references as pictures, by RetriNet's loss and its draws.

    Args:
        way: references (B, N, 3, S, S) -> the model that they condition, and what prompts become.
    """
    known, text, base = bank(people), cache(model()[0].text), model()[0].denoiser
    chooser = training.Training(base, retrinet.blank(base, 1), text, known, learn)
    for parameter in own.values():
        parameter.requires_grad_(True)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen, aims, choices = chooser.drawn(generator)
        targets = [known.target(i, aim) for i, aim in zip(chosen, aims)]
        pictures = [shown(known, i, choice) for i, each in zip(chosen, choices) for choice in each]
        denoiser, read = way(torch.stack(pictures).unflatten(0, (learn.batch, learn.references)))
        dropped = (torch.rand(learn.batch, generator=generator) < learn.drop).tolist()
        prompts = [text("" if drop else shot.prompt) for (_, shot), drop in zip(targets, dropped)]
        return zero_shot.weighted(
            denoiser, read(prompts[0].with_rows(prompts[1:])), torch.stack([z for z, _ in targets]), generator
        )

    zero_shot.fit(own, loss, learn.loop, file, f"{file.stem} {learn}", told(file.stem), accelerator())


@cache
def shown(known: identities.Bank, person: int, choice: identities.Choice) -> Tensor:
    """A reference's pixels, (3, S, S)."""
    return identities.reference(known.people[person][choice.shot](), choice, SIZE)[1]


@torch.no_grad()
def embed(images: Tensor) -> Tensor:
    return judges.clip().images(images)


def image_prompt(text: Text, seen: Tensor) -> Text:
    """References (B, N, 3, S, S) as image prompts; none where the prompt is the negative one."""
    embedded = embed(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
    own = embedded if text.conditional else torch.zeros_like(embedded)
    return replace(text, extra={"added_cond_kwargs": {"image_embeds": [own]}})
