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
from ...core.metrics.similarity import masked
from . import photos, records
from .pairs import table
from .records import Record

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
        figure: where the target's subject is, (1, S, S); None where unknown.
    """

    subject: Tensor
    target: Tensor
    prompt: str = ""
    mask: Tensor | None = None
    depth: Tensor | None = None
    figure: Tensor | None = None


Load = Callable[[], Example]


# --- folders ---------------------------------------------------------------------------------------------------------


def of_pictures(path: Path, size: int, figures: bool = False) -> list[Load]:
    """Every picture of a folder or of what else `records.read` takes, to be made of itself; errors as there.

    Args:
        figures: whether masks are read.
    """

    def example(record: Record) -> Example:
        picture, figure = _square(record, size, figures)
        return Example(picture, picture, figure=figure)

    return [lambda record=record: example(record) for record in records.read(path, leave=True)]


def of_views(path: Path, size: int, prompts: bool = False, figures: bool = False) -> list[Load]:
    """Every ordered pair of pictures of one subject, from what `records.read` takes.

    Args:
        prompts: whether the targets' prompts belong to it.
        figures: whether their masks are read.

    Raises:
        ValueError: no subject with two pictures.
    """
    subjects: dict[frozenset[str], list[Record]] = {}
    for record in records.read(path, leave=True):
        subjects.setdefault(frozenset((record.id, *record.similar)), []).append(record)
    pairs = [(a, b) for shown in subjects.values() for a in shown for b in shown if a is not b]
    if not pairs:
        raise ValueError("records: no subject has two pictures; other views are learned from several pictures of one")

    def example(a: Record, b: Record) -> Example:
        target, figure = _square(b, size, figures)
        return Example(_square(a, size)[0], target, b.prompts * prompts, figure=figure)

    return [lambda a=a, b=b: example(a, b) for a, b in pairs]


def _square(record: Record, size: int, figures: bool = False) -> tuple[Tensor, Tensor | None]:
    """The picture, and its mask where it is asked for and there is one."""
    picture = record.picture()
    found = picture, record.figure(picture) if figures else None
    image, figure = (None if each is None else photos.prepare([each], size)[0].data[0] for each in found)
    return image, figure


def of_pairs(path: Path, size: int, pairs: str = "both") -> list[Load]:
    """Pairs of `likeness build pairs`, from its folder or one of its shards; they are read when they are needed.

    Args:
        size: pixels; pairs of another size are cropped to the middle square and scaled.
        pairs: one of `PAIRS`.

    Raises:
        FileNotFoundError: no shard there.
        ValueError: a file that is no shard of pairs, or no pair of this kind.
    """
    _check_kind(pairs)
    shards = [path] if path.is_file() else sorted(path.glob("shard-*.parquet"))
    if not shards:
        raise FileNotFoundError(f"pairs_from: no shard in {path}; `likeness build pairs` writes them")
    found = []
    for shard in shards:
        editing = [row["editing"] for row in table.columns(shard, ["editing"])]
        found += [
            (shard, i) for i, edits in enumerate(editing) if pairs in ("both", "editing" if edits else "generation")
        ]
    if not found:
        raise ValueError(f"pairs_from: {path} has no pair" + ("" if pairs == "both" else f" for {pairs}"))
    return [lambda shard=shard, i=i: _pair(table.row(shard, i), size) for shard, i in found]


def _pair(pair: table.Pair, size: int) -> Example:
    whole = [photos.decode(data) for data in (pair.input, pair.target)]
    maps = [None if data is None else photos.decode(data)[:1] for data in (pair.mask, pair.depth)]
    fitted = [None if each is None else photos.prepare([each], size)[0].data[0] for each in (*whole, *maps)]
    return Example(fitted[0], fitted[1], pair.prompt, fitted[2], fitted[3])


# --- the demo world --------------------------------------------------------------------------------------------------


def rendered_pictures(count: int, seed: int = 0, size: int = 128) -> list[Load]:
    """Pictures of the world, to be made of themselves."""

    def draw(i: int) -> Example:
        picture = world.draw(*_scene(seed, i), size=size)
        return Example(picture.image, picture.image, figure=picture.mask)

    return [lambda i=i: draw(i) for i in range(count)]


def rendered_views(count: int, seed: int = 0, size: int = 128, told: bool = False) -> list[Load]:
    """A subject, and the same in the same place from another side, as multi-view photos show it.

    Args:
        told: whether prompts say what it is.
    """

    def draw(i: int) -> Example:
        (subject, scene), rng = _scene(seed, i), random.Random(f"view {seed} {i}")
        other = rng.choice([view for view in world.VIEWS if view != scene.view])
        one, another = (world.draw(subject, s, size=size) for s in (scene, replace(scene, view=other)))
        prompt = f"a photo of a {subject.word}" if told else ""
        return Example(one.image, another.image, prompt, figure=another.mask)

    return [lambda i=i: draw(i) for i in range(count)]


def rendered_pairs(
    count: int, pairs: str = "both", seed: int = 0, held_out: bool = False, size: int = 128, alone: bool = False
) -> list[Load]:
    """Generation and editing pairs by turns, or one kind of them.

    Generation: the subject as a photo, and the same anywhere in any style. Editing: a picture, and the same with
    another place, something added, or another colour, different only within the mask.

    Args:
        alone: whether DINO sees the subject on white (Toffee, section 3.3).

    Raises:
        ValueError: an unknown kind of pairs.
    """
    _check_kind(pairs)
    held = world.held_out_subjects(count) if held_out else None

    def draw(i: int) -> Example:
        rng = random.Random(f"pair {seed} {i}")
        subject = held[i] if held else world.random_subject(rng)
        edits = pairs == "editing" or (pairs == "both" and i % 3 == 2)  # a third, as in Toffee-5M
        return (_edited if edits else _generated)(subject, rng, size, alone)

    return [lambda i=i: draw(i) for i in range(count)]


def _check_kind(pairs: str) -> None:
    if pairs not in PAIRS:
        raise ValueError(f"pairs is {pairs!r}; choose {', '.join(PAIRS)}")


def _scene(seed: int, i: int) -> tuple[world.Subject, world.Scene]:
    return world.sample_scene(1_000_000 * (seed + 60) + i)


def _generated(subject: world.Subject, rng: random.Random, size: int, alone: bool) -> Example:
    shown = world.draw(subject, world.random_scene(rng, style="photo", accessory=None), size=size)
    target = world.draw(subject, world.random_scene(rng), size=size)
    return Example(_seen(shown, alone), target.image, target.caption, None, target.depth, target.mask)


def _edited(subject: world.Subject, rng: random.Random, size: int, alone: bool) -> Example:
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
    return Example(_seen(before, alone), target, prompt, mask, after.depth, after.mask)


def _seen(picture: world.Picture, alone: bool) -> Tensor:
    """What DINO sees: all of it, or the subject on white."""
    return masked(picture.image[None], picture.mask[None])[0] if alone else picture.image


def _wider(mask: Tensor, pixels: int) -> Tensor:
    return (F.max_pool2d(mask[None], 2 * pixels + 1, 1, pixels)[0] > 0.5).float()
