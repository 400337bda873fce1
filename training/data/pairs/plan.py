"""What is made: the subjects, and which of them meets which prompt, as JSON Lines a part each."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....core import files
from ....core.demo.subjects import KINDS
from ..photos import SUFFIXES
from . import prompts, table
from .prompts import Prompt

LIST, SUBJECTS, PLAN, CANDIDATES = "list", "subjects", "plan", "candidates"  # folders of the stages
PROMPTS, ALIKE = "prompts.json", "alike.jsonl"
Place = tuple[int, int]  # part and row of a subject
REPEATED = "same subject and prompt as another pair"


def lines(folder: Path, part: int) -> list[dict[str, Any]]:
    """A part, as `write` left it."""
    return read(folder / f"{part:06d}.jsonl")


def read(file: Path) -> list[dict[str, Any]]:
    """A file of JSON Lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def write(folder: Path, size: int, found: Iterable[dict[str, Any]]) -> int:
    """Lines as parts of so many; returns how many parts."""
    found, parts = iter(found), 0
    while some := list(islice(found, size)):
        files.write_atomically(folder / f"{parts:06d}.jsonl", text(some))
        parts += 1
    return parts


def text(found: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found).encode()


# --- subjects --------------------------------------------------------------------------------------------------------


def drawn(count: int, words: Sequence[str], template: str) -> Iterator[dict[str, Any]]:
    """Subjects to be drawn, of the classes by turns."""
    for number in range(count):
        word = words[number % len(words)]
        yield {"number": number, "word": word, "prompt": prompts.filled(template, word)}


def pictures(folder: Path, template: str) -> Iterator[dict[str, Any]]:
    """The user's subjects: a folder for each class, named by it, with a picture of each subject.

    Raises:
        FileNotFoundError: no such folder, or no picture in its folders.
        ValueError: pictures beside the folders, whose class nobody knows.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"images: no folder {folder}")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if beside := [p.name for p in found if p.parent == folder]:
        raise ValueError(f"images: {beside[0]} lies in no class's folder; put it into one, as in {folder.name}/dog/")
    if not found:
        raise FileNotFoundError(f"images: no picture in the folders of {folder}; give one folder a class")
    for number, path in enumerate(found):
        word = path.relative_to(folder).parts[0].replace("_", " ")
        yield {"number": number, "word": word, "prompt": prompts.filled(template, word), "file": str(path)}


def classes(file: Path | None) -> list[str]:
    """Class words, one a line; the demo world's without a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no word in it.
    """
    if file is None:
        return list(KINDS)
    if not file.is_file():
        raise FileNotFoundError(f"classes: no file {file}; give a text file with a class a line, as in: cat")
    words = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    words = [word for word in words if word and not word.startswith("#")]
    if not words:
        raise ValueError(f"classes: {file.name} has no class; write one a line, as in: cat")
    return list(dict.fromkeys(words))


def repeats(vectors: Tensor, limit: float) -> dict[int, tuple[int, float]]:
    """Which of unit vectors (N, D) repeat an earlier one that repeats none: index -> (that index, their cosine)."""
    kept, own, found = torch.empty_like(vectors), [], {}
    for i, vector in enumerate(vectors):
        cosines = kept[: len(own)] @ vector
        if own and float(cosines.max()) > limit:
            found[i] = own[int(cosines.argmax())], round(float(cosines.max()), 4)
            continue
        kept[len(own)] = vector
        own.append(i)
    return found


def distinct(work: Path, parts: int, limit: float) -> tuple[list[tuple[Place, str]], list[dict[str, Any]]]:
    """Subjects to be used, their places and words, and those that are near-identical to another of their class."""
    names = ("number", "word", "vector", "dropped")
    words: dict[str, list[tuple[Place, int, int]]] = {}
    used, alike = [], []
    with tempfile.TemporaryFile(dir=work) as kept:  # vectors of all would be gigabytes; those of a class are less
        for part in range(parts):
            for row, line in enumerate(table.columns(table.file(work / SUBJECTS, part), names)):
                if not line["dropped"]:
                    words.setdefault(line["word"], []).append(((part, row), line["number"], kept.tell()))
                    width = kept.write(line["vector"])
        for word, found in words.items():
            vectors = torch.empty(len(found), width // 2)
            for i, (_, _, start) in enumerate(found):
                kept.seek(start)
                vectors[i] = torch.frombuffer(bytearray(kept.read(width)), dtype=torch.half)
            again = repeats(torch.nn.functional.normalize(vectors, dim=1, out=vectors), limit)
            used += [(place, word) for i, (place, _, _) in enumerate(found) if i not in again]
            alike += [{"number": found[i][1], "of": found[j][1], "cosine": c} for i, (j, c) in again.items()]
    return sorted(used), sorted(alike, key=lambda line: line["number"])


# --- pairs -----------------------------------------------------------------------------------------------------------


def pairs(
    count: int, kind: str, seed: int, subjects: Sequence[tuple[Place, str]], wanted: Sequence[Prompt]
) -> Iterator[dict[str, Any]]:
    """Pairs to be made: a random subject with a prompt of a random category; of two with the same couple the first.

    Args:
        kind: both, generation or editing; of both a third are editing pairs, as in Toffee-5M.
        subjects: their places, and their words.
    """
    by_category: dict[str, list[int]] = {}
    for i, prompt in enumerate(wanted):
        by_category.setdefault(prompt.category, []).append(i)
    known: set[int] = set()  # some 65 bytes a pair
    for number in range(count):
        rng = random.Random(f"{seed} pair {number}")
        subject, category = rng.randrange(len(subjects)), rng.choice(list(by_category))
        prompt, editing = rng.choice(by_category[category]), kind == "editing" or (kind == "both" and number % 3 == 2)
        place, word = subjects[subject]
        line = {"number": number, "place": place, "category": category, "editing": editing}
        line["prompt"] = wanted[prompt].of(word)
        couple = 2 * (subject * len(wanted) + prompt) + editing
        if couple in known:
            line["dropped"] = REPEATED
        known.add(couple)
        yield line


def save_prompts(folder: Path, found: Sequence[Prompt], dropped: Counter[str]) -> None:
    kept = {"prompts": [asdict(prompt) for prompt in found], "dropped": dropped}
    files.write_atomically(folder / PROMPTS, json.dumps(kept, indent=2, ensure_ascii=False).encode())


def load_prompts(folder: Path) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts, and how many were left out and why."""
    kept = json.loads((folder / PROMPTS).read_text(encoding="utf-8"))
    return [Prompt(**fields) for fields in kept["prompts"]], kept["dropped"]
