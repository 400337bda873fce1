"""ToffeeNets trained in other ways: `python benchmarks/toffee_variants.py`, written to results/toffee-variants.json.

Other pairs (editing, generation, both; Toffee, Table 2), reconstruction probabilities (Table 3), and subjects shown
alone, in training and after it, instead of whole photos (section 3.3), each measured on held-out subjects with a
constant depth and with the photo's. Each is trained from nothing on as many pictures, with the subject weighed as for
the one that comes with the pack. What is trained is kept in runs/toffee, so that a stopped run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from grid import RESULTS, Case, asked_of, cases, model, told
from likeness.core import files
from likeness.core.controlnet import load as load_controlnet
from likeness.core.demo import world
from likeness.core.metrics.similarity import masked
from likeness.training import adapter_command, dino_adapter, loop, toffeenet
from likeness.training.data import examples
from safetensors.torch import load_file
from toffee_quality import DEPTH, attributes, drawn, interval, panel
from torch import Tensor

CACHE = Path("runs/toffee")
CONSTANT, AS_SHOWN, AS_SEEN = "constant depth", "photo's depth", "photo's view"
ALONE = {"dino": "seg_dino", "clip_i": "seg_clip_i"}  # the panel sees the subject alone
PICTURES = 1000
LOOP = loop.Settings(steps=1000, lr=5e-4, warmup=100, decay=0.5, ema=0.995, every=100)
LEARN = dino_adapter.Learn(what="low-rank", rank=8, snr=True, batch=16, figure_weight=0.7, loop=LOOP)
VARIANTS = {
    **{pairs: {"pairs": pairs} for pairs in ("both", "generation", "editing")},
    **{f"reconstruction {p}": {"reconstruct": p} for p in (0.25, 0.5)},
    "segmented": {},
}
SEGMENTED = "segmented"


@cache
def learned_by() -> str:
    """Fingerprint of what all variants share but the number of steps: how they learn, and the depth ControlNet."""
    how = replace(LEARN, loop=replace(LOOP, steps=0))
    return files.fingerprint({**load_file(DEPTH), f"{how} {PICTURES}": torch.empty(0)})


def trained(name: str, steps: int) -> Path:
    """A variant's adapter."""
    file = CACHE / f"{model()[1]}-{learned_by()}-{steps}-{name.replace(' ', '-')}.safetensors"
    if not file.exists():
        changes = dict(VARIANTS[name])
        pairs = changes.pop("pairs", "both")
        learn = replace(LEARN, **changes, loop=replace(LEARN.loop, steps=steps))
        config = toffeenet.Config(
            out=file, pictures=PICTURES, pairs=pairs, controlnet=str(DEPTH), learn=learn, threads=1
        )
        watch = told(name)
        loads = examples.rendered_pairs(PICTURES, pairs, learn.loop.seed, alone=name == SEGMENTED)
        adapter_command.run("toffeenet", config, loads, lambda stage, progress: watch(progress), config.controlnet)
    return file


def measured(file: Path, subjects: Sequence[Case], network: Any, as_shown: bool, alone: bool) -> dict[str, Any]:
    """A variant's numbers for each subject, in the shape of `training.comparison`, with their intervals."""
    own = {case.name: _scores(file, case, network, as_shown, alone) for case in subjects}
    return {
        "means": {m: interval({case: v[m] for case, v in own.items()}) for m in next(iter(own.values()))},
        "subjects": {
            case: {m: [round(x, 4) for x in v.tolist()] for m, v in each.items()} for case, each in own.items()
        },
    }


def _scores(file: Path, case: Case, network: Any, as_shown: bool, alone: bool) -> dict[str, Tensor]:
    """Metric -> values by prompt of a ToffeeNet's pictures of a subject, from one photo of it, seen from the front.

    Args:
        network: a ControlNet.
        as_shown: it sees the photo's depth instead of a constant.
        alone: the subject of the photo is shown alone.
    """
    asked, depth = asked_of(case), None
    photo = masked(case.images[:1], case.masks[:1]) if alone else case.images[:1]
    if as_shown:
        depth = world.photos(_subject(case), 1, style="photo", view="front", accessory=None)[0].depth
    keys = [f"{case.name} {i}" for i in range(len(asked))]
    images = drawn(file, photo, [each.prompt for each in asked], keys, network=network, depth=depth)
    scores = panel().score(images, asked, case.images, case.masks)
    found = {ALONE.get(metric, metric): v.float() for metric, v in scores.items()}
    return {**found, AS_SEEN: torch.tensor([float(view == "front") for view in attributes()(images)["view"].values])}


def _subject(case: Case) -> world.Subject:
    kind, number = case.name.rsplit(" ", 1)
    return world.held_out_subjects(int(number) + 1, kind)[int(number)]


def main(
    variants: tuple[str, ...] = tuple(VARIANTS),
    subjects: int = 8,
    steps: int = LOOP.steps,
    out: Path = RESULTS / "toffee-variants.json",
) -> None:
    """Train what is not trained yet, measure, write.

    Args:
        variants: some of them.
        subjects: held-out subjects.
        steps: of each training.
        out: file to write.
    """
    known, some = json.loads(out.read_text()) if out.exists() else {"methods": {}}, cases(subjects)
    network = load_controlnet(DEPTH, model()[0].denoiser.unet)
    for name in variants:
        file = trained(name, steps)
        for view in (CONSTANT, AS_SHOWN):
            found = measured(file, some, network, view == AS_SHOWN, name == SEGMENTED)
            about = {"steps": steps, "base": model()[1], "learn": learned_by()}
            known["methods"][f"{name}, {view}"] = {**about, **found}
            print(f"{name}, {view}: {json.dumps(found['means'])}", flush=True)
            out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
