"""Rigid things: car, cup, house, backpack, teapot and clock."""

from __future__ import annotations

from .canvas import Part, Pen
from .faces import paint_cheeks, paint_eyes, paint_smile
from .marks import marked_colour, paint_marks
from .props import Anchors
from .shapes import CREAM, blob, box, curve, dark, ellipse, light, limb, mix, stretched, symmetric

GLASS = (176, 220, 234)
METAL = (190, 194, 204)


def _little_face(pen: Pen, part: Part, y: float, radius: float) -> None:
    """A friendly face on the front of a round thing, turned with the view."""
    places = [pen.around(theta, 0.68) for theta in (-24, 0, 24)]
    if places[1][1] <= 0.2:
        return
    (left, a), (middle, _), (right, b) = places
    seen = [(u * radius, w) for u, w in ((left, a), (right, b)) if abs(u) < 0.93]
    paint_cheeks(pen, part, [1.16 * (x - middle * radius) + middle * radius for x, _ in seen], y - 0.075)
    for x, width in seen:
        paint_eyes(pen, (x,), y, 0.034 * (0.5 + 0.5 * width), 0.052)
    paint_smile(pen, part, middle * radius, y - 0.06, 0.045)


def _cup(pen: Pen, thing, palette, _pose: str) -> Anchors:
    colour = palette[thing.colour]
    u, facing = pen.around(90)
    handle = curve([(0.3, 0.56), (0.5, 0.54), (0.52, 0.3), (0.28, 0.2)])
    if abs(u) > 0.3:
        pen.fill(limb(stretched(handle, 0.0, u), 0.1), dark(colour, 0.1), lift=0.02)
    body = pen.fill(
        [
            (-0.37, 0.68),
            *curve([(-0.36, 0.66), (-0.33, 0.2), (-0.22, 0.04), (0, 0.01), (0.22, 0.04), (0.33, 0.2), (0.36, 0.66)]),
            (0.37, 0.68),
        ],
        colour,
    )
    paint_marks(pen, body, thing.marks, palette, band=0.6)
    _little_face(pen, body, 0.4, 0.34)
    pen.fill(ellipse(0, 0.68, 0.375, 0.075), light(colour, 0.35), lift=0.02, roundness=0.2)
    pen.fill(ellipse(0, 0.67, 0.315, 0.052), (112, 70, 52), lift=0.02, roundness=0.1)
    if facing > 0.5:
        pen.fill(limb([(0.09, 0.53), (0.14, 0.36), (0.09, 0.19)], 0.11), dark(colour, 0.2), lift=0.1)
    return Anchors((0, 0.68, 0.26), (0, 0.52, 0.36), (0.42, 0.06))


def _teapot(pen: Pen, thing, palette, _pose: str) -> Anchors:
    """The spout points to the subject's front, so that it shows best from the side."""
    colour = palette[thing.colour]
    if pen.side:
        pen.fill(limb([(0.26, 0.52), (0.5, 0.52), (0.5, 0.24), (0.28, 0.2)], 0.085), dark(colour, 0.12))
        pen.fill(limb([(-0.24, 0.2), (-0.4, 0.3), (-0.5, 0.55)], 0.17, 0.085), dark(colour, 0.06))
    body = pen.fill(symmetric(0, 0, (0, 0.66), (0.27, 0.58), (0.38, 0.34), (0.26, 0.08), (0, 0.03)), colour)
    paint_marks(pen, body, thing.marks, palette, band=0.62)
    _little_face(pen, body, 0.38 if pen.side else 0.47, 0.38)
    if pen.view == "front":
        pen.fill(limb([(0, 0.2), (0, 0.3)], 0.17, 0.14), dark(colour, 0.08), lift=0.1)
        pen.fill(ellipse(0, 0.31, 0.05, 0.04), dark(colour, 0.55), lift=0.12, roundness=0.1, ink=False)
    elif pen.view == "back":
        pen.fill(limb([(0, 0.52), (0.04, 0.36), (0, 0.18)], 0.1), dark(colour, 0.2), lift=0.1)
    lid = symmetric(0, 0, (0, 0.76), (0.17, 0.71), (0.22, 0.63), (0, 0.61))
    pen.fill(lid, light(colour, 0.28), lift=0.02)
    pen.fill(ellipse(0, 0.8, 0.06, 0.055), dark(colour, 0.15), lift=0.03)
    return Anchors((0, 0.74, 0.2), (0, 0.56, 0.3), (0.44, 0.06))


def _car(pen: Pen, thing, palette, _pose: str) -> Anchors:
    return (_car_side if pen.side else _car_end)(pen, thing, palette)


def _car_side(pen: Pen, thing, palette) -> Anchors:
    colour = palette[thing.colour]
    cabin = pen.fill(
        [(-0.26, 0.36), *curve([(-0.2, 0.6), (-0.08, 0.69), (0.14, 0.7), (0.3, 0.64), (0.4, 0.36)])],
        dark(colour, 0.06),
        roundness=0.5,
    )
    pen.over(
        cabin,
        [
            [(-0.2, 0.4), (-0.13, 0.61), (0.05, 0.63), (0.05, 0.4)],
            [(0.11, 0.4), (0.11, 0.63), (0.24, 0.6), (0.32, 0.4)],
        ],
        GLASS,
    )
    body = pen.fill(
        blob(
            (-0.54, 0.16),
            (-0.55, 0.32),
            (-0.42, 0.42),
            (-0.1, 0.45),
            (0.3, 0.45),
            (0.5, 0.42),
            (0.55, 0.28),
            (0.53, 0.13),
            (0.2, 0.1),
            (-0.3, 0.1),
        ),
        colour,
        roundness=0.7,
        lift=0.02,
    )
    paint_marks(pen, body, thing.marks, palette, band=-0.1)
    pen.fill(ellipse(-0.5, 0.3, 0.045, 0.055), (255, 240, 170), lift=0.03)
    pen.fill(ellipse(0.53, 0.31, 0.03, 0.05), (206, 52, 52), lift=0.03)
    for x in (-0.31, 0.31):
        pen.fill(ellipse(x, 0.125, 0.13, 0.125), (58, 54, 66), lift=0.05, roundness=0.4)
        pen.fill(ellipse(x, 0.125, 0.065, 0.062), METAL, lift=0.05, roundness=0.5)
    return Anchors((0.1, 0.68, 0.2), (-0.05, 0.4, 0.45), (0.5, 0.1))


def _car_end(pen: Pen, thing, palette) -> Anchors:
    colour, front = palette[thing.colour], pen.view == "front"
    for x in (-0.27, 0.27):
        pen.fill(box(x - 0.085, 0.0, x + 0.085, 0.22, 0.05), (58, 54, 66), roundness=0.3)
    cabin = pen.fill(
        [(-0.32, 0.36), *curve([(-0.27, 0.62), (-0.16, 0.71), (0.16, 0.71), (0.27, 0.62)]), (0.32, 0.36)],
        dark(colour, 0.06),
        roundness=0.5,
    )
    pen.over(cabin, [[(-0.26, 0.4), (-0.2, 0.62), (0.2, 0.62), (0.26, 0.4)]], GLASS if front else dark(GLASS, 0.3))
    outline = symmetric(0, 0, (0, 0.46), (0.3, 0.44), (0.41, 0.32), (0.38, 0.14), (0, 0.1))
    body = pen.fill(outline, colour, roundness=0.7, lift=0.02)
    paint_marks(pen, body, thing.marks, palette, band=-0.1)
    for x in (-0.28, 0.28):
        if front:
            pen.fill(ellipse(x, 0.32, 0.075, 0.075), (255, 240, 170), lift=0.03)
        else:
            pen.fill(box(x - 0.08, 0.27, x + 0.08, 0.36, 0.04), (206, 52, 52), lift=0.03, roundness=0.4)
    if front:
        pen.fill(box(-0.14, 0.14, 0.14, 0.22, 0.04), (74, 70, 84), lift=0.03, roundness=0.2)
    else:
        pen.fill(box(-0.11, 0.14, 0.11, 0.22, 0.02), CREAM, lift=0.03, roundness=0.1)
    return Anchors((0, 0.69, 0.2), (0, 0.41, 0.34), (0.44, 0.08))


def _house(pen: Pen, thing, palette, _pose: str) -> Anchors:
    colour = palette[thing.colour]
    roof = (176, 84, 70) if thing.colour not in ("red", "orange", "brown") else (78, 96, 128)
    half = 0.4 if pen.side else 0.34
    chimney = -0.16 if pen.view == "back" else 0.16
    pen.fill(box(chimney - 0.05, 0.6, chimney + 0.05, 0.93), dark(roof, 0.2), roundness=0.2)
    wall = pen.fill(box(-half, 0, half, 0.56), colour, roundness=0.3)
    if not pen.side:
        pen.join(wall, [(-half, 0.55), (0, 0.9), (half, 0.55)], colour)
    paint_marks(pen, wall, thing.marks, palette, band=0.7)
    if pen.side:
        pen.fill(
            [(-half - 0.07, 0.53), (-half + 0.06, 0.9), (half - 0.06, 0.9), (half + 0.07, 0.53)],
            roof,
            roundness=0.3,
            lift=0.02,
        )
    else:
        pen.fill(limb([(-half - 0.06, 0.5), (0, 0.91)], 0.09), roof, roundness=0.0, lift=0.02)
        pen.fill(limb([(half + 0.06, 0.5), (0, 0.91)], 0.09), roof, roundness=0.0, lift=0.02)
    _openings(pen, half, mix(roof, CREAM, 0.12))
    return Anchors((0, 0.87, 0.16), (0, 0.5, half), (half + 0.08, 0.08))


def _openings(pen: Pen, half: float, door_colour) -> None:
    """Door and windows: a door only in front, one wide row of windows on the sides, one window behind."""
    windows = {"front": (0.2,), "back": (0.0,)}.get(pen.view, (-0.2, 0.2))
    for x in windows:
        y = 0.32
        pen.fill(box(x - 0.095, y - 0.095, x + 0.095, y + 0.095, 0.02), CREAM, lift=0.02, roundness=0.0)
        pane = pen.fill(box(x - 0.07, y - 0.07, x + 0.07, y + 0.07), (255, 222, 128), lift=0.02, roundness=0.0)
        pen.over(
            pane, [box(x - 0.012, y - 0.1, x + 0.012, y + 0.1), box(x - 0.1, y - 0.012, x + 0.1, y + 0.012)], CREAM
        )
    if pen.view == "front":
        door = pen.fill(
            [(-0.24, 0), (-0.24, 0.3), *ellipse(-0.13, 0.3, 0.11, 0.09)[18:0:-1], (-0.02, 0.3), (-0.02, 0)],
            door_colour,
            lift=0.02,
            roundness=0.2,
        )
        pen.over(door, [ellipse(-0.06, 0.18, 0.022, 0.022)], (250, 204, 90))


def _backpack(pen: Pen, thing, palette, _pose: str) -> Anchors:
    colour = palette[thing.colour]
    strap = dark(colour, 0.3)
    half = 0.22 if pen.side else 0.33
    pen.fill(limb([(-0.08, 0.8), (-0.07, 0.93), (0.07, 0.93), (0.08, 0.8)], 0.06), strap)
    if pen.side:
        pen.fill(limb([(0.1, 0.74), (0.28, 0.58), (0.29, 0.26), (0.12, 0.08)], 0.075), strap)
        pen.fill(box(-0.36, 0.05, 0.0, 0.38, 0.1), dark(colour, 0.1), roundness=0.7)
    else:
        for s in (-1, 1):
            pen.fill(box(s * 0.3, 0.07, s * 0.43, 0.34, 0.06), dark(colour, 0.14), roundness=0.7)
    outline = symmetric(0, 0, (0, 0.86), (0.8 * half, 0.78), (half, 0.55), (half, 0.06), (0, 0.02))
    body = pen.fill(outline, colour, roundness=0.8)
    paint_marks(pen, body, thing.marks, palette, band=0.3)
    if pen.view == "front":
        pocket = pen.fill(box(-0.24, 0.06, 0.24, 0.32, 0.08), light(colour, 0.22), lift=0.05, roundness=0.6)
        pen.over(pocket, [limb([(-0.2, 0.26), (0.2, 0.26)], 0.022)], strap)
        _little_face(pen, body, 0.58, 0.3)
    elif pen.view == "back":
        for s in (-1, 1):
            pen.fill(limb([(s * 0.1, 0.76), (s * 0.22, 0.5), (s * 0.2, 0.1)], 0.085), strap, lift=0.06)
    return Anchors((0, 0.83, 0.18), (0, 0.68, 0.28 if not pen.side else 0.2), (0.45, 0.06))


def _clock(pen: Pen, thing, palette, _pose: str) -> Anchors:
    """An alarm clock with two bells."""
    colour = palette[thing.colour]
    wide = 0.5 if pen.side else 1.0
    for s in (-1, 1):
        pen.fill(limb([(s * 0.2 * wide, 0.14), (s * 0.29 * wide, 0.03)], 0.085), dark(colour, 0.35))
        pen.fill(limb([(0, 0.8), (s * 0.2 * wide, 0.76)], 0.03), METAL, roundness=0.2)
        pen.fill(
            ellipse(s * 0.22 * wide, 0.8, 0.15 * (0.6 + 0.4 * wide), 0.1, -32 * s), mix((248, 206, 96), colour, 0.15)
        )
    pen.fill(ellipse(0, 0.9, 0.05, 0.05), METAL)
    body = pen.fill(ellipse(0, 0.42, 0.38 * (0.62 if pen.side else 1.0), 0.38), colour)
    paint_marks(pen, body, thing.marks, palette, band=-0.72)
    if pen.view == "front":
        dial = _dial(pen, thing, palette, 0.0, 1.0)
        paint_marks(pen, dial, thing.marks, palette, kinds=("badge",))  # the case has no room for it
        _dial_face(pen, dial)
    elif pen.side:
        _dial(pen, thing, palette, -0.17, 0.28)
    else:
        pen.fill(ellipse(0, 0.42, 0.08, 0.08), METAL, lift=0.05)
        pen.fill(box(-0.05, 0.405, 0.05, 0.435), dark(METAL, 0.4), lift=0.05, roundness=0.0)
    return Anchors((0, 0.86, 0.18), (0, 0.2, 0.3 if not pen.side else 0.2), (0.42, 0.06))


def _dial(pen: Pen, thing, palette, x: float, squeeze: float) -> Part:
    outline = stretched(ellipse(x, 0.44, 0.255, 0.255), x, squeeze)
    badge = marked_colour(thing.marks, "badge", palette, None)
    # a white badge would not show on a white dial
    colour = light(palette[thing.colour], 0.3) if badge == palette["white"] else (255, 250, 238)
    return pen.fill(outline, colour, lift=0.05, roundness=0.25)


def _dial_face(pen: Pen, dial: Part) -> None:
    pen.over(dial, [limb([(0, 0.46), (0, 0.66)], 0.032), limb([(0, 0.46), (0.12, 0.52)], 0.036)], (70, 60, 70))
    paint_cheeks(pen, dial, (-0.15, 0.15), 0.34)
    paint_eyes(pen, (-0.09, 0.09), 0.4, 0.03, 0.044)
    paint_smile(pen, dial, 0, 0.32, 0.045)


THING_PAINTERS = {"car": _car, "cup": _cup, "house": _house, "backpack": _backpack, "teapot": _teapot, "clock": _clock}
