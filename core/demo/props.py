"""Accessories of a scene (hat, scarf, balloon, flower) and the places where subjects wear or hold them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from .canvas import PROP, Pen
from .shapes import box, dark, ellipse, light, limb, mix

ACCESSORIES = ("hat", "scarf", "balloon", "flower")
_CLOTH = ((38, 110, 122), (176, 58, 92), (84, 74, 150))
_BALLOONS = ((232, 84, 104), (250, 150, 70), (90, 170, 214))


@dataclass(frozen=True)
class Anchors:
    """Where accessories go, in subject coordinates: (x, y, half width) of crown and neck, (x, y) of a hand."""

    crown: tuple[float, float, float]
    neck: tuple[float, float, float]
    hand: tuple[float, float]


def paint_accessory(pen: Pen, name: str, anchors: Anchors, rng: random.Random) -> None:
    """Paint accessory `name` on a finished subject."""
    {"hat": _hat, "scarf": _scarf, "balloon": _balloon, "flower": _flower}[name](pen, anchors, rng)


def _hat(pen: Pen, anchors: Anchors, rng: random.Random) -> None:
    x, y, half = anchors.crown
    cloth = rng.choice(_CLOTH)
    pen.fill(ellipse(x, y, 1.45 * half, 0.32 * half), dark(cloth, 0.1), PROP, 0.5, 0.05)
    top = pen.fill(
        box(x - 0.8 * half, y - 0.05 * half, x + 0.8 * half, y + 1.0 * half, 0.3 * half), cloth, PROP, 0.8, 0.06
    )
    pen.over(top, [box(x - half, y, x + half, y + 0.36 * half)], (250, 226, 170))


def _scarf(pen: Pen, anchors: Anchors, rng: random.Random) -> None:
    x, y, half = anchors.neck
    cloth, width = rng.choice(_CLOTH), 0.1
    tail_x = x + 0.45 * half
    end = max(y - 0.25, 0.07)  # the tail never reaches below the ground
    tail = pen.fill(
        limb([(tail_x, y), (tail_x + 0.03, (y + end) / 2), (tail_x + 0.02, end)], 0.1, 0.12), cloth, PROP, 0.5, 0.05
    )
    pen.over(tail, [box(tail_x - 0.2, end - 0.1, tail_x + 0.2, end + 0.05)], (250, 226, 170))
    wrap = pen.fill(limb([(x - half, y + 0.02), (x, y - 0.04), (x + half, y + 0.02)], width), cloth, PROP, 0.7, 0.06)
    stripes = [limb([(x + s * half, y - 0.12), (x + s * half, y + 0.12)], 0.05) for s in (-0.66, 0.0, 0.66)]
    pen.over(wrap, stripes, (250, 226, 170))


def _balloon(pen: Pen, anchors: Anchors, rng: random.Random) -> None:
    hand_x, hand_y = anchors.hand
    side = -1.0 if pen.view == "right" else 1.0
    # on the side of the hand, yet inside the picture
    reach = (0.88 - pen.x) if hand_x * side > 0 else (pen.x - 0.12)
    x = (1 if hand_x > 0 else -1) * reach / pen.height
    y = min(hand_y + 0.55, (pen.ground - 0.17) / pen.height)
    colour = rng.choice(_BALLOONS)
    pen.fill(
        limb([(hand_x, hand_y), (0.4 * hand_x + 0.6 * x, 0.5 * hand_y + 0.5 * y - 0.08), (x, y - 0.12)], 0.016),
        (250, 244, 232),
        PROP,
        0.0,
        0.04,
        ink=False,
    )
    ball = pen.fill(ellipse(x, y, 0.14, 0.165), colour, PROP, 1.0, 0.05)
    pen.fill([(x - 0.035, y - 0.19), (x + 0.035, y - 0.19), (x, y - 0.15)], colour, PROP, 0.0, 0.05)
    pen.over(ball, [ellipse(x - 0.055, y + 0.07, 0.03, 0.045, -30)], light(colour, 0.7))


def _flower(pen: Pen, anchors: Anchors, rng: random.Random) -> None:
    x, y = anchors.hand
    petal = rng.choice(((250, 120, 150), (255, 255, 250), (190, 130, 230)))
    head = (x + (0.03 if x > 0 else -0.03), y + 0.2)
    pen.fill(limb([(x, y - 0.06), (x, y + 0.08), head], 0.028), (70, 140, 80), PROP, 0.3, 0.05)
    pen.fill(ellipse(x + 0.05, y + 0.06, 0.05, 0.024, 30), (84, 160, 90), PROP, 0.3, 0.05)
    for k in range(5):
        pen.fill(ellipse(*_petal(head, 72 * k + 90), 0.062, 0.062), petal, PROP, 0.4, 0.06)
    pen.fill(ellipse(*head, 0.05, 0.05), mix((250, 190, 60), petal, 0.1), PROP, 0.8, 0.07)


def _petal(centre: tuple[float, float], angle: float) -> tuple[float, float]:
    return centre[0] + 0.078 * math.cos(math.radians(angle)), centre[1] + 0.078 * math.sin(math.radians(angle))
