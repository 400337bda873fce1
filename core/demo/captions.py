"""Captions: what a picture shows in a few plain words, never how an identity looks in detail."""

from __future__ import annotations

import random
import re

PLACES = {
    "beach": "on the beach",
    "forest": "in the forest",
    "snow": "in the snow",
    "city": "in the city",
    "desert": "in the desert",
    "night": "at night",
    "kitchen": "in the kitchen",
    "meadow": "in a meadow",
}
WORN = {"hat": "wearing a hat", "scarf": "wearing a scarf", "balloon": "with a balloon", "flower": "with a flower"}
VIEW_PHRASES = {
    "front": ("front view of",),
    "back": ("back view of",),
    "left": ("left view of", "side view of"),
    "right": ("right view of", "side view of"),
}
POSE_WORDS = ("standing", "sitting", "waving")
_GRAMMAR = "a an the of in on at with wearing view side"
_REGIONS = ("face", "clothes")


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def caption(subject, scene, rng: random.Random) -> str:
    """A random true caption of `subject` in `scene`; only words of `words()`.

    Styles other than photo and accessories are always named; colour (of things) in half of the captions,
    the background in three quarters; marks, hair, clothes and skin never.
    """
    noun = _noun(subject, rng)
    view = rng.choice(VIEW_PHRASES[scene.view]) if rng.random() < 0.25 else ""
    the = rng.random() < 0.15
    named = f"the {noun}" if the else article(noun)
    if pose := _pose(subject, scene, rng):
        named = f"{named} {pose}"
    parts = [_opening(scene.style, view, the, rng), named]
    if rng.random() < 0.75:
        parts.append(PLACES[scene.background])
    if scene.accessory:
        parts.append(WORN[scene.accessory])
    return " ".join(part for part in parts if part)


def region_caption(region: str, subject, style: str = "photo") -> str:
    """The caption of a crop: "a photo of the face of a person"; `region` is face or clothes (ValueError else)."""
    if region not in _REGIONS:
        raise ValueError(f"region_caption: region {region!r} is not one of {', '.join(_REGIONS)}")
    return f"{article(style)} of the {region} of {article(subject.word)}"


def _noun(subject, rng: random.Random) -> str:
    if subject.word == "person":
        return "figure" if rng.random() < 0.1 else "person"
    return f"{subject.colour} {subject.word}" if rng.random() < 0.5 else subject.word


def _pose(subject, scene, rng: random.Random) -> str:
    return scene.pose if has_poses(subject) and rng.random() < 0.2 else ""


def _opening(style: str, view: str, the: bool, rng: random.Random) -> str:
    """The words before the subject; without a style word the picture is a photo."""
    if style == "photo" and (the or rng.random() < 0.25):
        return view
    return f"{article(style)} of" + (f" the {view}" if view else "")


def has_poses(subject) -> bool:
    """Whether poses change how `subject` looks; rigid things always stand."""
    from .subjects import CREATURES

    return subject.word == "person" or subject.kind in CREATURES


def words() -> tuple[str, ...]:
    """All words that captions may contain, sorted."""
    from .styles import STYLES
    from .subjects import COLOURS, KINDS

    phrases = [
        _GRAMMAR,
        "person figure",
        *_REGIONS,
        *PLACES.values(),
        *WORN.values(),
        *POSE_WORDS,
        *STYLES,
        *COLOURS,
        *KINDS,
    ]
    phrases += [phrase for group in VIEW_PHRASES.values() for phrase in group]
    return tuple(sorted(set(re.findall(r"[a-z]+", " ".join(phrases)))))
