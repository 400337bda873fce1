"""Hair of people: what hangs behind the head and what lies on it."""

from __future__ import annotations

from .canvas import Pen
from .shapes import Colour, blob, dark, ellipse, light, limb, symmetric

HAIR_STYLES = ("short", "long", "bob", "bun", "tails", "curly")
HAIR_COLOURS = {
    "black": (58, 50, 66),
    "brown": (122, 76, 48),
    "blond": (246, 206, 104),
    "ginger": (214, 104, 50),
    "silver": (206, 212, 224),
    "pink": (240, 138, 172),
    "blue": (72, 118, 206),
}
_CURLS = (
    (-0.17, -0.08),
    (-0.2, 0.03),
    (-0.16, 0.13),
    (-0.06, 0.2),
    (0.06, 0.2),
    (0.16, 0.13),
    (0.2, 0.03),
    (0.17, -0.08),
)
_LOCKS = ((-0.17, 0.05), (-0.11, 0.12), (-0.03, 0.15), (0.06, 0.14), (0.13, 0.1), (0.18, 0.04))
_LOCKS_SIDE = ((-0.12, 0.12), (-0.04, 0.15), (0.05, 0.15), (0.13, 0.11), (0.18, 0.02))


def paint_back_hair(pen: Pen, style: str, colour: Colour, x: float, y: float) -> None:
    """Hair behind head and body; `x`, `y` is the middle of the head."""
    deep, side = dark(colour, 0.18), pen.side
    if pen.view == "back":
        return
    if style == "long":
        outline = symmetric(x, y, (0, 0.2), (0.21, 0.08), (0.24, -0.2), (0.2, -0.4), (0, -0.36))
        if side:
            outline = blob(
                (x - 0.02, y + 0.2),
                (x + 0.2, y + 0.1),
                (x + 0.24, y - 0.2),
                (x + 0.2, y - 0.4),
                (x + 0.06, y - 0.4),
                (x, y - 0.1),
            )
        pen.fill(outline, deep, roundness=0.4)
    elif style == "bob":
        outline = symmetric(x, y, (0, 0.2), (0.21, 0.08), (0.225, -0.16), (0.1, -0.19))
        if side:
            outline = blob(
                (x, y + 0.2),
                (x + 0.21, y + 0.08),
                (x + 0.225, y - 0.16),
                (x + 0.1, y - 0.19),
                (x, y - 0.1),
                (x - 0.1, y + 0.1),
            )
        pen.fill(outline, deep, roundness=0.4)
    elif style == "bun":
        pen.fill(ellipse(x + (0.13 if side else 0.0), y + 0.2, 0.1, 0.085), colour)
    elif style == "tails":
        for s in (1,) if side else (-1, 1):
            pen.fill(_tail(x + (0.12 if side else 0.2 * s), y, s), colour)
    elif style == "curly":
        for dx, dy in _CURLS[3:] if side else _CURLS:
            pen.fill(ellipse(x + dx, y + dy, 0.09, 0.09), deep, roundness=0.5)


def _tail(x: float, y: float, s: int):
    path = [(x, y + 0.09), (x + 0.1 * s, y + 0.04), (x + 0.13 * s, y - 0.12), (x + 0.08 * s, y - 0.27)]
    return limb(path, 0.12, 0.06)


def paint_front_hair(pen: Pen, style: str, colour: Colour, x: float, y: float) -> None:
    """Hair on the head, over the face."""
    if pen.view == "back":
        _from_behind(pen, style, colour, x, y)
        return
    crown = _side_cap(style, x, y) if pen.side else _front_cap(style, x, y)
    cap = pen.fill(crown, colour, roundness=0.5, lift=0.08)
    if style == "curly":
        for dx, dy in _LOCKS_SIDE if pen.side else _LOCKS:
            pen.fill(ellipse(x + dx, y + dy, 0.072, 0.066), colour, lift=0.09)
    else:
        pen.over(
            cap,
            [limb([(x - 0.12, y + 0.1), (x - 0.06, y + 0.145), (x + 0.02, y + 0.155)], 0.028, 0.014)],
            light(colour, 0.4),
        )
    if style == "tails":
        for s in (1,) if pen.side else (-1, 1):
            pen.fill(ellipse(x + (0.13 if pen.side else 0.19 * s), y + 0.09, 0.042, 0.042), (236, 84, 100), lift=0.09)


def _front_cap(style: str, x: float, y: float):
    drop = {"long": -0.12, "bob": -0.13, "tails": -0.02, "bun": 0.0}.get(style, 0.0)
    outer = [
        (x - 0.2, y + drop),
        (x - 0.215, y + 0.06),
        (x - 0.15, y + 0.17),
        (x, y + 0.222),
        (x + 0.15, y + 0.17),
        (x + 0.215, y + 0.06),
        (x + 0.2, y + drop),
    ]
    fringe = {
        "short": [
            (x + 0.17, y + 0.06),
            (x + 0.08, y + 0.055),
            (x + 0.04, y + 0.1),
            (x - 0.06, y + 0.05),
            (x - 0.16, y + 0.05),
        ],
        "long": [
            (x + 0.16, y - 0.02),
            (x + 0.14, y + 0.06),
            (x + 0.03, y + 0.13),
            (x - 0.1, y + 0.07),
            (x - 0.16, y - 0.02),
        ],
        "bob": [
            (x + 0.165, y - 0.04),
            (x + 0.15, y + 0.045),
            (x, y + 0.04),
            (x - 0.15, y + 0.045),
            (x - 0.165, y - 0.04),
        ],
        "bun": [(x + 0.17, y + 0.05), (x + 0.1, y + 0.1), (x, y + 0.125), (x - 0.1, y + 0.1), (x - 0.17, y + 0.05)],
        "tails": [(x + 0.17, y + 0.03), (x + 0.1, y + 0.05), (x, y + 0.11), (x - 0.1, y + 0.05), (x - 0.17, y + 0.03)],
        "curly": [(x + 0.17, y + 0.06), (x, y + 0.09), (x - 0.17, y + 0.06)],
    }[style]
    return blob(*outer, *fringe)


def _side_cap(style: str, x: float, y: float):
    """Seen from the side: the face stays free at -x, the hair covers crown and back of the head."""
    low = {"long": -0.34, "bob": -0.18, "short": -0.1, "bun": -0.08, "tails": -0.09, "curly": -0.12}[style]
    return blob(
        (x - 0.17, y + 0.05),
        (x - 0.16, y + 0.14),
        (x - 0.04, y + 0.215),
        (x + 0.12, y + 0.18),
        (x + 0.21, y + 0.06),
        (x + 0.21, y + 0.6 * low),
        (x + 0.14, y + low),
        (x + 0.055, y + 0.8 * low),
        (x + 0.03, y - 0.02),
        (x - 0.04, y + 0.06),
    )


def _from_behind(pen: Pen, style: str, colour: Colour, x: float, y: float) -> None:
    low = {"long": -0.4, "bob": -0.19, "short": -0.12, "bun": -0.1, "tails": -0.12, "curly": -0.14}[style]
    hem = 0.21 if style in ("long", "bob") else 0.12
    if style == "tails":
        for s in (-1, 1):
            pen.fill(_tail(x + 0.2 * s, y, s), colour, lift=0.06)
    if style == "curly":
        for dx, dy in _CURLS:
            pen.fill(ellipse(x + dx, y + dy, 0.09, 0.09), dark(colour, 0.12), roundness=0.5, lift=0.06)
    outline = symmetric(x, y, (0, 0.222), (0.15, 0.17), (0.215, 0.04), (0.2, 0.5 * low), (hem, low), (0, low - 0.02))
    cap = pen.fill(outline, colour, roundness=0.5, lift=0.08)
    pen.over(
        cap,
        [limb([(x - 0.12, y + 0.1), (x - 0.06, y + 0.145), (x + 0.02, y + 0.155)], 0.028, 0.014)],
        light(colour, 0.4),
    )
    if style == "bun":
        pen.fill(ellipse(x, y + 0.18, 0.105, 0.09), colour, lift=0.1)
    if style == "tails":
        for s in (-1, 1):
            pen.fill(ellipse(x + 0.19 * s, y + 0.09, 0.042, 0.042), (236, 84, 100), lift=0.09)
