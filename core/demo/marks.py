"""Identity marks of things: painted on an upright cylinder, so every view shows the same mark."""

from __future__ import annotations

import random

from .canvas import Part, Pen
from .shapes import Outline, box, ellipse, heart, limb, star, stretched

MARKS = ("stripes", "spots", "patch", "band", "badge", "dip")
ALL_OVER = ("stripes", "spots", "patch")  # cover heads as well as bodies
VARIANTS = 12


def paint_marks(pen: Pen, part: Part, marks, palette, kinds: tuple[str, ...] = MARKS, band: float = 0.55) -> None:
    """Paint those of `marks` that are of `kinds` on `part`; `band` is the height of a band on it, -1..1."""
    for mark in marks:
        if mark.kind in kinds:
            pen.over(part, _outlines(mark, pen, part, band), palette[mark.colour])


def marked_colour(marks, kind: str, palette, default):
    """The colour of the first mark of `kind`, or `default`."""
    return next((palette[mark.colour] for mark in marks if mark.kind == kind), default)


def _outlines(mark, pen: Pen, part: Part, band: float) -> list[Outline]:
    rng = random.Random(f"{mark.kind}-{mark.variant}")
    if mark.kind == "band":
        return [_ring(part, band, rng.uniform(0.13, 0.19))]
    if mark.kind == "dip":
        return [_dip(part, rng.uniform(-0.3, 0.05), rng.choice((0.0, 0.1)))]
    return {"stripes": _stripes, "spots": _spots, "patch": _patches, "badge": _badges}[mark.kind](rng, pen, part)


def _ring(part: Part, v: float, half: float) -> Outline:
    """A ring round the part at height `v`, bent a little as seen from above."""
    y, bend = part.cy + v * part.ry, 0.12 * part.ry
    return limb(
        [(part.cx - 1.2 * part.rx, y + bend), (part.cx, y - bend), (part.cx + 1.2 * part.rx, y + bend)],
        2 * half * part.ry,
    )


def _dip(part: Part, v: float, wave: float) -> Outline:
    level, step = part.cy + v * part.ry, part.rx / 3
    edge = [(part.cx + k * step, level + (wave if k % 2 else -wave) * part.ry) for k in range(-4, 5)]
    bottom = part.cy - 1.5 * part.ry
    return [*edge, (part.cx + 2 * part.rx, bottom), (part.cx - 2 * part.rx, bottom)]


def _stripes(rng: random.Random, pen: Pen, part: Part) -> list[Outline]:
    count = rng.choice((3, 4))
    if rng.random() < 0.5:
        return [_ring(part, v, 0.42 / count) for v in (2 * (k + 0.5) / count - 1 for k in range(count))]
    turns = (pen.around(k * 180.0 / count) for k in range(2 * count))
    return [_post(part, u, 0.9 / count * (0.35 + 0.65 * width)) for u, width in turns if width > 0.05]


def _post(part: Part, u: float, width: float) -> Outline:
    x, half = part.cx + u * part.rx, width * part.rx / 2
    return box(x - half, part.cy - 1.1 * part.ry, x + half, part.cy + 1.1 * part.ry)


def _spots(rng: random.Random, pen: Pen, part: Part) -> list[Outline]:
    size, offset = rng.uniform(0.19, 0.27), rng.uniform(0, 45)
    outlines = []
    for k in range(8):
        v = (0.5, -0.12, -0.62, 0.1)[k % 4] + rng.uniform(-0.12, 0.12)
        u, width = pen.around(offset + 45 * k)
        if width > 0.05:
            outlines.append(_dab(part, u * 0.85, v, size, width))
    return outlines


def _patches(rng: random.Random, pen: Pen, part: Part) -> list[Outline]:
    """One large blotch on the left front and one on the right back: every view shows one, no two alike."""
    outlines = []
    for theta in (45 + rng.uniform(-12, 12), 225 + rng.uniform(-12, 12)):
        v, size = rng.uniform(-0.1, 0.4), rng.uniform(0.5, 0.62)
        u, width = pen.around(theta)
        if width > 0.05:
            outlines.append(_dab(part, u * 0.8, v, size, width))
    return outlines


def _dab(part: Part, u: float, v: float, size: float, width: float) -> Outline:
    return ellipse(part.cx + u * part.rx, part.cy + v * part.ry, size * part.rx * (0.5 + 0.5 * width), size * part.ry)


def _badges(rng: random.Random, pen: Pen, part: Part) -> list[Outline]:
    """The same emblem on all four sides."""
    emblem, v = rng.choice((_star, heart, _diamond, _disc)), rng.uniform(-0.25, 0.0)
    radius = rng.uniform(0.48, 0.58) * min(part.rx, part.ry)
    return [emblem(part.cx, part.cy + v * part.ry, radius)]


def _star(cx: float, cy: float, radius: float) -> Outline:
    return star(cx, cy, 1.15 * radius)


def _diamond(cx: float, cy: float, radius: float) -> Outline:
    return stretched(ellipse(cx, cy, 1.15 * radius, 1.15 * radius, n=4), cx, 0.8)


def _disc(cx: float, cy: float, radius: float) -> Outline:
    return ellipse(cx, cy, radius, radius)
