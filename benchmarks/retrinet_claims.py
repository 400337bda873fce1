"""What RetriBooru claims, at a small scale: `python benchmarks/retrinet_claims.py`, to results/retrinet-claims.json.

Every run trains a conditioner (retrinet_variants.py) and measures it; a stopped run goes on. Measured are CLIP-I (the
mean over the references), CLIP-T, the VQA score, similarity-weighted diversity of their pairs, and leakage; intervals
are over people. Pipeline b takes references from other pictures of the person, pipeline a from the target itself.

Maps: how sharply RetriNet looks at its references, by level and step.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from grid import RESULTS, model
from likeness.core.controlnet import Controlled
from likeness.core.denoiser import Hooks
from likeness.core.diffusers import Text
from likeness.core.retrinet import network as retrinet
from likeness.training import comparison, evaluate
from retrinet import Asked, Make, People, compositions, drawn, leakage, reconstructions, retrieving
from retrinet_variants import LEARN, LOOP, RUNS, Run, image_prompt, learned_by, shown, trained
from torch import Tensor

SCALES = (0.25, 0.5, 0.75, 1.0)


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
    """Train what is not trained yet, measure what is not in the file yet, write, print.

    Args:
        runs: some of them.
        steps: of training, some runs take as many times as many.
        count: pictures that are measured.
        people: to learn from.
        held_out: people who are measured.
        scales: strengths; all but the last for pipelines a and b only.
        out: file to write, and to keep; another one measures anew.
    """
    found, known = json.loads(out.read_text()) if out.exists() else {"methods": {}}, People(held_out)
    for name in runs:
        some = scales if "pipeline" in RUNS[name].learn else scales[-1:]
        labels = {name if scale == scales[-1] else f"{name}, {scale}": scale for scale in some}
        about = {"steps": steps * RUNS[name].longer, "unit": steps, "people": people, "pictures": count}
        about |= {"base": model()[1], "learn": learned_by(name)}
        left = {k: v for k, v in labels.items() if not about.items() <= found["methods"].get(k, {}).items()}
        conditioner = trained(name, steps, people) if left else None
        if left and name == "retrinet-b":
            found["maps"] = sharpness(conditioner, known, 8)
        for label, scale in left.items():
            own = measured(name, conditioner, known, count, scale)
            found["methods"][label] = {**about, **own}
            out.write_text(json.dumps(found, indent=1) + "\n")
        for label in labels:
            own = found["methods"][label]
            print(label, json.dumps(own["means"]), json.dumps(own["leakage"]), flush=True)
        if name == "retrinet-b":
            print("maps", json.dumps(found["maps"]), flush=True)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
