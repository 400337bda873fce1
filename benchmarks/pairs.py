"""The pair factory on the demo world: `python benchmarks/pairs.py`, written to results/pairs.json.

* workers: candidates a second with one and with two Ray workers, the slope of what is finished by when; parts of the
  first and last round, in which not all work, are left out. "demo" computes on this machine's cores, so that what else
  runs there slows two workers more than one; "waiting" is a painter on another device, which shows what the factory
  itself costs.
* overhead: seconds of a part against a bare loop over the same models, without files, tolerance or Ray: in one process
  part by part in turn, and with one Ray worker run by run in turn.
* subjects: seconds of a candidate with ever more subjects, their parts by turns; beside it, in the same run, steps of a
  DreamBooth LoRA on the demo model, one of which every subject would need, and of the factory's two trainings, which
  it needs once. From all the cost of a million pairs, drawn as docs/pairs-cost.png; see `pairs_cost`.

Numbers are medians.

`--only workers subjects` does some of the parts and keeps the other results. Idle cores are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pairs_cost
import torch
from likeness.core import files
from likeness.training.data.pairs import build, draw, plan, table
from likeness.training.data.pairs.make import Pairs
from likeness.training.data.pairs.masks import pasted
from likeness.training.data.pairs.models import Models, Names, shipped
from likeness.training.data.photos import decode

ROOT = Path(__file__).resolve().parent
RESULT, PLOT = ROOT / "results" / "pairs.json", ROOT.parent / "docs" / "pairs-cost.png"
PARTS = ("workers", "overhead", "subjects")


def config(out: Path, options: argparse.Namespace, **fields: Any) -> build.Config:
    names = Names(refiner=str(options.refiner), view_generator=str(options.view_generator))
    settings = draw.Settings(steps=options.steps)
    given = {"pairs": options.pairs, "subjects": options.subjects, "part": options.part, "sheet": 0, "same": 1.0}
    return build.Config(out, models=names, draw=settings, **{**given, "workers": 0, **fields})


# --- workers ---------------------------------------------------------------------------------------------------------


class Waiting:
    """Paints in no time, but waits for another device."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def draw(self, prompts: list[str], keys: list[str], depth: Any = None) -> torch.Tensor:
        time.sleep(self.seconds * len(keys))
        return torch.stack([draw.noise(key, (3, 128, 128)).sigmoid() for key in keys])

    def edit(self, images: torch.Tensor, masks: torch.Tensor, prompts: Any, keys: Any, *_: Any) -> torch.Tensor:
        return pasted(images, masks, self.draw(prompts, keys))

    def refine(self, images: torch.Tensor, *_: Any) -> tuple[torch.Tensor, list[None]]:
        return images, [None] * len(images)

    def view(self, images: torch.Tensor, keys: Any, words: Any) -> torch.Tensor:
        return images


class Tiny:
    """Judges that cost nothing."""

    def images(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.flatten(1)[:, ::997] - 0.5)

    def texts(self, texts: list[str]) -> torch.Tensor:
        return self.images(torch.stack([draw.noise(text, (3, 128, 128)) for text in texts]))

    def segment(self, images: torch.Tensor, text: str) -> torch.Tensor:
        masks = torch.zeros_like(images[:, :1])
        masks[..., 32:96, 32:96] = 1
        return masks


def waiting(seconds: float) -> Models:
    return Models(Waiting(seconds), Tiny(), Tiny(), Tiny())


def rate(settings: build.Config, models: Any) -> dict[str, float]:
    """Candidates a second of a build, in the steady part of it."""
    times: list[float] = []

    def watch(stage: str, done: int, total: int) -> None:
        if stage == plan.CANDIDATES:
            times.append(time.perf_counter())

    start = time.perf_counter()
    build.build(settings, watch, models)
    workers = max(1, settings.workers)
    steady = times[1 + workers : -workers]  # the first call tells what there was before
    if len(steady) < 2:
        raise ValueError("too few parts to measure; raise --pairs or lower --part")
    line = statistics.linear_regression(steady, range(len(steady)))  # workers may finish together or by turns
    return {
        "pairs_a_second": settings.part * line.slope,
        "seconds_to_first_part": times[1] - start,
        "seconds_in_all": time.perf_counter() - start,
    }


def measure_workers(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, models in (("demo", None), ("waiting", partial(waiting, 0.2))):
        runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        load = [os.getloadavg()[0]]
        for i in range(options.rounds):
            for count in runs:  # by turns, so that what else runs meets both
                out = folder / f"{name} {count} {i}"
                runs[count].append(rate(config(out, options, workers=count), models))
                load.append(os.getloadavg()[0])
        one, two = (pairs_cost.median(runs[count], "pairs_a_second") for count in (1, 2))
        result[name] = {"one": runs[1], "two": runs[2], "speedup": two / one, "load": load}
    return result


# --- overhead --------------------------------------------------------------------------------------------------------


class Bare:
    """The models' calls for a part of pairs and nothing else; pictures are decoded before."""

    def __init__(self, work: Path, part: int, models: Models, batch: int):
        lines = [line for line in plan.lines(work / plan.PLAN, part) if "dropped" not in line]
        known = table.rows(work / plan.SUBJECTS, table.Subject, [tuple(line["place"]) for line in lines])
        self.models, self.batches = models, []
        for editing in (False, True):
            some = [line for line in lines if line["editing"] == editing]
            for start in range(0, len(some), batch):
                chunk = some[start : start + batch]
                found = [known[tuple(line["place"])] for line in chunk]
                pictures = torch.stack([decode(each.image) for each in found])
                figures = torch.stack([decode(each.mask)[:1] for each in found])
                told = [{**line, "word": each.word} for line, each in zip(chunk, found)]
                self.batches.append((told, pictures, figures))

    def __call__(self) -> None:
        painter = self.models.painter
        for lines, pictures, figures in self.batches:
            prompts, keys = [line["prompt"] for line in lines], [f"0 pair {line['number']}" for line in lines]
            if lines[0]["editing"]:
                target = painter.edit(pictures, figures, prompts, keys, [1.0] * len(keys))
                target, shown = painter.refine(target, pictures, figures, keys, figures)[0], pictures
            else:
                target = painter.refine(painter.draw(prompts, keys), pictures, figures, keys)[0]
                shown = painter.view(pictures, keys, [line["word"] for line in lines])
            for images in (shown, target):
                self.models.dino.images(images)
            self.models.clip.images(target), self.models.clip.texts(prompts)


def measure_overhead(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    settings = config(folder / "whole", options)
    build.build(settings)
    work, models = folder / "whole" / "work", settings.models.models(settings.draw)
    models.load()
    maker = Pairs(work, settings.seed, settings.draw, settings.encoding, 1, models)
    parts = [part for part in range(settings.pairs // settings.part) if part]  # the first warms up
    loops = {part: Bare(work, part, models, settings.draw.batch) for part in (0, *parts)}
    maker(0), loops[0]()
    ratios, bare = [], []
    for i, part in enumerate(parts * options.rounds):
        seconds: dict[bool, float] = {}
        for factory in (True, False) if i % 2 else (False, True):
            started = time.perf_counter()
            maker(part) if factory else loops[part]()
            seconds[factory] = time.perf_counter() - started
        ratios.append(seconds[True] / seconds[False])
        bare.append(seconds[False] / settings.part)
    found = []
    for i in range(options.rounds):
        started = time.perf_counter()
        for part in parts:
            loops[part]()
        alone = (time.perf_counter() - started) / (len(parts) * settings.part)
        told = rate(config(folder / f"ray {i}", options, workers=1), None)
        found.append(1 / told["pairs_a_second"] / alone)
    return {
        "seconds_a_pair_of_the_bare_loop": statistics.median(bare),
        "one_process": statistics.median(ratios),
        "one_ray_worker": statistics.median(found),
        "one_ray_worker_all": found,
        "load": os.getloadavg()[0],
    }


# --- subjects --------------------------------------------------------------------------------------------------------


def measure_subjects(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    given = {"refiner": options.refiner, "view-generator": options.view_generator}
    about = {kind: pairs_cost.lengths(file) for kind, file in given.items()}
    builds = {count: config(folder / f"subjects {count}", options, subjects=count) for count in options.counts}
    told = {count: build.build(settings) for count, settings in builds.items()}
    again = in_turn(list(builds.values()))
    rows = [made(told[count], count) | {"seconds_a_pair_made": each} for count, each in zip(builds, again)]
    lora, trained = [], {kind: [] for kind in given}
    for count in options.counts:  # by turns, so that what else runs meets all
        lora.append(pairs_cost.lora_step(folder / f"lora {count}", options.lora_steps))
        for kind, seconds in trained.items():
            where = folder / f"{kind} {count}"
            seconds.append(pairs_cost.training_step(kind, where, options.training_steps, about[kind]["batch"]))
    step = statistics.median(lora)
    result = {
        "steps": options.steps,
        "pairs": options.pairs,
        "factory": rows,
        "trainings": pairs_cost.trainings(trained, about),
        "dreambooth_lora": {
            "seconds_a_step": step,
            "all_seconds_a_step": lora,
            "steps": pairs_cost.LORA_STEPS,
            "batch": pairs_cost.LORA_BATCH,
            "seconds_a_subject": step * pairs_cost.LORA_STEPS,
            "seconds_a_picture": pairs_cost.picture_seconds(options.steps),
        },
    }
    costs = {f"{count} subjects": pairs_cost.hours(result, count) for count in pairs_cost.COUNTS}
    return {**result, "worker_hours_of_1M_pairs": costs}


def in_turn(builds: list[build.Config]) -> list[float]:
    """Seconds of a pair of each finished build, whose parts are made again by turns: what else runs meets all alike."""
    settings = builds[0]
    models = settings.models.models(settings.draw)
    models.load()
    makers = [Pairs(each.out / "work", each.seed, each.draw, each.encoding, 1, models) for each in builds]
    found: list[list[float]] = [[] for _ in builds]
    for part in range(settings.pairs // settings.part):
        for maker, seconds in zip(makers, found):
            pairs = sum("dropped" not in line for line in plan.lines(maker.work / plan.PLAN, part))
            started = time.perf_counter()
            maker(part)
            seconds.append((time.perf_counter() - started) / max(1, pairs))
    return [statistics.median(each[1:] or each) for each in found]  # the first warms up


def made(told: dict[str, Any], subjects: int) -> dict[str, Any]:
    """A build's numbers; planned repeats, which cost nothing, are no pairs."""
    repeats = told["dropped"]["pair"].get(plan.REPEATED, {"count": 0})["count"]
    pairs = told["made"]["pair"] - repeats
    names = ("seconds a subject", "seconds a pair made", "worker seconds")
    row = {"subjects": subjects, "pairs_made": pairs, "repeats": repeats, "kept_share": told["pairs"] / pairs}
    return row | {name.replace(" ", "_"): told["took"][name] for name in names}


MEASURE = {"workers": measure_workers, "overhead": measure_overhead, "subjects": measure_subjects}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pairs", type=int, default=192)
    parser.add_argument("--subjects", type=int, default=48, help="for workers and overhead")
    parser.add_argument("--counts", type=int, nargs="+", default=[12, 48, 192], help="of subjects, for subjects")
    parser.add_argument("--part", type=int, default=8, help="pairs a shard")
    parser.add_argument("--steps", type=int, default=20, help="of DDIM")
    parser.add_argument("--lora-steps", type=int, default=20, help="measured of each LoRA")
    parser.add_argument("--training-steps", type=int, default=8, help="measured of each of the factory's trainings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--refiner", type=Path, default=shipped("refiner"))
    parser.add_argument("--view-generator", type=Path, default=shipped("view-generator"))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(options.out.read_text()) if options.out.is_file() else {}
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in options.only:
            result[part] = MEASURE[part](folder / part, options)
            files.write_atomically(options.out, (json.dumps(result, indent=2) + "\n").encode())
    if "subjects" in options.only:
        pairs_cost.plot(result["subjects"], PLOT if options.out == RESULT else options.out.with_suffix(".png"))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
