"""The duck and the robot."""

from __future__ import annotations

from .canvas import Pen
from .faces import paint_cheeks, paint_eyes
from .marks import ALL_OVER, marked_colour, paint_marks
from .props import Anchors
from .shapes import Colour, blob, box, dark, ellipse, limb, mix

_GLOW, _SCREEN, _LAMP = (130, 240, 230), (40, 52, 74), (250, 196, 80)


def paint_duck(pen: Pen, thing, palette, pose: str) -> Anchors:
    """Paint the duck: standing on its feet, sitting on its belly, or lifting a wing."""
    colour, low = palette[thing.colour], -0.07 if pose == "sitting" else 0.0
    bill = (236, 190, 60) if thing.colour == "orange" else (246, 150, 50)
    if pose != "sitting":
        for x in (-0.11, 0.11):
            pen.fill(ellipse(x - (0.03 if pen.side else 0), 0.035, 0.1, 0.038), bill)
            pen.fill(limb([(x, 0.12), (x, 0.04)], 0.05), bill)
    body = pen.fill(_duck_side(low) if pen.side else ellipse(0, 0.3 + low, 0.33, 0.23), colour)
    paint_marks(pen, body, thing.marks, palette, kinds=(*ALL_OVER, "dip"))
    hand = _duck_wings(pen, dark(marked_colour(thing.marks, "dip", palette, colour), 0.14), pose == "waving", low)
    paint_marks(pen, body, thing.marks, palette, kinds=("badge",))  # on the folded wing, which would hide it
    x, y = -0.17 if pen.side else 0.0, 0.72 + low
    _duck_head(pen, thing, palette, bill, x, y)
    return Anchors((x, y + 0.17, 0.18), (x, y - 0.22, 0.15), hand)


def _duck_side(low: float):
    return blob(
        (-0.32, 0.34 + low),
        (-0.2, 0.46 + low),
        (0.1, 0.42 + low),
        (0.34, 0.4 + low),
        (0.5, 0.52 + low),
        (0.46, 0.26 + low),
        (0.24, 0.1 + low),
        (-0.1, 0.08 + low),
        (-0.29, 0.18 + low),
    )


def _duck_wings(pen: Pen, colour: Colour, up: bool, low: float) -> tuple[float, float]:
    """Returns the tip of the wing that holds things."""
    if pen.side:
        down = [(-0.08, 0.3 + low), (0.08, 0.25 + low), (0.3, 0.31 + low)]
        path = [(0.0, 0.34), (0.16, 0.46), (0.3, 0.66)] if up else down
        pen.fill(limb(path, 0.2, 0.07), colour, lift=0.04, roundness=0.6)
        return -0.3, 0.3 + low
    for s in (-pen.left, pen.left):
        path = [(s * 0.29, 0.36 + low), (s * 0.35, 0.27 + low), (s * 0.32, 0.16 + low)]
        if up and s == pen.left:
            path = [(s * 0.28, 0.32), (s * 0.4, 0.45), (s * 0.46, 0.62)]
        pen.fill(limb(path, 0.14, 0.07), colour, lift=0.03, roundness=0.6)
    return path[-1]


def _duck_head(pen: Pen, thing, palette, bill: Colour, x: float, y: float) -> None:
    colour = palette[thing.colour]
    pen.fill(limb([(x, y - 0.27), (x, y - 0.1)], 0.3, 0.26), colour, lift=0.04, ink=False)
    if band := marked_colour(thing.marks, "band", palette, None):
        collar = limb([(x - 0.13, y - 0.22), (x, y - 0.26), (x + 0.13, y - 0.22)], 0.1)
        pen.fill(collar, band, lift=0.05, roundness=0.4)
    head = pen.fill(ellipse(x, y, 0.235, 0.225), colour, lift=0.06)
    paint_marks(pen, head, thing.marks, palette, kinds=ALL_OVER)
    pen.fill(limb([(x, y + 0.2), (x + 0.02, y + 0.26), (x + 0.07, y + 0.27)], 0.05, 0.03), colour, lift=0.06)
    if pen.side:
        beak = limb([(x - 0.18, y - 0.06), (x - 0.26, y - 0.075), (x - 0.34, y - 0.05)], 0.12, 0.07)
        pen.fill(beak, bill, lift=0.07, roundness=0.7)
        paint_cheeks(pen, head, (x - 0.02,), y - 0.07)
        paint_eyes(pen, (x - 0.09,), y + 0.045, 0.042, 0.058)
    elif pen.view == "front":
        paint_cheeks(pen, head, (-0.16, 0.16), y - 0.07)
        paint_eyes(pen, (-0.115, 0.115), y + 0.045, 0.042, 0.058)
        beak = pen.fill(ellipse(0, y - 0.075, 0.115, 0.062), bill, lift=0.09, roundness=0.7)
        pen.over(beak, [limb([(-0.1, y - 0.07), (0, y - 0.085), (0.1, y - 0.07)], 0.016)], dark(bill, 0.4))


def paint_robot(pen: Pen, thing, palette, pose: str) -> Anchors:
    """Paint the robot: boxes on short legs, a screen for a face."""
    colour, low = palette[thing.colour], -0.1 if pose == "sitting" else 0.0
    steel, dim = mix((172, 180, 192), colour, 0.12), dark(mix((150, 158, 172), colour, 0.1), 0.2)
    half = 0.19 if pen.side else 0.22
    _robot_legs(pen, pose == "sitting", steel, dim)
    body = pen.fill(box(-half, 0.15 + low, half, 0.52 + low, 0.07), colour, roundness=0.7)
    paint_marks(pen, body, thing.marks, palette, band=-0.35)
    for s in (1,) if pen.side else (-pen.left, pen.left):
        hand = _robot_arm(pen, s, pose == "waving", low, half, steel, dim)
    _robot_head(pen, thing, palette, low, steel, dim)
    return Anchors((0, 0.89 + low, 0.2), (0, 0.51 + low, half), hand)


def _robot_legs(pen: Pen, sitting: bool, steel: Colour, dim: Colour) -> None:
    for x in (0.0,) if pen.side else (-0.12, 0.12):
        foot = x - (0.26 if sitting else 0.05) * pen.side
        leg = [(0.05, 0.08), (-0.22, 0.07)] if sitting and pen.side else [(x, 0.1 if sitting else 0.2), (x, 0.06)]
        pen.fill(limb(leg, 0.12), dim)
        pen.fill(box(foot - 0.1, 0.0, foot + 0.1, 0.13 if sitting else 0.09, 0.045), steel, lift=0.03)


def _robot_arm(pen: Pen, s: int, waving: bool, low: float, half: float, steel: Colour, dim: Colour):
    """Returns the place of the hand."""
    lifted = waving and (pen.side or s == pen.left)
    if pen.side:
        down = [(0.13, 0.43 + low), (0.14, 0.32 + low), (0.08, 0.22 + low)]
        path = [(0.12, 0.43), (-0.12, 0.43), (-0.28, 0.52)] if lifted else down
    else:
        down = [(s * half, 0.44 + low), (s * 0.31, 0.36 + low), (s * 0.31, 0.23 + low)]
        path = [(s * half, 0.42), (s * 0.36, 0.42), (s * 0.42, 0.58)] if lifted else down
    pen.fill(limb(path, 0.085), dim, lift=0.03)
    pen.fill(ellipse(*path[-1], 0.07, 0.07), steel, lift=0.05)
    return path[-1]


def _robot_head(pen: Pen, thing, palette, low: float, steel: Colour, dim: Colour) -> None:
    colour, y, half = palette[thing.colour], 0.725 + low, 0.22 if pen.side else 0.28
    pen.fill(limb([(0, y + 0.17), (0, y + 0.26)], 0.035), dim, ink=False)
    pen.fill(ellipse(0, y + 0.275, 0.05, 0.05), _LAMP, lift=0.05)
    if not pen.side:
        for x in (-half, half):
            pen.fill(box(x - 0.05, y - 0.07, x + 0.05, y + 0.07, 0.03), steel)
    head = pen.fill(box(-half, y - 0.185, half, y + 0.185, 0.1), colour, lift=0.05, roundness=0.7)
    paint_marks(pen, head, thing.marks, palette, kinds=ALL_OVER)
    if pen.side:
        screen = pen.fill(box(-half - 0.02, y - 0.115, -0.04, y + 0.115, 0.06), _SCREEN, lift=0.06, roundness=0.2)
        pen.over(screen, [ellipse(-0.14, y + 0.015, 0.04, 0.055)], _GLOW)
        pen.fill(ellipse(0.1, y, 0.065, 0.065), steel, lift=0.06)
    elif pen.view == "front":
        screen = pen.fill(box(-0.215, y - 0.125, 0.215, y + 0.125, 0.08), _SCREEN, lift=0.06, roundness=0.2)
        smile = limb([(-0.06, y - 0.055), (0, y - 0.08), (0.06, y - 0.055)], 0.024)
        pen.over(screen, [ellipse(-0.1, y + 0.03, 0.042, 0.056), ellipse(0.1, y + 0.03, 0.042, 0.056), smile], _GLOW)
    else:
        pen.over(
            head, [box(-0.12, y + v - 0.014, 0.12, y + v + 0.014, 0.014) for v in (-0.06, 0.0, 0.06)], dark(colour, 0.3)
        )
