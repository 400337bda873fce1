"""What captions claim about a picture, and captions that claim one thing wrongly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..core.demo import truth, world
from ..core.demo.captions import has_poses

SAID = ("kind", "colour", "background", "style", "view", "accessory", "pose")  # what captions may name
_KINDS = {True: world.CREATURES, False: tuple(kind for kind in world.KINDS if kind not in world.CREATURES)}
_UNSAID = {"style": "photo", "accessory": "none"}  # what a caption without such a word means


def claims(caption: str) -> list[int]:
    """The index in VALUES of what a caption says of each of SAID, -1 where it says nothing (or "side view")."""
    words = set(caption.replace("figure", "person").split())
    found = []
    for name in SAID:
        values = truth.VALUES[name]
        value = next((v for v in values if v in words), _UNSAID.get(name))
        found.append(-1 if value is None else values.index(value))
    return found


def facts(subject: world.Subject, scene: world.Scene) -> list[int]:
    """The index in VALUES of what is true of each of SAID, -2 where the subject has no such attribute."""
    values = truth.truth(subject, scene)
    return [truth.VALUES[name].index(values[name]) if name in values else -2 for name in SAID]


def fits(captions: Sequence[str], shown: Tensor) -> Tensor:
    """Which captions are true of which pictures.

    Args:
        shown: facts, (B, len(SAID)).

    Returns:
        bool, (B, len(captions)).
    """
    said = torch.tensor([claims(caption) for caption in captions])
    return ((said[None] == -1) | (said[None] == shown[:, None])).all(-1)


def altered(subject: world.Subject, scene: world.Scene, seed: str) -> str:
    """The caption that `seed` gives a picture, with one of its claims changed so that it is wrong."""
    rng = random.Random(f"altered {seed}")
    true = world.caption(subject, scene, random.Random(seed))
    for name in rng.sample(SAID, len(SAID)):
        other = _changed(subject, scene, name, rng)
        text = other and world.caption(*other, random.Random(seed))
        if text and _differ(true, text) == 1 and not fits([text], torch.tensor([facts(subject, scene)])).item():
            return text
    raise ValueError(f"altered: nothing in {true!r} can be changed")


def _differ(one: str, other: str) -> int:
    """In how many claims; another style may also turn the caption's other choices."""
    return sum(a != b for a, b in zip(claims(one), claims(other)))


def _changed(subject: world.Subject, scene: world.Scene, name: str, rng: random.Random):
    """Subject and scene with another value of one attribute; None if the subject has no other."""
    value = truth.truth(subject, scene).get(name)
    if value is None or (name == "kind" and value == "person"):
        return None
    # kinds without poses have other captions than kinds with them
    values = truth.VALUES[name] if name != "kind" else _KINDS[has_poses(subject)]
    other = rng.choice([v for v in values if v != value])
    if name in ("kind", "colour"):
        return world.Thing(**{**vars(subject), name: other}), scene
    return subject, replace(scene, **{name: None if other == "none" else other})
