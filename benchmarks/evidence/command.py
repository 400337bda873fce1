"""The command line of `python benchmarks/evidence`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from grid import Case
from likeness.core import checkpoint
from likeness.core.demo import sheet
from likeness.core.vision.grounding import GroundedSegmenter, GroundingDino
from likeness.core.vision.sam import Sam
from likeness.training import evaluate, report

from . import bar, claims, results, run
from .bench import REAL, Bench, Prompt, demo, fingerprint, folders
from .measure import segmented
from .methods import entries

RESULTS = Path(__file__).resolve().parent.parent / "results" / "evidence.json"
WRITTEN = ("work", "results", "report")
PARTS = ("train", "tune", "grid", "curves", "claims", "report")


def parser() -> argparse.ArgumentParser:
    """All options."""
    made = argparse.ArgumentParser(prog="python benchmarks/evidence", description="Compare everything.")
    add = made.add_argument
    add("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="what to do, in this order")
    add("--methods", nargs="+", default=[], help="rows of the tables; all by default")
    add("--subjects", type=int, default=8, help="of the demo world; one of each of its kinds")
    add("--seeds", type=int, default=2)
    add("--steps", type=int, default=25, help="DDIM steps of a picture")
    add("--guidance", type=float, default=5.0)
    add("--threads", type=int, default=1, help="numbers repeat with the same number of threads only")
    add("--limit", type=int, default=0, help="most steps of any training: to try the harness, all it writes elsewhere")
    add("--work", type=Path, default=Path("runs/evidence"), help="what is learned and drawn")
    add("--weights", type=Path, help="what was trained once for all subjects; WORK/weights/MODEL by default")
    add("--results", type=Path, default=RESULTS)
    add("--report", type=Path, default=Path("runs/evidence/report.html"))
    add("--picture", type=Path, help="a sheet of what --methods drew of a subject, with --parts claims")
    add("--pictured", help="whose sheet; the first subject's by default")
    real = made.add_argument_group("a real checkpoint")
    add = real.add_argument
    add("--model", help="folder in diffusers' layout, .safetensors file or hub name, instead of the embedded one")
    add("--references", type=Path, help="folder with a folder of photos per subject, as DreamBench has it")
    add("--only", nargs="+", default=[], help="names of its folders")
    add("--masks", type=Path, help="the subjects' masks, in the same layout")
    add("--classes", type=Path, help="lines 'folder,class'; REFERENCES/prompts_and_classes.txt where it is")
    add("--prompts", type=Path, help="a prompt a line, {} for the subject's word")
    add("--size", type=int, default=512)
    add("--device", default="cpu")
    add("--clip", default="openai/clip-vit-base-patch32")
    add("--dino", default="facebook/dino-vits16")
    add("--vqa", help="InstructBLIP or BLIP for the VQA score")
    add("--grounding", help="Grounding DINO, with --sam for the segmented metrics and HiFi's guidance")
    add("--sam", help="a SAM's file")
    return made


def bench_of(options: argparse.Namespace) -> Bench:
    """What to measure on; ValueError for a checkpoint without photos or the reverse."""
    fields: dict[str, Any] = dict(
        seeds=options.seeds, steps=options.steps, guidance=options.guidance, limit=options.limit
    )
    if options.weights is not None:
        fields["weights"] = options.weights
    usual = [f"--{name}" for name in WRITTEN if getattr(options, name) == parser().get_default(name)]
    if options.limit and usual:
        raise ValueError(f"--limit: what so few steps learn is no result; give {', '.join(usual)} of their own")
    if (options.model is None) != (options.references is None):
        raise ValueError("--model and --references: give both for a real checkpoint, none for the demo world")
    return demo(options.subjects, options.work, **fields) if options.model is None else real(options, fields)


def real(options: argparse.Namespace, fields: dict[str, Any]) -> Bench:
    """A real checkpoint, photos in DreamBench's layout, real judges by name."""
    model = checkpoint.load(options.model, device=options.device)
    cases = folders(options.references, options.size, options.masks, options.classes, options.only)
    config = evaluate.Config(Path(), Path(), clip=options.clip, dino=options.dino, vqa=options.vqa)
    if (options.grounding is None) != (options.sam is None):
        raise ValueError("--grounding and --sam: give both, the boxes' model and the masks', or none")
    segmenter = options.grounding and GroundedSegmenter(GroundingDino(options.grounding), Sam(options.sam))
    base = fingerprint(model)
    fields = {"weights": options.work / "weights" / base, "milestones": (), **fields}
    name, prompts = Path(options.model).stem, read_prompts(options.prompts) if options.prompts else REAL
    judges = evaluate.models_of(config)
    return Bench(
        name, model, base, tuple(cases), judges, options.work, prompts=prompts, segmenter=segmenter, size=options.size,
        **fields,
    )  # fmt: skip


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """A prompt a line; ValueError for one without a place for the subject."""
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if wrong := [line for line in lines if "{}" not in line]:
        raise ValueError(f"prompts: {wrong[0]!r} in {path.name} has no {{}} for the subject's word")
    return tuple(Prompt(line, "") for line in lines)


def main(argv: list[str] | None = None) -> None:
    """Do the parts; a mistake of the user's ends in one sentence."""
    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        work(options)
    except (ValueError, FileNotFoundError) as e:
        raise SystemExit(f"evidence: {e}") from None


def work(options: argparse.Namespace) -> None:
    """The parts in order; results are written after each method."""
    found = results.load(options.results)
    if options.parts != ["report"]:
        bench = bench_of(options)
        if not results.same_setting(found, bench):
            raise ValueError(
                f"{options.results} was measured with another model, prompts, sampling or judges; give another "
                "--results, or move it away"
            )
        measure(bench, found, options)
    if "report" in options.parts:
        config = report.Config(options.results, options.report, options.work / "pictures")
        print(f"wrote {report.write(config)}")


def measure(bench: Bench, found: dict[str, Any], options: argparse.Namespace) -> None:
    """All parts that need the model; ValueError for a method that there is not."""
    if unknown := sorted(set(options.methods) - set(entries(bench))):
        raise ValueError(f"--methods: there is no {unknown[0]!r}; choose from {', '.join(entries(bench))}")
    case = named(bench, options.pictured)
    save = partial(results.save, options.results, found)
    say = partial(print, flush=True)
    if {"tune", "grid", "curves"} & set(options.parts):
        found["setting"] = results.begun(found, bench)
    if "train" in options.parts and bench.name == "demo":
        run.train(bench, say)
    if "tune" in options.parts and bench.name == "demo":
        run.tune(bench, found, options.methods, save, say)
    if "grid" in options.parts:
        run.grid(bench, found, options.methods, save, say)
    if "curves" in options.parts and bench.name == "demo":
        run.draw_curves(bench, found, options.methods, save, say)
    if "claims" in options.parts and bench.name == "demo":
        found["segmented"] = {case.name: segmented(bench, case) for case in bench.cases}
        lost = sum(each["left out"] for each in found["segmented"].values())
        say(f"segmented metrics: {lost} pictures without a subject left out")
    found["claims"], found["bar"] = claims.judged(found), bar.judged(found)
    save()
    run.pictures(bench, found, options.work / "pictures")
    if options.picture is not None:
        rows = run.pictured(bench, found, case, options.methods)
        say(f"wrote {sheet.contact_sheet(rows, options.picture)}")


def named(bench: Bench, name: str | None) -> Case:
    """The subject of a name, the first without one; ValueError where there is none."""
    if name is None:
        return bench.cases[0]
    if found := [case for case in bench.cases if case.name == name]:
        return found[0]
    raise ValueError(f"--pictured: no subject {name!r}; choose from {', '.join(case.name for case in bench.cases)}")
