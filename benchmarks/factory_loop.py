"""From the factory to ToffeeNet on the demo world, the loop closed once: `python benchmarks/factory_loop.py`.

The factory makes pairs with the embedded models. The ToffeeNet that comes with the pack is trained on from them, and as
long on as many pairs of the renderer; before and after both it draws held-out subjects from one photo each. Without a
View Generator in the pack that step is left out, and the results say so.

Written to results/factory-loop.json and docs/factory-loop.jpg. Pairs and trainings are kept in runs/factory, so that a
stopped run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from grid import RESULTS, Case, asked_of, cases, model
from likeness.core import files
from likeness.core.controlnet import load as load_controlnet
from likeness.core.demo import sheet
from likeness.core.toffee import adapter as adapters
from likeness.training import dino_adapter, loop, toffeenet
from likeness.training.data import examples
from likeness.training.data.pairs import build, draw, fingerprints
from likeness.training.data.pairs.models import NONE, Names, shipped
from toffee_quality import DEPTH, SIZE, drawn, interval, panel
from torch import Tensor

DOCS = RESULTS.parent.parent / "docs"
METRICS = {"dino": "Seg-DINO", "clip_t": "CLIP-T"}
BEFORE, FACTORY, RENDERER = "before", "after factory's pairs", "after renderer's pairs"
SHOWN = 4  # pictures of a row of the sheet
Scores = dict[str, dict[str, Tensor]]  # metric -> subject -> a value for each prompt


def made(out: Path, pairs: int, subjects: int, steps: int) -> dict[str, Any]:
    """The factory's pairs; returns its report.

    Args:
        pairs: planned; filters leave fewer.
        subjects: of theirs.
        steps: of DDIM.
    """
    views = "demo" if shipped("view-generator").is_file() else NONE
    names, settings = Names(view_generator=views), draw.Settings(size=SIZE, steps=steps)
    told = build.build(build.Config(out, pairs, subjects, models=names, draw=settings, workers=0), say)
    keys = ("pairs", "generation", "editing", "subjects", "made", "thresholds", "took")
    dropped = {why: found["count"] for why, found in told["dropped"]["pair"].items()}
    return {"view generator": views, **{key: told[key] for key in keys}, "dropped": dropped}


def say(stage: str, done: int, total: int) -> None:
    print(f"{stage}: {done} of {total}", flush=True)


def trained(out: Path, pairs: Path | None, count: int, steps: int, batch: int) -> Path:
    """A ToffeeNet that goes on from the one that comes with the pack.

    Args:
        pairs: the factory's; None takes the renderer's.
        count: of the renderer's.
    """
    if out.is_file() and adapters.load(out).settings["steps"] == steps:  # one that was stopped writes what it has
        return out
    init = shipped("toffeenet")
    rank = max(t.shape[0] for name, t in adapters.load(init).delta.whole().items() if name.endswith("/down"))
    settings = loop.Settings(steps=steps, lr=2e-4, warmup=10, decay=0.5, every=20)
    learn = dino_adapter.Learn(what="low-rank", rank=rank, snr=True, batch=batch, loop=settings)
    config = toffeenet.Config(
        out, init=init, pictures=count, pairs_from=pairs, threads=1, controlnet=str(DEPTH), learn=learn
    )
    return toffeenet.train(config, lambda stage, at: say(f"{out.parent.name} {stage}", at.step, at.steps))


def measured(file: Path, subjects: Sequence[Case], network: Any) -> tuple[Scores, dict[str, Tensor]]:
    """Scores of a ToffeeNet's pictures, and the pictures by subject; depth is a constant."""
    scores: Scores = {}
    pictures = {}
    for case in subjects:
        asked = asked_of(case)
        keys = [f"{case.name} {i}" for i in range(len(asked))]
        images = drawn(file, case.images[:1], [each.prompt for each in asked], keys, network=network)
        for metric, values in panel().score(images, asked, case.images, case.masks).items():
            scores.setdefault(METRICS.get(metric, metric), {})[case.name] = values.float()
        pictures[case.name] = images
    return scores, pictures


def compared(found: Mapping[str, Scores]) -> dict[str, Any]:
    """Means with their intervals over subjects, and of both trainings what they changed."""
    result = {name: {metric: interval(v) for metric, v in scores.items()} for name, scores in found.items()}
    for name in (FACTORY, RENDERER):
        changes = {
            metric: {case: v - found[BEFORE][metric][case] for case, v in own.items()}
            for metric, own in found[name].items()
        }
        result[f"change {name}"] = {metric: interval(v) for metric, v in changes.items()}
    return result


def draw_sheet(pairs: Path, subjects: Sequence[Case], pictures: Mapping[str, Mapping[str, Tensor]], out: Path) -> None:
    """Some of the factory's pairs, and what each ToffeeNet draws of some subjects."""
    rows = []
    for load in examples.of_pairs(pairs, SIZE)[:SHOWN]:
        pair = load()
        rows.append((f"pair: {pair.prompt}", torch.stack([pair.subject, pair.target])))
    for case in subjects[:SHOWN]:
        for name, own in pictures.items():
            rows.append((f"{case.name}: photo, {name}", torch.cat([case.images[:1], own[case.name][:SHOWN]])))
    sheet.contact_sheet(rows, out)


def main(
    pairs: int = 620,
    subjects: int = 160,
    steps: int = 100,
    cases_measured: int = 8,
    batch: int = 16,
    draw_steps: int = 20,
    work: Path = Path("runs/factory"),
    out: Path = RESULTS / "factory-loop.json",
    picture: Path = DOCS / "factory-loop.jpg",
) -> None:
    """Make pairs, train, measure, write.

    Args:
        pairs: planned; filters leave fewer.
        subjects: that they show.
        steps: of both trainings.
        cases_measured: held-out subjects.
        batch: pairs a step.
        draw_steps: of DDIM, in the factory.
        work: folder to keep pairs and trainings in.
        out: file to write.
        picture: contact sheet to write.
    """
    torch.set_num_threads(1)
    init = fingerprints.of(shipped("toffeenet"), whole=True)
    views = "views" if shipped("view-generator").is_file() else "no-views"
    source = work / f"pairs-{pairs}-{subjects}-{draw_steps}-{views}"
    told = made(source, pairs, subjects, draw_steps)
    about = f"{source.name}-{steps}-{batch}-{init}"
    files_of = {
        BEFORE: shipped("toffeenet"),
        FACTORY: trained(work / about / "factory" / "toffeenet.safetensors", source, told["pairs"], steps, batch),
        RENDERER: trained(work / about / "renderer" / "toffeenet.safetensors", None, told["pairs"], steps, batch),
    }
    some, network = cases(cases_measured), load_controlnet(DEPTH, model()[0].denoiser.unet)
    scores, pictures = {}, {}
    for name, file in files_of.items():
        say(name, len(scores), len(files_of))
        scores[name], pictures[name] = measured(file, some, network)
    result = {"base": model()[1], "steps": steps, "batch": batch, "subjects": len(some), "factory": told}
    result |= compared(scores)
    files.write_atomically(out, (json.dumps(result, indent=2) + "\n").encode())
    draw_sheet(source, some, pictures, picture)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
