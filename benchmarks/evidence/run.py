"""The parts of a run, each of which goes on where it was stopped and adds to the same results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from grid import Case, cell, cell_path
from likeness.core.demo import sheet
from likeness.training import loop
from torch import Tensor
from torch.nn import functional as F

from . import curves, zero_shot
from .bench import Bench, tuning_cases
from .learned import Recipe, tuned
from .measure import beside, kept, measured
from .methods import BEGIN, CURVED, GRIDS, Entry, entries, grid_of, recipes

Say = Callable[[str], None]
COSTS = ("train_seconds", "train_memory", "storage", "seconds", "memory", "torch", "threads")
TRAINED = loop.Settings(steps=1500, lr=1e-3, warmup=50, decay=0.5, ema=0.995, every=100)  # once for all subjects
TRAINED_BATCH, PAIRS = 16, 4000


def drawn(bench: Bench, entry: Entry, case: Case):
    """A cell's pictures and costs, kept in the bench's work folder."""
    return cell(entry.method(bench), case, bench.asked(case), bench.noise(), bench.work / "cells")


def grid(bench: Bench, found: dict[str, Any], names: Sequence[str], save: Callable[[], Any], say: Say = print) -> None:
    """Draw and measure methods; those that can't be are noted with the reason."""
    rows = entries(bench, chosen(found))
    for name in names or list(rows):
        entry = rows[name]
        method = {"family": entry.family, "settings": entry.settings}
        if reason := entry.missing(bench):
            found["methods"][name] = {**method, "skipped": reason}
            say(f"{name}: left out, {reason}")
            continue
        try:
            found["methods"][name] = {**method, **_row(bench, entry, rows["foundation"], say)}
        except ValueError as e:  # a subject, photos or a model that this method can't take
            found["methods"][name] = {**method, "skipped": str(e)}
            say(f"{name}: left out, {e}")
        save()
    save()


def _row(bench: Bench, entry: Entry, foundation: Entry, say: Say) -> dict[str, Any]:
    """A method's numbers by subject, and its costs."""
    subjects, costs = {}, {}
    for case in entry.cases(bench):
        images, costs[case.name] = drawn(bench, entry, case)
        plain, _ = drawn(bench, foundation, case)
        subjects[case.name] = kept(measured(bench, case, images) | beside(bench, case, images, plain))
        say(f"{entry.name}: {case.name}")
    return {"subjects": subjects, "costs": _costs(costs)}


def _costs(each: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over subjects; what is no number as it is."""
    found = {}
    for name in COSTS:
        numbers = [cost[name] for cost in each.values() if name in cost]
        if numbers and isinstance(numbers[0], (int, float)):
            found[name] = float(torch.tensor(numbers, dtype=torch.float64).median())
        elif numbers:
            found[name] = ", ".join(sorted({str(n) for n in numbers}))
    return found


# --- tuning ----------------------------------------------------------------------------------------------------------


def chosen(found: Mapping[str, Any]) -> dict[str, Recipe]:
    """The recipes that tuning chose."""
    return {name: Recipe(**tuning["chosen"]) for name, tuning in found["tuning"].items() if "chosen" in tuning}


def tune(bench: Bench, found: dict[str, Any], names: Sequence[str], save: Callable[[], Any], say: Say = print) -> None:
    """Try each baseline's grid on subjects of its own; the highest mean of Seg-DINO x CLIP-T is chosen."""
    rows = entries(bench)
    for name in [n for n in names or list(GRIDS) if n in GRIDS]:
        if reason := rows[name].missing(bench):
            say(f"{name}: not tuned, {reason}")
            continue
        tried = []
        for recipe in sorted(grid_of(bench, name), key=lambda r: (r.but_steps(), r.steps)):
            score = sum(_tried(bench, case, name, recipe) for case in tuning_cases()) / len(tuning_cases())
            tried.append({"recipe": asdict(recipe), "score": round(score, 4)})
            say(f"{name}: {recipe}: {score:.4f}")
        best = max(tried, key=lambda t: t["score"])
        found["tuning"][name] = {"chosen": best["recipe"], "tried": tried}
        save()


def _tried(bench: Bench, case: Case, name: str, recipe: Recipe) -> float:
    """Mean of the products of likeness and faith to the prompt, one seed."""
    known, noise = tuned(bench, case, name, BEGIN[name], recipe), bench.noise(1)
    images = torch.stack([bench.model.decode(known.latents(prompt, noise)) for prompt in bench.asked(case)])
    scores = measured(bench, case, images)
    return float((scores["seg_dino"] * scores["clip_t"]).mean())


# --- the others ------------------------------------------------------------------------------------------------------


def train(bench: Bench, say: Say = print, settings: loop.Settings = TRAINED, batch: int = TRAINED_BATCH,
          pairs: int = PAIRS) -> None:  # fmt: skip
    """Train the zero-shot baselines on the demo world, where their weights are missing."""
    settings = replace(settings, steps=bench.most(settings.steps))

    def watch(progress: loop.Progress) -> None:
        if progress.step % 50 == 0:
            say(f"step {progress.step} of {progress.steps}: {progress.loss:.4f}")

    if not (bench.weights / zero_shot.IP_ADAPTER).exists():
        say(f"wrote {zero_shot.train_ip_adapter(bench, settings, batch, pairs, watch)}")
    if not (bench.weights / zero_shot.PIX2PIX / "unet" / "config.json").exists():
        say(f"wrote {zero_shot.train_pix2pix(bench, settings, batch, pairs, watch)}")


def draw_curves(
    bench: Bench, found: dict[str, Any], names: Sequence[str], save: Callable[[], Any], say: Say = print,
    subjects: int = 2, steps: tuple[int, ...] = curves.STEPS,
) -> None:  # fmt: skip
    """Measure the tuned methods at several numbers of steps on a few subjects."""
    rows, own = entries(bench, chosen(found)), recipes(bench, chosen(found))
    for case in bench.cases[:: max(1, len(bench.cases) // subjects)][:subjects]:
        shown = curves.captioned(bench, case)
        floors = found["curves"].setdefault("foundation", {})
        floors[case.name] = {"0": curves.floor(bench, case)}
        for name in [n for n in CURVED if not names or n in names]:
            if rows[name].missing(bench):
                continue
            values = curves.curve(bench, case, name, own[name], sorted({bench.most(s) for s in steps}), shown)
            found["curves"].setdefault(name, {})[case.name] = values
            say(f"{name}: {case.name}: {values}")
            save()


def small(images: Tensor, side: int = 192) -> Tensor:
    """Pictures (B, 3, H, W) of at most so many pixels a side."""
    if max(images.shape[-2:]) <= side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def pictures(bench: Bench, found: Mapping[str, Any], folder: Path) -> list[Path]:
    """A sheet a subject: its photos, then a row a method of the first seed's pictures; only what has been drawn."""
    rows, written = entries(bench, chosen(found)), []
    for case in bench.cases:
        shown = [(f"{case.name}: photos", case.images)]
        for name, entry in rows.items():
            where = (entry.method(bench), case, bench.asked(case), bench.noise(), bench.work / "cells")
            if not entry.missing(bench) and cell_path(*where).exists():
                shown.append((name, cell(*where)[0][:, 0]))
        shown = [(label, small(images)) for label, images in shown]
        if len(shown) > 1:
            written.append(sheet.contact_sheet(shown, folder / f"{case.name.replace(' ', '-')}.jpg"))
    return written
