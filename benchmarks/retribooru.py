"""The RetriBooru builder on the demo world: `python benchmarks/retribooru.py`, written to results/retribooru.json.

* truth: the renderer's truth in the models' places; pairwise precision and recall of the identities have to be 1.
* judges: the demo world's segmenter and attribute judge in the models' places, face boxes from the renderer. Which
  questions must have equal answers is varied over all their combinations, on one set of figures to choose and on
  another to report. Recall counts the pairs of pictures whose face is to be seen, since the others are dropped;
  `recall_of_all` counts all pairs.
* workers: pictures a second with one and with two Ray workers, from the moment that each has finished a part; parts of
  the first and last round, in which not all work, are left out. "judges" compute on this machine's cores, so that what
  else runs there slows two workers more than one; "waiting" is a model that takes 0.05 s a picture on another device,
  which shows what the builder itself costs.
* memory: resident set of the process while it builds a set of so many tiny pictures, alone, all stages.

`--only judges workers` does some of them and keeps the other results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from likeness.core import files
from likeness.training.data import records
from likeness.training.data.photos import png
from likeness.training.data.retribooru import build, demo, identities
from likeness.training.data.retribooru.annotate import Settings
from likeness.training.data.retribooru.models import QUESTIONS, Models, Names
from torch import Tensor

RESULT = Path(__file__).resolve().parent / "results" / "retribooru.json"
VIEWS = 7
NAMES = Names("demo", "demo", faces="truth")
PARTS = ("truth", "judges", "workers", "memory")


def config(figures: Path, out: Path, **fields: Any) -> build.Config:
    return build.Config(figures, out, NAMES, figures / demo.METADATA, **{"workers": 0, "sheets": False, **fields})


def found(out: Path) -> dict[str, str]:
    """Picture -> cluster."""
    return {record.id: min(record.id, *record.similar) for record in records.read(out)}


# --- right -----------------------------------------------------------------------------------------------------------


def truth(figures: Path, out: Path) -> dict[str, Any]:
    look = Settings(need_face=False)
    told = build.build(config(figures, out, look=look), models=partial(demo.true_models, figures))
    true = {line["id"]: line["identity"] for line in demo.read_truth(figures)}
    precision, recall = identities.pairwise(found(out), true)
    return {"pictures": len(true), "samples": told["samples"], "precision": precision, "recall": recall}


def judged(figures: Path, out: Path, views: int) -> Path:
    """Annotations by the judges; returns their folder."""
    look = Settings(views=views)
    build.build(config(figures, out, look=look), models=partial(demo.judging_models, figures))
    return out / "work" / "annotations"


def curve(figures: Path, annotations: Path) -> dict[str, dict[str, float]]:
    """Questions that must match -> precision, recall of pictures with a face, recall of all, and samples kept."""
    lines = demo.read_truth(figures)
    everything = {line["id"]: line["identity"] for line in lines}
    faces = {line["id"]: line["identity"] for line in lines if line["bbox"]}
    names, table = list(QUESTIONS), {}
    for count in range(1, len(names) + 1):
        for match in combinations(names, count):
            groups = identities.group(annotations, len(list(annotations.glob("*.parquet"))), names, match)
            clusters = {member.id: i for i, members in enumerate(groups.identities) for member in members}
            precision, recall = identities.pairwise(clusters, faces)
            of_all = identities.pairwise(clusters, everything)[1]
            numbers = dict(precision=precision, recall=recall, recall_of_all=of_all, samples=len(clusters))
            table[" + ".join(match)] = numbers
    return table


def judges(folder: Path, characters: int) -> dict[str, Any]:
    result: dict[str, Any] = {"face boxes": "the renderer's", "characters": characters}
    for views in (1, 7):
        for seed, name in ((1, "to choose"), (2, "to report")):
            figures = folder / f"figures {seed}"
            if not figures.exists():
                demo.draw(demo.Figures(figures, characters, pictures=6, seed=seed))
            annotations = judged(figures, folder / f"judges {seed} {views}", views)
            result.setdefault(f"{views} views", {})[name] = curve(figures, annotations)
    chosen = best(result)
    numbers = {name: result[chosen[0]][name][chosen[1]] for name in ("to choose", "to report")}
    return {**result, "chosen": {"views": chosen[0], "match": chosen[1], **numbers}}


def best(result: dict[str, Any]) -> tuple[str, str]:
    """Views and questions of the highest recall whose precision is at least 0.98, or else of the highest precision."""
    rows = [
        ((views, match), numbers)
        for views in ("1 views", "7 views")
        for match, numbers in result[views]["to choose"].items()
    ]
    precise = [row for row in rows if row[1]["precision"] >= 0.98]
    if precise:
        return max(precise, key=lambda row: row[1]["recall"])[0]
    return max(rows, key=lambda row: row[1]["precision"])[0]


# --- many workers ----------------------------------------------------------------------------------------------------


def rate(figures: Path, out: Path, workers: int, make: Callable[[], Models]) -> dict[str, float]:
    """Pictures a second of so many workers with these models."""
    times: list[float] = []
    part = 20

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "annotations" and done:
            times.append(time.perf_counter())

    start = time.perf_counter()
    look = Settings(views=VIEWS, part=part, need_face=False)
    told = build.build(config(figures, out, look=look, workers=workers), watch, make)
    if not told["samples"]:
        raise RuntimeError(f"nothing was measured: {told['dropped']}")
    steady = times[workers:-workers]
    return {
        "pictures_a_second": part * (len(steady) - 1) / (steady[-1] - steady[0]),
        "seconds_to_first_part": times[0] - start,
        "seconds_in_all": time.perf_counter() - start,
    }


def workers(folder: Path, rounds: int) -> dict[str, Any]:
    figures = folder / "figures 1"
    if not figures.exists():
        demo.draw(demo.Figures(figures, 60, pictures=6, seed=1))
    result: dict[str, Any] = {"cores": os.cpu_count()}
    for name, make in (("judges", partial(demo.judging_models, figures)), ("waiting", Waiting.models)):
        runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        load = [os.getloadavg()[0]]
        for i in range(rounds):
            for count in runs:  # by turns, so that what else runs meets both
                runs[count].append(rate(figures, folder / f"{name} {count} {i}", count, make))
                load.append(os.getloadavg()[0])
        one, two = (max(run["pictures_a_second"] for run in runs[count]) for count in (1, 2))
        result[name] = {"one": runs[1], "two": runs[2], "speedup_of_the_best": two / one, "load": load}
    return result


# --- memory ----------------------------------------------------------------------------------------------------------


@dataclass
class Tiny:
    """Looks at tiny pictures: a mask, a face, and the picture's mean colour as the answer."""

    def segment(self, images: Tensor, text: str) -> Tensor:
        masks = torch.ones_like(images[:, :1])
        masks[..., : images.shape[-1] // 2] = 0
        return masks

    def boxes(self, images: Tensor, text: str) -> list[Tensor]:
        return [torch.tensor([[1.0, 1, 4, 4]])] * len(images)

    def __call__(self, images: Tensor, questions: list[str]) -> list[list[str]]:
        return [[str(int(image[0].mean() * 4))] * len(questions) for image in images]

    @classmethod
    def models(cls) -> Models:
        return Models(cls(), cls(), cls())


class Waiting(Tiny):
    """The same, waiting for another device."""

    def __call__(self, images: Tensor, questions: list[str]) -> list[list[str]]:
        time.sleep(0.05 / VIEWS * len(images))
        return super().__call__(images, questions)


def tiny(folder: Path, count: int) -> None:
    """So many pictures of 8 pixels a side: 20 of each character, in four colours, in thousand folders."""
    posts = []
    for i in range(count):
        picture = torch.full((3, 8, 8), (i % 4 + 0.5) / 4)
        picture[1, 0, :3] = torch.tensor([i >> 16, i >> 8 & 255, i & 255]) / 255  # no two alike
        path = folder / f"{i % 1000:04d}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture))
        character = f"person_{i // 20}"
        tags = dict(tag_string_general="solo dress smile", tag_string_character=character, tag_string_artist="artist")
        posts.append(json.dumps({"id": i, "file_ext": "png", **tags}))
    (folder / demo.METADATA).write_text("\n".join(posts))


def resident() -> float:
    """Resident set of this process, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(folder: Path, count: int) -> dict[str, Any]:
    figures = folder / "tiny"
    tiny(figures, count)
    seen: dict[str, list[float]] = {}

    def watch(stage: str, done: int, total: int) -> None:
        if stage != "tags" or done % 500 == 0:
            seen.setdefault(stage, []).append(resident())

    start = time.perf_counter()
    told = build.build(config(figures, folder / "out of tiny"), watch, Tiny.models)
    result: dict[str, Any] = {"samples": told["samples"], "identities": told["identities"]}
    result["pictures_a_second"] = count / (time.perf_counter() - start)
    for stage, sizes in seen.items():
        names = {"after a tenth": sizes[len(sizes) // 10], "at the end": sizes[-1], "most": max(sizes)}
        result[f"MiB, {stage}"] = {name: round(size, 1) for name, size in names.items()}
    return result


# --- the table -------------------------------------------------------------------------------------------------------


def text(result: dict[str, Any]) -> str:
    lines = []
    for name in ("truth", "workers", "memory"):
        lines += [f"{name}: {json.dumps(result[name], indent=2)}"] if name in result else []
    for views in ("1 views", "7 views") if "judges" in result else ():
        lines += [
            "",
            f"judges, {views}, on figures to report",
            f"{'precision':>10}{'recall':>8}{'of all':>8}  must match",
        ]
        table = result["judges"][views]["to report"]
        for match, row in table.items():
            lines.append(f"{row['precision']:>10.4f}{row['recall']:>8.3f}{row['recall_of_all']:>8.3f}  {match}")
    return "\n".join([*lines, f"chosen: {result['judges']['chosen']}" if "judges" in result else ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--characters", type=int, default=60, help="of the demo world, for truth and judges")
    parser.add_argument("--tiny", type=int, default=50_000, help="pictures for memory")
    parser.add_argument("--rounds", type=int, default=1, help="of one and two workers")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    result = json.loads(options.out.read_text()) if options.out.is_file() else {}
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "truth" in options.only:
            demo.draw(demo.Figures(folder / "figures 1", options.characters, pictures=6, seed=1))
            result["truth"] = truth(folder / "figures 1", folder / "truth")
        if "judges" in options.only:
            result["judges"] = judges(folder, options.characters)
        if "workers" in options.only:
            result["workers"] = workers(folder, options.rounds)
        if "memory" in options.only:
            result["memory"] = memory(folder, options.tiny)
    files.write_atomically(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print(text(result))


if __name__ == "__main__":
    main()
