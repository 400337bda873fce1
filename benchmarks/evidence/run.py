"""The parts of a run, each of which goes on where it was stopped and adds to the same results."""

from __future__ import annotations

import math
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

from . import curves, results, zero_shot
from .bench import Bench, tuning_cases
from .learned import Recipe
from .measure import beside, kept, measured
from .methods import CURVED, GRIDS, SCALED, Entry, entries, grid_of, recipes

Say = Callable[[str], None]
Save = Callable[[], Any]
COSTS = ("train_seconds", "train_memory", "storage", "seconds", "memory", "torch", "threads")
TRAINED = loop.Settings(steps=1500, lr=1e-3, warmup=50, decay=0.5, ema=0.995, every=100)  # once for all subjects
TRAINED_BATCH, PAIRS = 16, 4000


def drawn(bench: Bench, entry: Entry, case: Case):
    """A cell's pictures and costs, kept in the bench's work folder."""
    return cell(entry.method(bench), case, bench.asked(case), bench.noise(), bench.work / "cells")


def why(error: Exception) -> str:
    """An error as the results keep it: a sentence of ours, or what kind it is too."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def grid(bench: Bench, found: dict[str, Any], names: Sequence[str], save: Save, say: Say = print) -> None:
    """Draw and measure methods; those that can't be are noted with the reason, what was measured before is kept."""
    rows = entries(bench, chosen(found))
    for name in names or list(rows):
        entry = rows[name]
        method = {"family": entry.family, "settings": entry.settings}
        try:
            if not (reason := entry.missing(bench)):
                row = _row(bench, entry, rows["foundation"], say)
                found["methods"][name] = {**method, **row, **results.made(bench)}
        except Exception as e:  # one method's failure shall not cost the others' hours
            reason = why(e)
        if reason:
            say(f"{name}: left out, {reason}")
            if not found["methods"].get(name, {}).get("subjects"):
                found["methods"][name] = {**method, "skipped": reason}
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


def chosen(found: Mapping[str, Any]) -> dict[str, Recipe | zero_shot.Scale]:
    """What tuning chose, by baseline."""
    best = {name: tuning["chosen"] for name, tuning in found["tuning"].items() if "chosen" in tuning}
    return {name: (zero_shot.Scale if name in SCALED else Recipe)(**own) for name, own in best.items()}


def tune(bench: Bench, found: dict[str, Any], names: Sequence[str], save: Save, say: Say = print) -> None:
    """Try each baseline's grid on subjects of its own; the highest mean of Seg-DINO x CLIP-T is chosen.

    What has its score is not tried again; what failed is.
    """
    rows = entries(bench)
    for name in [n for n in names or [*GRIDS, *SCALED] if n in GRIDS or n in SCALED]:
        if reason := rows[name].missing(bench):
            say(f"{name}: not tuned, {reason}")
            continue
        before, tried = found["tuning"].get(name, {"tried": []}), []
        for recipe in _in_turn(grid_of(bench, name)):
            tried.append(_score(bench, name, recipe, before["tried"], say))
            own = [t["recipe"] for t in tried]
            rest = [t for t in before["tried"] if t["recipe"] not in own]
            found["tuning"][name] = {**before, "tried": [*tried, *rest]}
            save()
        scored = [t for t in tried if "score" in t]
        best = {"chosen": max(scored, key=lambda t: t["score"])["recipe"]} if scored else {}
        found["tuning"][name] = {**best, "tried": tried}
        save()


def _in_turn(grid: Sequence[Recipe | zero_shot.Scale]) -> list[Recipe | zero_shot.Scale]:
    """Recipes of more steps after those of fewer, on which they go on."""
    return sorted(grid, key=lambda r: (r.but_steps(), r.steps) if isinstance(r, Recipe) else (repr(r), 0))


def _score(bench: Bench, name: str, recipe: Recipe | zero_shot.Scale, before: Sequence[Any], say: Say) -> dict:
    """A recipe with its score, or with why it has none; from before where it was tried with the same settings."""
    own = {"recipe": asdict(recipe), "settings": entries(bench, {name: recipe})[name].settings}
    if known := [t for t in before if "score" in t and {k: t.get(k) for k in own} == own]:
        return known[0]
    try:
        score = sum(_tried(bench, case, name, recipe) for case in tuning_cases()) / len(tuning_cases())
        if not math.isfinite(score):
            raise FloatingPointError(f"the score is {score}")
    except Exception as e:  # a rate at which training diverges is a result, too
        say(f"{name}: {recipe}: skipped, {why(e)}")
        return {**own, "skipped": why(e)}
    say(f"{name}: {recipe}: {score:.4f}")
    return {**own, "score": round(score, 4)}


def _tried(bench: Bench, case: Case, name: str, recipe: Recipe | zero_shot.Scale) -> float:
    """Mean of the products of likeness and faith to the prompt, one seed."""
    known, noise = entries(bench, {name: recipe})[name].build(bench, case), bench.noise(1)
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

    trained = {
        zero_shot.IP_ADAPTER: zero_shot.train_ip_adapter,
        f"{zero_shot.PIX2PIX}/unet/config.json": zero_shot.train_pix2pix,
    }
    for file, own in trained.items():
        if not (bench.weights / file).exists():
            try:
                say(f"wrote {own(bench, settings, batch, pairs, watch)}")
            except Exception as e:  # its rows are left out, the others are not
                say(f"{file}: not trained, {why(e)}")


def draw_curves(
    bench: Bench, found: dict[str, Any], names: Sequence[str], save: Save, say: Say = print,
    subjects: int = 2, steps: tuple[int, ...] = curves.STEPS,
) -> None:  # fmt: skip
    """Measure the tuned methods at several numbers of steps on a few subjects, where that is not done."""
    rows, own = entries(bench, chosen(found)), recipes(bench, chosen(found))
    counts = sorted({bench.most(s) for s in steps})
    for case in bench.cases[:: max(1, len(bench.cases) // subjects)][:subjects]:
        floors = found["curves"].setdefault("foundation", {})
        if case.name not in floors:
            floors[case.name] = {"0": curves.floor(bench, case)}
        for name in [n for n in CURVED if not names or n in names]:
            if not rows[name].missing(bench):
                _curve(bench, found, case, name, own[name], counts, say)
                save()


def _curve(
    bench: Bench, found: dict[str, Any], case: Case, name: str, recipe: Recipe, counts: Sequence[int], say: Say
) -> None:
    """A method's curve of a subject, unless the results have it of this recipe and these numbers of steps."""
    known = found["curves"].setdefault(name, {})
    recipes, own = found["recipes"].setdefault(name, {}), {"recipe": recipe.but_steps(), "steps": list(counts)}
    if case.name in known and recipes.get(case.name) == own:
        return
    try:
        values = curves.curve(bench, case, name, recipe, counts, curves.captioned(bench, case))
    except Exception as e:  # as of a recipe
        say(f"{name}: {case.name}: skipped, {why(e)}")
        recipes.setdefault(case.name, {"skipped": why(e)})
        return
    known[case.name], recipes[case.name] = values, own
    say(f"{name}: {case.name}: {values}")


def small(images: Tensor, side: int = 192) -> Tensor:
    """Pictures (B, 3, H, W) of at most so many pixels a side."""
    if max(images.shape[-2:]) <= side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def pictures(bench: Bench, found: Mapping[str, Any], folder: Path) -> list[Path]:
    """A sheet a subject: its photos, then a row a method of the first seed's pictures; only what has been drawn."""
    sheets = {case.name: pictured(bench, found, case) for case in bench.cases}
    return [
        sheet.contact_sheet(shown, folder / f"{name.replace(' ', '-')}.jpg")
        for name, shown in sheets.items()
        if len(shown) > 1
    ]


def pictured(bench: Bench, found: Mapping[str, Any], case: Case, names: Sequence[str] = ()) -> list[tuple[str, Tensor]]:
    """A sheet's rows: a subject's photos, and what some methods drew of it, all by default."""
    rows, shown = entries(bench, chosen(found)), [(f"{case.name}: photos", case.images)]
    for name in names or rows:
        entry = rows[name]
        where = (entry.method(bench), case, bench.asked(case), bench.noise(), bench.work / "cells")
        if not entry.missing(bench) and cell_path(*where).exists():
            shown.append((name, cell(*where)[0][:, 0]))
    return [(label, small(images)) for label, images in shown]
