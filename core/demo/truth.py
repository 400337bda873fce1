"""What can be asked of a picture of the world, the true answers, and which of them the picture shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from . import world
from .subjects import contrasting

VALUES: dict[str, tuple[str, ...]] = {
    "kind": (*world.KINDS, "person"),
    "colour": tuple(world.COLOURS),
    "background": world.BACKGROUNDS,
    "style": world.STYLES,
    "view": world.VIEWS,
    "accessory": ("none", *world.ACCESSORIES),
    "pose": world.POSES,
    "hair_style": world.HAIR_STYLES,
    "hair_colour": tuple(world.HAIR_COLOURS),
    "eyes": tuple(world.EYES),
    "skin": tuple(world.SKINS),
    "garment": world.GARMENTS,
    "outfit_colour": tuple(world.COLOURS),
    "second_colour": tuple(world.COLOURS),
    "pattern": world.PATTERNS,
    **dict.fromkeys(world.MARKS, ("none", *world.COLOURS)),
}
_FIELDS = {"outfit_colour": "colour", "second_colour": "second"}  # of an Outfit
_SIZE, _LEAST, _CLEAR = 64, 8, 0.1  # a difference shows in so many of 64 x 64 pixels, in a channel by so much


def truth(subject: world.Subject, scene: world.Scene) -> dict[str, str]:
    """Attribute -> true value, one of VALUES; things have one attribute a mark: its colour or "none".

    Attributes that the subject does not have are absent: a cup has no pose and no eyes, a person no marks.
    """
    values = world.attributes(subject, scene)
    if values.pop("marks", None) is not None:
        values |= dict.fromkeys(world.MARKS, "none") | {mark.kind: mark.colour for mark in subject.marks}
    return values


def visible(subject: world.Subject, scene: world.Scene) -> frozenset[str]:
    """The attributes that the picture of `subject` in `scene` shows: with another value it would look different.

    What is always to be seen is taken for granted: place, style, view and accessory; kind, colour and pose, which
    shape or cover the whole subject; garment and main colour of an outfit, which no accessory and no hair hides. The
    rest is tried, since views, poses, hair, arms, scarfs and hats hide it in combinations that no list of rules holds:

    * eyes: nobody has any from behind, and small people's are a few pixels;
    * skin: from behind little but hands and ears is left of it, and those may be covered;
    * hair: a hat hides the bun and the fringe that tell a bun from short hair, and most of short hair's colour;
    * second colour: a plain coat shows it at the trousers' hems, and not at all on somebody sitting;
    * pattern: long hair covers it from behind, the arm covers a heart from the side;
    * marks of things: a scarf covers a band, one mark another; where one would be hidden, "none" can't be seen either.
    """
    values = truth(subject, scene)
    picture = _plain(subject, scene)
    hidden = {
        name
        for name in _doubtful(values)
        if min(_difference(picture, _plain(rival, scene)) for rival in _rivals(subject, name, values[name])) < _LEAST
    }
    return frozenset(values) - hidden


def _doubtful(values: dict[str, str]) -> Iterator[str]:
    """The attributes that have to be tried; each costs a drawing or more."""
    if values["kind"] == "person":
        yield from ("eyes", "second_colour", "pattern")
        if values["view"] == "back":
            yield "skin"
        if values["accessory"] == "hat":
            yield from ("hair_style", "hair_colour")
        return
    for mark in world.MARKS:
        if values[mark] != "none" or (mark == "band" and values["accessory"] == "scarf"):
            yield mark


def _rivals(subject: world.Subject, name: str, value: str) -> Iterator[world.Subject]:
    """`subject` with other values of an attribute: every other shape, or one clearly different colour."""
    if name in world.MARKS:
        marks = [mark for mark in subject.marks if mark.kind != name]
        if value == "none":
            marks.append(world.Mark(name, contrasting(subject.colour)[0]))
        marks.sort(key=lambda mark: mark.kind == "badge")  # a badge is painted last
        yield world.Thing(subject.kind, subject.colour, tuple(marks))
        return
    values = VALUES[name]
    opposite = values[(values.index(value) + len(values) // 2) % len(values)]
    for other in values if name in ("hair_style", "pattern") else (opposite,):
        if other != value and hasattr(subject.face, name):
            yield world.Character(replace(subject.face, **{name: other}), subject.outfit)
        elif other != value:
            yield world.Character(subject.face, replace(subject.outfit, **{_FIELDS.get(name, name): other}))


def _plain(subject: world.Subject, scene: world.Scene):
    """A small drawing, as a photo: the other styles show the same things, blurred or inked."""
    return world.draw(subject, replace(scene, style="photo"), caption="", size=_SIZE).image


def _difference(a, b) -> int:
    """In how many pixels two pictures clearly differ."""
    return int(((a - b).abs().amax(0) > _CLEAR).sum())
