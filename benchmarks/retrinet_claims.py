"""What RetriBooru claims, at a small scale: `python benchmarks/retrinet_claims.py`, to results/retrinet-claims.json.

Every run trains a conditioner on the demo world's people from the same pictures in the same order, two references a
target; what is trained is kept in runs/retrinet, so that a stopped run goes on. RetriNets go on from the one that comes
with the pack, because from nothing they need many thousand steps to bring more than colours; where something is locked
from the beginning, they begin anew, beside one that is not locked. Measured are CLIP-I (the mean over the
references), CLIP-T, the VQA score, similarity-weighted diversity of their pairs, and leakage; intervals are over
people. Pipeline b takes references from other pictures of the person, pipeline a from the target itself.

Maps: how sharply RetriNet looks at its references, by level and step.

* IP-Adapter: diffusers' own layers, whole references as image prompts.
* ControlNet: diffusers' own network, the references as its control image, one behind the other.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
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
from grid import RESULTS, model, told
from likeness.core import files
from likeness.core.controlnet import Controlled
from likeness.core.demo import judges
from likeness.core.denoiser import Hooks
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.retrinet import network as retrinet
from likeness.training import comparison, evaluate, loop
from likeness.training import retrinet as training
from likeness.training.data import identities
from retrinet import SHIPPED, SIZE, Asked, Make, People, compositions, drawn, leakage, reconstructions, retrieving
from torch import Tensor
from torch.nn import functional as F

CACHE = Path("runs/retrinet")
LOOP = loop.Settings(steps=500, lr=3e-4, warmup=100, ema=0.995, every=100)
LEARN = training.Learn(
    references=2, task="reconstruction", rank=16, snr=True, batch=16, size=SIZE, loop=LOOP,
    face_weight=0.2, figure_weight=1.0,  # as the shipped one was trained
)  # fmt: skip
SCALES = (0.25, 0.5, 0.75, 1.0)
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


# --- measuring -------------------------------------------------------------------------------------------------------


def way_of(run: Run, conditioner: Any, people: People, scale: float) -> Make:
    """Drawing with a conditioner; a ControlNet or IP-Adapter is scaled as diffusers scales it."""
    if run.kind == "retrinet":
        return retrieving(people, conditioner, strength=scale)
    base = model()[0].denoiser

    def make(some: Sequence[Asked]) -> tuple[Any, Hooks | None, Callable[[Text], Text]]:
        each = [torch.stack([shown(people.bank, p, c) for p, c in one.shown]) for one in some]
        seen = torch.stack(each)
        if run.kind == "controlnet":
            return Controlled(base, conditioner, seen.flatten(1, 2), scale), None, lambda text: text
        for processor in conditioner.unet.attn_processors.values():
            if hasattr(processor, "scale"):
                processor.scale = [scale]
        return conditioner, None, lambda text: image_prompt(text, seen)

    return make


def measured(name: str, conditioner: Any, people: People, count: int, scale: float) -> dict[str, Any]:
    """A run's pictures as `training.comparison` keeps them, with intervals over people, and what leaked."""
    composed = RUNS[name].learn.get("task") == "composition"
    asked = (compositions if composed else reconstructions)(people, count, LEARN.references)
    images = drawn(asked, way_of(RUNS[name], conditioner, people, scale))
    found: dict[str, list[Tensor]] = {}
    who = torch.tensor([each.shown[0][0] for each in asked])
    models = replace(evaluate.embedded(), segment=None)
    for image, each in zip(images.split(1), asked):
        references = torch.stack([people.pictures[p][c.shot].image for p, c in each.shown])
        prompt = f"a photo of a person, {each.place}"
        for key, value in evaluate.score(models, image, references, [prompt]).each.items():
            found.setdefault(key, []).append(value)
    values = {key: torch.cat(parts) for key, parts in found.items()}
    each = {
        str(int(i)): {key: [round(float(v[who == i].mean()), 4)] for key, v in values.items()} for i in who.unique()
    }
    found = {"methods": {name: {"subjects": each}}}
    intervals = {key: comparison.mean(found, name, key) for key in values}
    return {
        "subjects": each,
        "means": {key: [round(x, 4) for x in (i.mean, i.low, i.high)] for key, i in intervals.items()},
        "leakage": leakage(people, asked, images),
    }


def sharpness(network: retrinet.RetriNet, people: People, count: int) -> dict[str, dict[str, float]]:
    """How evenly a trained network looks at its references: entropy as a share of the largest, by level and step."""
    levels: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}

    def watch(name: str, t: float, looked: Tensor) -> None:
        p = looked.flatten(1)
        share = float((-(p * p.clamp_min(1e-12).log()).sum(1) / math.log(p.shape[1])).mean())
        levels.setdefault(name, []).append(share)
        times.setdefault(str(round(t)), []).append(share)

    drawn(reconstructions(people, count, LEARN.references), retrieving(people, network, watch=watch))
    each = {"levels, fine to coarse": levels, "steps, noise to clean": times}
    return {name: {k: round(statistics.fmean(v), 4) for k, v in own.items()} for name, own in each.items()}


def main(
    runs: tuple[str, ...] = tuple(RUNS),
    steps: int = LOOP.steps,
    count: int = 80,
    people: int = 600,
    held_out: int = 40,
    scales: tuple[float, ...] = SCALES,
    out: Path = RESULTS / "retrinet-claims.json",
) -> None:
    """Train what is not trained yet, measure what is not measured yet, write.

    Args:
        runs: some of them.
        steps: of training, some runs take as many times as many.
        count: pictures that are measured.
        people: to learn from.
        held_out: people who are measured.
        scales: strengths; all but the last for pipelines a and b only.
        out: file to write.
    """
    found, known = json.loads(out.read_text()) if out.exists() else {"methods": {}}, People(held_out)
    for name in runs:
        some = scales if "pipeline" in RUNS[name].learn else scales[-1:]
        labels = {name if scale == scales[-1] else f"{name}, {scale}": scale for scale in some}
        about = {"steps": steps * RUNS[name].longer, "unit": steps, "people": people, "pictures": count}
        about |= {"base": model()[1], "learn": learned_by(name)}
        left = {k: v for k, v in labels.items() if not about.items() <= found["methods"].get(k, {}).items()}
        if not left:
            continue
        conditioner = trained(name, steps, people)
        if name == "retrinet-b":
            found["maps"] = sharpness(conditioner, known, 8)
        for label, scale in left.items():
            own = measured(name, conditioner, known, count, scale)
            found["methods"][label] = {**about, **own}
            print(label, json.dumps(own["means"]), json.dumps(own["leakage"]), flush=True)
            out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
