"""Which pictures show one identity: same character, same artist, and the same answers about the clothes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core import files
from . import parts

_COLUMNS = ("id", "character", "artist", "answers", "digest", "dropped")


@dataclass(frozen=True)
class Member:
    """A picture of an identity: its id, and its row in a part."""

    id: str
    part: int
    row: int


@dataclass
class Groups:
    """Identities of two pictures or more, each in the order of the pictures, and why pictures are in none."""

    identities: list[list[Member]]
    dropped: dict[str, str]


def group(annotations: Path, count: int, questions: Sequence[str], match: Sequence[str]) -> Groups:
    """Cluster strictly (section 3): pictures are of one identity if all answers that count are equal, letter by letter.

    Only names and digests are held, no picture. A copy of an identity's picture, byte by byte, is not another one.

    Args:
        annotations: folder of parts.
        count: of parts.
        questions: names of the questions that were asked, in order.
        match: names of those that must have equal answers; () are all.

    Raises:
        ValueError: a question that was not asked.
    """
    unknown = [name for name in match if name not in questions]
    if unknown:
        raise ValueError(f"match: {', '.join(unknown)} was not asked; choose from {', '.join(questions)}")
    where = [i for i, name in enumerate(questions) if not match or name in match]
    clusters: dict[bytes, list[Member]] = {}
    copies: set[tuple[bytes, str]] = set()
    dropped: dict[str, str] = {}
    for part in range(count):
        for row, fields in enumerate(parts.columns(annotations, part, _COLUMNS)):
            if fields["dropped"]:
                continue
            silent = next((questions[i] for i in where if not fields["answers"][i]), None)
            if silent is not None:
                dropped[fields["id"]] = f"no clear answer: {silent}"
                continue
            key = _key(fields["character"], fields["artist"], *(fields["answers"][i] for i in where))
            if (key, fields["digest"]) in copies:
                dropped[fields["id"]] = "copy of another picture"
                continue
            copies.add((key, fields["digest"]))
            clusters.setdefault(key, []).append(Member(fields["id"], part, row))
    found = list(clusters.values())
    dropped |= {members[0].id: "no similar picture" for members in found if len(members) == 1}
    return Groups([members for members in found if len(members) > 1], dropped)


def _key(*names: str) -> bytes:
    return hashlib.sha256(json.dumps(names).encode()).digest()[:16]


def plan(groups: Groups, size: int, folder: Path) -> int:
    """Write which identities each shard holds, a file a shard; returns how many shards.

    A shard has whole identities, `size` pictures or a few more, so that a picture's similar ones are beside it (ours).
    """
    shard: list[list[Member]] = []
    number = 0
    for i, members in enumerate(groups.identities):
        shard.append(members)
        if sum(map(len, shard)) >= size or i == len(groups.identities) - 1:
            lines = [json.dumps([vars(member) for member in each], ensure_ascii=False) for each in shard]
            files.write_atomically(folder / f"{number:06d}.jsonl", "\n".join(lines).encode())
            shard, number = [], number + 1
    return number


def planned(folder: Path, shard: int) -> list[list[Member]]:
    """A shard's identities, as `plan` wrote them."""
    lines = (folder / f"{shard:06d}.jsonl").read_text(encoding="utf-8").split("\n")
    return [[Member(**fields) for fields in json.loads(line)] for line in lines]


# --- how right they are ----------------------------------------------------------------------------------------------


def pairwise(found: Mapping[str, Any], true: Mapping[str, Any]) -> tuple[float, float]:
    """Precision and recall of the pairs of pictures that are said to be of one identity; 1.0 of no pairs.

    Args:
        found: picture -> cluster, for those that are in one.
        true: picture -> identity, for all that could be.
    """
    right = _pairs((found[picture], true[picture]) for picture in found)
    said, are = _pairs(found.values()), _pairs(true.values())
    return right / said if said else 1.0, right / are if are else 1.0


def _pairs(names: Iterable[Any]) -> int:
    return sum(n * (n - 1) // 2 for n in Counter(names).values())
