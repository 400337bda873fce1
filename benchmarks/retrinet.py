"""RetriNet on the demo world: `python benchmarks/retrinet.py`, written to results/retrinet.json.

* composition: the face of one held-out person and the clothes of another, in a place that the prompt names. The
  attribute judge says what came over. Chance is what it says of the same pictures held against another pair.
* reconstruction: whole figures of one person, who is to be the same: by the attribute judge, and by the DINO judge, for
  which the picture must be nearer to that person's photos than to another's.
* leakage: how often the pose and view are those of a reference, beside how often they are those of another picture of
  that person which was not shown.
* cost: seconds and FLOPs of a guided step with four references, read at each step or once, against none.

`--network` names what is measured, the pack's by default; `retrinet_claims.py` trains and compares variants.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as count_from
from pathlib import Path
from typing import Any

import torch
from grid import RESULTS, model
from likeness.core.demo import MODEL, judges, sheet, world
from likeness.core.demo.attributes import Answer
from likeness.core.demo.truth import truth
from likeness.core.denoiser import Denoiser, Hooks, guided
from likeness.core.diffusers import Text
from likeness.core.diffusion import sample
from likeness.core.metrics.similarity import average
from likeness.core.reach import Reach
from likeness.core.retrinet import network as retrinet
from likeness.core.retrinet.control import TIMES, Retrieval, Watch
from likeness.core.retrinet.network import RetriNet
from likeness.core.retrinet.reference import References
from likeness.training.data import identities
from likeness.training.data.identities import Choice
from toffee import flops, interleaved
from torch import Tensor

SHIPPED = MODEL.parent / "retrinet" / "demo retrinet.safetensors"
STEPS, GUIDANCE, SIZE, BATCH = 25, 5.0, 128, 8
FACE, CLOTHES = ("hair_style", "hair_colour", "eyes", "skin"), ("garment", "outfit_colour", "second_colour", "pattern")
MUST = {"face": ("hair_style", "hair_colour"), "clothes": ("garment", "outfit_colour")}  # what the judge reads best
PLACES = {place: f"a photo of a person {words}" for place, words in (
    ("beach", "on the beach"), ("snow", "in the snow"), ("city", "in the city"), ("forest", "in the forest"),
    ("night", "at night"), ("kitchen", "in the kitchen"), ("meadow", "in a meadow"), ("desert", "in the desert"),
)}  # fmt: skip

# pictures to be drawn -> the model that draws them, what is put into it, and what their prompts become
Make = Callable[[Sequence["Asked"]], tuple[Denoiser, Hooks | None, Callable[[Text], Text]]]


@dataclass(frozen=True)
class Asked:
    """One picture to be drawn.

    Args:
        place: that the prompt names.
        shown: references: of whom, which picture, which concept.
        wanted: attribute -> value that the references show.
    """

    place: str
    shown: tuple[tuple[int, Choice], ...]
    wanted: dict[str, str]


class People:
    """Held-out people, each in some pictures, encoded when they are needed."""

    def __init__(self, count: int, shots: int = 6):
        self.subjects = world.held_out_subjects(count, "person")
        fixed = {"style": "photo", "accessory": None}
        self.pictures = [world.photos(s, shots, seed=i, size=SIZE, **fixed) for i, s in enumerate(self.subjects)]
        loads = [[lambda p=p: identities.painted(p) for p in own] for own in self.pictures]
        self.bank = identities.Bank(loads, model()[0].encode, SIZE)

    def faces(self, person: int) -> list[int]:
        """Pictures that show the face."""
        return [i for i, picture in enumerate(self.pictures[person]) if picture.face_box is not None]

    def values(self, person: int) -> dict[str, str]:
        """What does not change from picture to picture."""
        return truth(self.subjects[person], self.pictures[person][0].scene)


# --- what is asked ---------------------------------------------------------------------------------------------------


def compositions(people: People, count: int, each: int, seed: int = 0) -> list[Asked]:
    """Faces and clothes of different people, so many references of each."""
    rng, found = random.Random(f"compositions {seed}"), []
    able = [i for i in range(len(people.subjects)) if len(people.faces(i)) >= each]
    while len(found) < count:
        a, b = rng.choice(able), rng.randrange(len(people.subjects))
        ours, theirs = people.values(a), people.values(b)
        if all(ours[name] == theirs[name] for names in MUST.values() for name in names):
            continue
        shown = [(a, Choice(i, "face")) for i in rng.sample(people.faces(a), each)]
        shown += [(b, Choice(i, "clothes")) for i in rng.sample(range(len(people.pictures[b])), each)]
        wanted = {name: ours[name] for name in FACE} | {name: theirs[name] for name in CLOTHES}
        found.append(Asked(rng.choice(list(PLACES)), tuple(shown), wanted))
    return found


def reconstructions(people: People, count: int, each: int, seed: int = 0) -> list[Asked]:
    """Whole figures of one person."""
    rng, found = random.Random(f"reconstructions {seed}"), []
    for n in range(count):
        person = n % len(people.subjects)
        shots = rng.sample(range(len(people.pictures[person]) - 1), each)  # the last is never shown
        values = people.values(person)
        wanted = {name: values[name] for name in (*FACE, *CLOTHES)}
        found.append(Asked(rng.choice(list(PLACES)), tuple((person, Choice(i, "figure")) for i in shots), wanted))
    return found


# --- drawing ---------------------------------------------------------------------------------------------------------


def references(people: People, asked: Sequence[Asked]) -> References:
    """What the pictures of a batch are drawn from."""
    loaded = model()[0]
    shown = [people.bank.reference(*one) for each in asked for one in each.shown]
    words, latents, masks = zip(*shown)
    shape = (len(asked), len(asked[0].shown))
    tokens = torch.cat([loaded.text(word).tokens for word in words])
    return References(torch.stack(latents).unflatten(0, shape), tokens, torch.stack(masks).unflatten(0, shape))


@torch.no_grad()
def drawn(asked: Sequence[Asked], make: Make, seed: int = 0) -> Tensor:
    """Pictures (N, 3, 128, 128) in 0..1."""
    loaded, parts = model()[0], []
    schedule = loaded.denoiser.schedule
    for start in range(0, len(asked), BATCH):
        some = asked[start : start + BATCH]
        denoiser, hooks, read = make(some)
        prompts = [loaded.text(PLACES[each.place]) for each in some]
        nulls = [loaded.text("") for _ in some]
        text, null = (read(side[0].with_rows(side[1:])) for side in (prompts, nulls))
        seeds = [seed + start + i for i in range(len(some))]
        z = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds])
        predict = guided(denoiser, text, null, GUIDANCE, hooks)
        parts.append(loaded.decode(sample(schedule, predict, z, schedule.timesteps(STEPS))).clamp(0, 1))
    return torch.cat(parts)


def retrieving(
    people: People, network: RetriNet, time: str = "each", strength: float = 1.0, watch: Watch | None = None
) -> Make:
    """Drawing with a network."""
    denoiser = model()[0].denoiser

    def make(some: Sequence[Asked]) -> tuple[Denoiser, Hooks, Callable[[Text], Text]]:
        shown = references(people, some)
        control = Retrieval(network, shown, len(denoiser.schedule), Reach(strength), time=time, watch=watch)
        return denoiser, control.hooks, lambda text: text

    return make


# --- judging ---------------------------------------------------------------------------------------------------------


def agreement(read: dict[str, Answer], asked: Sequence[Asked], order: Sequence[int]) -> dict[str, Tensor]:
    """Whether each picture shows what was wanted of the picture `order` says, (N,) an attribute and a group of them."""
    right = {
        name: torch.tensor([value == asked[k].wanted[name] for value, k in zip(read[name].values, order)]).float()
        for name in (*FACE, *CLOTHES)
    }
    groups = {group: torch.stack([right[name] for name in names]).amin(0) for group, names in MUST.items()}
    return right | groups | {"face and clothes": groups["face"] * groups["clothes"]}


def judged(images: Tensor, asked: Sequence[Asked]) -> dict[str, dict[str, float]]:
    """Shares of pictures, and of chance, for each attribute; and of places."""
    read = judges.attributes()(images)
    order = list(range(len(asked)))
    other = order[1:] + order[:1]
    ours, chance = agreement(read, asked, order), agreement(read, asked, other)
    places = torch.tensor([value == each.place for value, each in zip(read["background"].values, asked)]).float()
    return {
        "right": {name: float(values.mean()) for name, values in ours.items()} | {"place": float(places.mean())},
        "chance": {name: float(values.mean()) for name, values in chance.items()},
    }


def same_person(people: People, asked: Sequence[Asked], images: Tensor) -> float:
    """How often the DINO judge finds a picture nearer to the person's photos than to those of another."""
    dino, known = judges.dino(), {}

    def photos(person: int) -> Tensor:
        if person not in known:
            known[person] = dino.images(torch.stack([p.image for p in people.pictures[person]]))
        return known[person]

    rng, right = random.Random("others"), 0
    for own, each in zip(dino.images(images).split(1), asked):
        person = each.shown[0][0]
        other = rng.choice([i for i in range(len(people.subjects)) if i != person])
        right += float(average(own, photos(person))) > float(average(own, photos(other)))
    return right / len(asked)


def leakage(people: People, asked: Sequence[Asked], images: Tensor) -> dict[str, float]:
    """How often pose and view are those of a picture that was shown, and of one that was not."""
    read, last = judges.attributes()(images), -1
    found = {}
    for name in ("pose", "view"):
        shown = hidden = 0
        for value, each in zip(read[name].values, asked):
            own = [truth(people.subjects[p], people.pictures[p][c.shot].scene)[name] for p, c in each.shown]
            shown += sum(value == v for v in own) / len(own)
            person = each.shown[0][0]
            hidden += value == truth(people.subjects[person], people.pictures[person][last].scene)[name]
        found |= {f"{name} of a reference": shown / len(asked), f"{name} of another picture": hidden / len(asked)}
    return found


# --- cost ------------------------------------------------------------------------------------------------------------


def cost(network: RetriNet, people: People, count: int, pairs: int) -> dict[str, float]:
    """A guided step with so many references against one without."""
    loaded, [asked] = model()[0], reconstructions(people, 1, count)
    z = torch.randn(1, 4, SIZE // 8, SIZE // 8)
    text, null, found = loaded.text(PLACES["beach"]), loaded.text(""), {"references": count}

    def step(hooks: Hooks | None = None, t: int = 500) -> None:
        with torch.no_grad():
            guided(loaded.denoiser, text, null, GUIDANCE, hooks)(z, t)

    plain = flops(step)
    for time in TIMES:
        hooks, calls = retrieving(people, network, time)([asked])[1], count_from(0)

        def run(hooks: Hooks = hooks, calls: Iterator[int] = calls) -> None:
            step(hooks, 400 + next(calls) % 2)  # another timestep each time, as in a picture

        run()
        found[f"FLOPs, {time}"] = flops(run) / plain
        before, after, ratio = interleaved(step, run, pairs)
        found |= {f"seconds, {time}": after, f"seconds without, {time}": before, f"time, {time}": ratio}
    return {name: round(value, 4) for name, value in found.items()}


# --- all -------------------------------------------------------------------------------------------------------------


def measure(make: Make, people: People, count: int, each: int, picture: Path | None = None) -> dict[str, Any]:
    """Composition, reconstruction and leakage of a way to draw."""
    composed, rebuilt = compositions(people, count, each), reconstructions(people, count, 2 * each)
    first, second = drawn(composed, make), drawn(rebuilt, make, 10**6)
    if picture is not None:
        show(people, composed[:8], first, picture)
    again = judged(second, rebuilt) | {"same person by DINO": same_person(people, rebuilt, second)}
    return {
        "composition": judged(first, composed),
        "reconstruction": again,
        "leakage": leakage(people, rebuilt, second),
    }


def show(people: People, asked: Sequence[Asked], images: Tensor, path: Path) -> Path:
    """References and what was drawn, a row each."""
    rows = []
    for each, image in zip(asked, images):
        seen = [identities.reference(people.bank.people[p][c.shot](), c, SIZE)[1] for p, c in each.shown]
        rows.append((PLACES[each.place], torch.stack([*seen, image])))
    return sheet.contact_sheet(rows, path)


def main(
    network: Path = SHIPPED,
    parts: tuple[str, ...] = ("quality", "cost"),
    count: int = 200,
    people: int = 40,
    each: int = 2,
    time: str = "each",
    pairs: int = 11,
    out: Path = RESULTS / "retrinet.json",
    picture: Path | None = None,
) -> None:
    """Measure a RetriNet.

    Args:
        network: its file; the one that comes with the pack by default.
        parts: quality, cost.
        count: pictures of each task.
        people: held-out people.
        each: references of each concept.
        time: how references are read.
        pairs: of steps that are timed.
        out: file to write.
        picture: contact sheet to write.
    """
    loaded, known = retrinet.load(network).eval().requires_grad_(False), People(people)
    found = json.loads(out.read_text()) if out.exists() else {}
    if "quality" in parts:
        found["quality"] = measure(retrieving(known, loaded, time), known, count, each, picture)
    if "cost" in parts:
        found["cost"] = cost(loaded, known, 4, pairs)
    found["base"] = model()[1]
    out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
