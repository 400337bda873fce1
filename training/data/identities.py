"""Identities for RetriNet: pictures of the same character in the same outfit, and references taken from them.

Two pipelines (RetriBooru, section 3.1): "b" takes references from other pictures of the identity, "a" from the target
itself, as others do, which leaks its layout. Three tasks (section 5): "reconstruction" shows whole figures,
"composition" a face or clothes each, "multitask" both by turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.demo import world
from ...core.retrinet.reference import Box, concept_mask, cut_out
from . import photos
from .records import Record

PIPELINES = ("b", "a")
TASKS = ("composition", "reconstruction", "multitask")
VARIANTS = 4  # augmentations of a picture, so that their latents can be kept


@dataclass(frozen=True)
class Shot:
    """A square picture of an identity.

    Args:
        image: (3, S, S) in 0..1.
        seen: (1, S, S), 1 where the picture is and 0 where it was padded (M_tgt).
        figure: the subject's mask, (1, S, S).
        face: box of the face in the square, (cx, cy, w, h in 0..1).
        clothes: mask of the clothes alone, (1, S, S).
        prompt: what the picture shows.
    """

    image: Tensor
    seen: Tensor
    figure: Tensor
    face: Box | None = None
    clothes: Tensor | None = None
    prompt: str = ""


Load = Callable[[], Shot]
Identity = Sequence[Load]


def rendered(
    count: int, shots: int, seed: int = 0, held_out: bool = False, size: int = 128, style: str | None = None
) -> list[Identity]:
    """People of the demo world, each in so many pictures, always the same ones.

    Args:
        held_out: people that no training shows.
        style: of all pictures; None is any.

    Raises:
        ValueError: a style that the demo world doesn't have.
    """
    if style is not None and style not in world.STYLES:
        raise ValueError(f"style: {style!r} is not of the demo world; choose from {', '.join(world.STYLES)}")
    rng = random.Random(f"identities {seed}")
    if held_out:
        people = world.held_out_subjects(count, "person")
    else:
        people = list(dict.fromkeys(world.random_subject(rng, characters=1.0) for _ in range(count)))
    fixed, found = {"style": style} if style else {}, []
    for i, person in enumerate(people):
        pictures = world.photos(person, shots, seed=seed * 7919 + i, size=size, **fixed)
        found.append([_kept(painted(picture)) for picture in pictures])
    return found


def painted(picture: world.Picture) -> Shot:
    """A picture of the demo world, with its truth."""
    seen = torch.ones_like(picture.mask)
    return Shot(picture.image, seen, picture.mask, picture.face_box, picture.clothes, picture.caption)


def _kept(shot: Shot) -> Load:
    """A shot in a quarter of the memory."""
    names = ("image", "seen", "figure", "clothes")
    small = {n: (getattr(shot, n) * 255).round().byte() for n in names if getattr(shot, n) is not None}
    return lambda: replace(shot, **{name: t / 255 for name, t in small.items()})


def from_records(records: Iterable[Record], size: int) -> list[Identity]:
    """Identities of a data set's records; their pictures are decoded when they are asked for.

    Raises:
        ValueError: no identity with two pictures; when they are asked for, a mask that is empty or of another size.
    """
    groups: dict[frozenset[str], list[Load]] = {}
    for record in records:
        key = frozenset((record.id, *record.similar))
        groups.setdefault(key, []).append(lambda record=record: _fitted(record, size))
    found = [group for group in groups.values() if len(group) > 1]
    if not found:
        raise ValueError("records: no identity has two pictures; RetriNet learns from pairs of them")
    return found


def _fitted(record: Record, size: int) -> Shot:
    picture = record.picture()
    height, width = picture.shape[-2:]
    figure = record.figure(picture)
    if figure is None:
        figure = torch.ones(1, height, width)
    image, seen = photos.pad(picture, None, size)
    figure = photos.pad(figure, torch.ones_like(figure), size)[0] * seen
    if not bool((figure > 0.5).any()):
        raise ValueError(f"records: the mask of {record.id} is empty at {size} pixels; paint it, or remove the picture")
    side = max(height, width)
    face = record.bbox
    if face is not None:
        cx, cy, w, h = face
        x, y = (side - width) / 2, (side - height) / 2
        face = ((cx * width + x) / side, (cy * height + y) / side, w * width / side, h * height / side)
    return Shot(image, seen, figure, face, None, record.prompts)


# --- references ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A reference to be taken: of which shot, of what, and by which augmentation (None is none)."""

    shot: int
    word: str
    variant: int | None = None


def choose(
    count: int, shots: int, target: int, generator: torch.Generator, task: str = "composition", pipeline: str = "b"
) -> list[Choice]:
    """References for a target.

    Others of the identity are taken once each while there are enough of them, else with replacement **[ours]**.

    Args:
        count: N.
        shots: pictures of the identity.
        target: the one to be drawn.

    Raises:
        ValueError: an unknown task or pipeline, or no other picture.
    """
    if task not in TASKS or pipeline not in PIPELINES:
        raise ValueError(f"task {task!r} or pipeline {pipeline!r} unknown; tasks {TASKS}, pipelines {PIPELINES}")
    if pipeline == "b" and shots < 2:
        raise ValueError("identities: one has a single picture; pipeline b needs two")

    def pick(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    if task == "multitask":
        task = TASKS[pick(2)]
    if pipeline == "a":
        taken = [(target, pick(VARIANTS)) for _ in range(count)]
    else:
        others = [i for i in range(shots) if i != target]
        order = torch.randperm(len(others), generator=generator).tolist()
        taken = [(others[order[i] if i < len(others) else pick(len(others))], None) for i in range(count)]
    words = ["figure" if task == "reconstruction" else ("face", "clothes")[pick(2)] for _ in range(count)]
    return [Choice(shot, word, variant) for (shot, variant), word in zip(taken, words)]


def reference(shot: Shot, choice: Choice, size: int) -> tuple[str, Tensor, Tensor]:
    """What is shown: the word it goes by, the square cut out (3, size, size) and where in it the concept is.

    A face that the picture does not show gives way to the clothes **[ours]**.
    """
    if choice.variant is not None:
        shot = augmented(shot, torch.Generator().manual_seed(choice.shot * VARIANTS + choice.variant))
    word = "clothes" if choice.word == "face" and shot.face is None else choice.word
    word, mask = concept_mask(word, shot.figure, shot.face, shot.clothes)
    image, where = cut_out(shot.image, mask, size)
    return word, image, where


def augmented(shot: Shot, generator: torch.Generator) -> Shot:
    """Another crop of a picture, 80 to 100 % of its width, and its mirror image half of the time **[ours]**."""
    size = shot.image.shape[-1]
    share, left, top, flip = torch.rand(4, generator=generator).tolist()
    side = round(size * (0.8 + 0.2 * share))
    x, y = round(left * (size - side)), round(top * (size - side))

    def crop(t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        t = F.interpolate(t[None, :, y : y + side, x : x + side], (size, size), mode="bilinear", antialias=True)[0]
        return (t.flip(-1) if flip < 0.5 else t).clamp(0, 1)

    figure = crop(shot.figure)
    if not bool((figure > 0.5).any()):
        return shot
    face = shot.face
    if face is not None:
        cx, cy, w, h = face
        cx, cy = (cx * size - x) / side, (cy * size - y) / side
        face = (1 - cx if flip < 0.5 else cx, cy, w * size / side, h * size / side)
        face = face if 0 < face[0] < 1 and 0 < face[1] < 1 else None
    clothes = crop(shot.clothes)
    clothes = clothes if clothes is not None and bool((clothes > 0.5).any()) else None
    return replace(shot, image=crop(shot.image), seen=crop(shot.seen), figure=figure, face=face, clothes=clothes)


# --- latents ---------------------------------------------------------------------------------------------------------


class Bank:
    """Latents of targets and references, encoded when they are first needed and kept.

    Args:
        people: the identities.
        encode: pictures (B, 3, H, W) in 0..1 -> latents in the model's scale.
        size: pixels of references.
        keep: whether latents are kept; without it everything is encoded anew each time.
    """

    def __init__(self, people: Sequence[Identity], encode: Callable[[Tensor], Tensor], size: int, keep: bool = True):
        self.people, self.encode, self.size, self.keep = people, encode, size, keep
        self._targets: dict[tuple[int, int], tuple[Tensor, Shot]] = {}
        self._references: dict[tuple[int, Choice], tuple[str, Tensor, Tensor]] = {}

    def target(self, person: int, shot: int) -> tuple[Tensor, Shot]:
        """Latents (C, h, w) of a picture, and the picture without its pixels."""
        if (person, shot) in self._targets:
            return self._targets[person, shot]
        loaded = self.people[person][shot]()
        latents = self.encode(loaded.image[None])[0].cpu()
        small = [F.adaptive_avg_pool2d(m, latents.shape[-2:]) for m in (loaded.seen, loaded.figure)]
        light = Shot(latents.new_empty(0), *small, loaded.face, None, loaded.prompt)
        return self._kept(self._targets, (person, shot), (latents, light))

    def reference(self, person: int, choice: Choice) -> tuple[str, Tensor, Tensor]:
        """The word, the latents (C, h, w), and where in them to look (h, w)."""
        if (person, choice) in self._references:
            return self._references[person, choice]
        word, image, mask = reference(self.people[person][choice.shot](), choice, self.size)
        latents = self.encode(image[None])[0].cpu()
        return self._kept(
            self._references, (person, choice), (word, latents, F.adaptive_max_pool2d(mask, latents.shape[-2:])[0])
        )

    def _kept(self, known: dict, key: Any, value: Any) -> Any:
        if self.keep:
            known[key] = value
        return value
