"""What Toffee's models learn from: a picture of a subject, and the picture to be made of it.

On the demo world they come straight from the renderer. Each example is a function, so that pictures are drawn or
decoded only when they are needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from ...core.demo import world
from ...core.demo.captions import PLACES, article
from . import photos, records

EDITS = ("background", "addition", "colour")
PAIRS = ("both", "generation", "editing")


@dataclass(frozen=True)
class Example:
    """One pair.

    Args:
        subject: what DINO sees, (3, S, S) in 0..1.
        target: what is to be drawn, (3, S, S).
        prompt: what the target shows.
        mask: where an editing pair differs, (1, S, S); None for generation.
        depth: of the target, (1, S, S), 1 nearest; None where unknown.
    """

    subject: Tensor
    target: Tensor
    prompt: str = ""
    mask: Tensor | None = None
    depth: Tensor | None = None


Load = Callable[[], Example]


# --- folders ---------------------------------------------------------------------------------------------------------


def of_pictures(folder: Path, size: int) -> list[Load]:
    """Every picture of a folder, to be made of itself; FileNotFoundError as `photos.read_folder`."""
    pictures = [group.data[i] for group in photos.from_folders(folder, None, size, "crop") for i in range(len(group))]
    return [lambda picture=picture: Example(picture, picture) for picture in pictures]


def of_views(path: Path, size: int) -> list[Load]:
    """Every ordered pair of pictures of one subject, from what `records.read` takes.

    Raises:
        ValueError: no subject with two pictures.
    """
    subjects: dict[frozenset[str], list[Tensor]] = {}
    for record in records.read(path):
        picture = photos.prepare([record.picture()], size)[0].data[0]
        subjects.setdefault(frozenset((record.id, *record.similar)), []).append(picture)
    pairs = [(a, b) for shown in subjects.values() for a in shown for b in shown if a is not b]
    if not pairs:
        raise ValueError("records: no subject has two pictures; the View Generator learns from several views of one")
    return [lambda a=a, b=b: Example(a, b) for a, b in pairs]


# --- the demo world --------------------------------------------------------------------------------------------------


def rendered_pictures(count: int, seed: int = 0, size: int = 128) -> list[Load]:
    """Pictures of the world, to be made of themselves."""

    def draw(i: int) -> Example:
        picture = world.draw(*_scene(seed, i), size=size).image
        return Example(picture, picture)

    return [lambda i=i: draw(i) for i in range(count)]


def rendered_views(count: int, seed: int = 0, size: int = 128) -> list[Load]:
    """A subject, and the same in the same place from another side, as multi-view photos show it."""

    def draw(i: int) -> Example:
        (subject, scene), rng = _scene(seed, i), random.Random(f"view {seed} {i}")
        other = rng.choice([view for view in world.VIEWS if view != scene.view])
        return Example(*(world.draw(subject, s, size=size).image for s in (scene, replace(scene, view=other))))

    return [lambda i=i: draw(i) for i in range(count)]


def rendered_pairs(
    count: int, pairs: str = "both", seed: int = 0, held_out: bool = False, size: int = 128
) -> list[Load]:
    """Generation and editing pairs by turns, or one kind of them.

    Generation: the subject as a photo, and the same anywhere in any style. Editing: a picture, and the same with
    another place, something added, or another colour, different only within the mask.

    Raises:
        ValueError: an unknown kind of pairs.
    """
    if pairs not in PAIRS:
        raise ValueError(f"pairs is {pairs!r}; choose {', '.join(PAIRS)}")
    held = world.held_out_subjects(count) if held_out else None

    def draw(i: int) -> Example:
        rng = random.Random(f"pair {seed} {i}")
        subject = held[i] if held else world.random_subject(rng)
        edits = pairs == "editing" or (pairs == "both" and i % 3 == 2)  # a third, as in Toffee-5M
        return (_edited if edits else _generated)(subject, rng, size)

    return [lambda i=i: draw(i) for i in range(count)]


def _scene(seed: int, i: int) -> tuple[world.Subject, world.Scene]:
    return world.sample_scene(1_000_000 * (seed + 60) + i)


def _generated(subject: world.Subject, rng: random.Random, size: int) -> Example:
    shown = world.draw(subject, world.random_scene(rng, style="photo", accessory=None), size=size)
    target = world.draw(subject, world.random_scene(rng), size=size)
    return Example(shown.image, target.image, target.caption, None, target.depth)


def _edited(subject: world.Subject, rng: random.Random, size: int) -> Example:
    scene = world.random_scene(rng, style="photo", accessory=None)
    before, kind, other = world.draw(subject, scene, size=size), rng.choice(EDITS), subject
    if kind == "background":
        place = rng.choice([p for p in world.BACKGROUNDS if p != scene.background])
        after = world.draw(subject, replace(scene, background=place), size=size)
        mask = 1 - _wider(before.mask, 0)
    elif kind == "colour" and isinstance(subject, world.Thing):
        colour = rng.choice([c for c in world.COLOURS if c != subject.colour])
        other = world.Thing(subject.kind, colour, tuple(m for m in subject.marks if m.colour != colour))
        after, place = world.draw(other, scene, size=size), scene.background
        mask = _wider(before.mask, 2)
    else:
        added = replace(scene, accessory=rng.choice(world.ACCESSORIES))
        after, place = world.draw(subject, added, size=size), scene.background
        changed = ((after.image - before.image).abs().amax(0, keepdim=True) > 0.05).float()
        mask = _wider(changed, 3) if bool(changed.any()) else _wider(before.mask, 2)
    named = f"{other.colour} {other.word}" if isinstance(other, world.Thing) else other.word
    prompt = f"a photo of {article(named)} {PLACES[place]}"
    if after.scene.accessory:
        prompt = after.caption
    target = before.image * (1 - mask) + after.image * mask
    return Example(before.image, target, prompt, mask, after.depth)


def _wider(mask: Tensor, pixels: int) -> Tensor:
    return (F.max_pool2d(mask[None], 2 * pixels + 1, 1, pixels)[0] > 0.5).float()
