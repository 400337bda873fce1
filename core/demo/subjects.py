"""Identities: things and people, how they are sampled, and which are held out for testing."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from .animals import BREEDS
from .characters import EYES, GARMENTS, PATTERNS, SKINS
from .hair import HAIR_COLOURS, HAIR_STYLES
from .marks import MARKS, VARIANTS
from .things import THING_PAINTERS

CREATURES = (*BREEDS, "duck", "robot")
KINDS = (*CREATURES, *THING_PAINTERS)
COLOURS = {
    "red": (216, 62, 58),
    "orange": (244, 142, 50),
    "yellow": (250, 208, 72),
    "green": (86, 168, 92),
    "blue": (62, 122, 208),
    "purple": (146, 92, 190),
    "white": (248, 244, 236),
    "brown": (138, 90, 60),
}
# neighbours that would hide a mark or a pattern
_CLOSE = {
    frozenset(pair)
    for pair in (
        ("red", "orange"),
        ("orange", "yellow"),
        ("yellow", "white"),
        ("blue", "purple"),
        ("red", "brown"),
        ("purple", "brown"),
        ("green", "brown"),
        ("red", "purple"),
        ("green", "blue"),
    )
}
_HELD_OUT_SHARE = 25  # one identity in so many


def check(value, allowed, what: str) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in tuple(allowed):
        raise ValueError(f"{what}: {value!r} is not one of {', '.join(map(str, allowed))}")


@dataclass(frozen=True)
class Mark:
    """An identity mark that captions never name; `variant` (0..11) seeds its count, size and place."""

    kind: str
    colour: str
    variant: int = 0

    def __post_init__(self):
        check(self.kind, MARKS, "Mark.kind")
        check(self.colour, COLOURS, "Mark.colour")
        check(self.variant, range(VARIANTS), "Mark.variant")


@dataclass(frozen=True)
class Thing:
    """An animal or object: its kind, base colour and marks."""

    kind: str
    colour: str
    marks: tuple[Mark, ...] = ()

    def __post_init__(self):
        check(self.kind, KINDS, "Thing.kind")
        check(self.colour, COLOURS, "Thing.colour")

    @property
    def word(self) -> str:
        """What captions call it."""
        return self.kind


@dataclass(frozen=True)
class Face:
    """A person's face identity."""

    hair_style: str
    hair_colour: str
    eyes: str
    skin: str

    def __post_init__(self):
        check(self.hair_style, HAIR_STYLES, "Face.hair_style")
        check(self.hair_colour, HAIR_COLOURS, "Face.hair_colour")
        check(self.eyes, EYES, "Face.eyes")
        check(self.skin, SKINS, "Face.skin")


@dataclass(frozen=True)
class Outfit:
    """What a person wears: garment, main colour, second colour (pattern, trim, trousers) and pattern."""

    garment: str
    colour: str
    second: str
    pattern: str = "plain"

    def __post_init__(self):
        check(self.garment, GARMENTS, "Outfit.garment")
        check(self.colour, COLOURS, "Outfit.colour")
        check(self.second, COLOURS, "Outfit.second")
        check(self.pattern, PATTERNS, "Outfit.pattern")


@dataclass(frozen=True)
class Character:
    """A person: a face and, independent of it, an outfit."""

    face: Face
    outfit: Outfit

    @property
    def word(self) -> str:
        """What captions call them."""
        return "person"


Subject = Thing | Character


def contrasting(colour: str) -> list[str]:
    """The colours that stand out clearly from `colour`."""
    return [c for c in COLOURS if c != colour and frozenset((c, colour)) not in _CLOSE]


def held_out(subject: Subject) -> bool:
    """Whether `subject` is one of the fixed 4 % of identities that training never shows."""
    digest = hashlib.sha256(repr(subject).encode()).digest()
    return int.from_bytes(digest[:4], "big") % _HELD_OUT_SHARE == 0


def random_subject(rng: random.Random, kinds: tuple[str, ...] | None = None, characters: float = 0.3) -> Subject:
    """A random identity that is not held out.

    `kinds` limits things to some of KINDS; `characters` is the share of people, 0..1.
    Raises ValueError for an unknown kind.
    """
    return _draw_until(rng, lambda s: not held_out(s), kinds, characters)


def held_out_subjects(count: int, kind: str | None = None) -> list[Subject]:
    """The first `count` held-out identities in a fixed order, all different.

    `kind` is one of KINDS, "person", or None for a mixture. Raises ValueError for an unknown kind.
    """
    if kind is not None:
        check(kind, (*KINDS, "person"), "held_out_subjects: kind")
    rng = random.Random(f"held out {kind}")
    characters = {None: 0.3, "person": 1.0}.get(kind, 0.0)
    kinds = None if kind in (None, "person") else (kind,)
    found: dict[Subject, None] = {}
    while len(found) < count:
        found[_draw_until(rng, held_out, kinds, characters)] = None
    return list(found)


def _draw_until(rng: random.Random, wanted, kinds, characters: float) -> Subject:
    for kind in kinds or ():
        check(kind, KINDS, "kinds")
    while True:
        subject = _character(rng) if rng.random() < characters else _thing(rng, kinds or KINDS)
        if wanted(subject):
            return subject


def _thing(rng: random.Random, kinds) -> Thing:
    kind, colour = rng.choice(kinds), rng.choice(list(COLOURS))
    count = rng.choices((0, 1, 2), (0.5, 0.35, 0.15))[0]
    marks = [Mark(m, rng.choice(contrasting(colour)), rng.randrange(VARIANTS)) for m in rng.sample(MARKS, count)]
    # a badge is painted last, so that nothing covers it
    return Thing(kind, colour, tuple(sorted(marks, key=lambda mark: _ORDER.index(mark.kind))))


_ORDER = ("dip", "stripes", "spots", "patch", "band", "badge")


def _character(rng: random.Random) -> Character:
    colour = rng.choice(list(COLOURS))
    face = Face(
        rng.choice(HAIR_STYLES), rng.choice(list(HAIR_COLOURS)), rng.choice(list(EYES)), rng.choice(list(SKINS))
    )
    return Character(face, Outfit(rng.choice(GARMENTS), colour, rng.choice(contrasting(colour)), rng.choice(PATTERNS)))
