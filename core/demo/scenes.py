"""The eight backgrounds; each is painted from far to near, with seeded variation."""

from __future__ import annotations

import random

from .canvas import Canvas, Shape
from .shapes import Colour, blob, box, curve, ellipse, limb, mix, symmetric

BACKGROUNDS = ("beach", "forest", "snow", "city", "desert", "night", "kitchen", "meadow")
GLOOM = {"night": 0.55}


def paint_background(canvas: Canvas, background: str, rng: random.Random) -> None:
    """Paint the whole picture with `background`."""
    {
        "beach": _beach,
        "forest": _forest,
        "snow": _snow,
        "city": _city,
        "desert": _desert,
        "night": _night,
        "kitchen": _kitchen,
        "meadow": _meadow,
    }[background](canvas, rng)


def _at(depth: float, near: float | None = None, roundness: float = 0.0, ink: bool = True) -> Shape:
    return Shape(far=depth, near=depth if near is None else near, roundness=roundness, ink=ink)


def _land(canvas: Canvas, rng: random.Random, y: float, wave: float, colour: Colour, far: float, near: float) -> int:
    """Everything below a wavy line at `y`."""
    knots = [(k / 4, y + rng.uniform(-wave, wave)) for k in range(-1, 6)]
    return canvas.fill([*curve(knots), (1.3, 1.0), (-0.3, 1.0)], colour, _at(far, near))


def _many(canvas: Canvas, outlines, colour: Colour, shape: Shape) -> None:
    """Several outlines as one shape."""
    number = None
    for points in outlines:
        number = canvas.fill(points, colour, shape, number)


def _decals(canvas: Canvas, outlines, colour: Colour) -> None:
    """Colour on surfaces that are already there: no depth and no line of its own."""
    for points in outlines:
        canvas.tint(points, colour)


def _disc(canvas: Canvas, x: float, y: float, radius: float, colour: Colour, shape: Shape | None = None) -> None:
    canvas.fill(ellipse(x, y, radius, radius), colour, shape or _at(0.0))


def _cloud(canvas: Canvas, x: float, y: float, s: float, colour: Colour) -> None:
    puffs = ((-0.09, 0.0, 0.06, 0.035), (0.0, -0.02, 0.075, 0.055), (0.09, 0.0, 0.06, 0.035))
    _many(canvas, [ellipse(x + s * a, y + s * b, s * c, s * d) for a, b, c, d in puffs], colour, _at(0.02))


def _clouds(canvas: Canvas, rng: random.Random, colour: Colour) -> None:
    for x in (rng.uniform(0.05, 0.4), rng.uniform(0.6, 0.95)):
        _cloud(canvas, x, rng.uniform(0.08, 0.24), rng.uniform(0.9, 1.5), colour)


def _sides(rng: random.Random) -> tuple[float, float]:
    """Two places left and right of the middle, in random order."""
    pair = [rng.uniform(0.04, 0.16), rng.uniform(0.84, 0.96)]
    rng.shuffle(pair)
    return pair[0], pair[1]


def _beach(canvas: Canvas, rng: random.Random) -> None:
    canvas.sky((112, 190, 232), (168, 220, 240), (222, 240, 236))
    a, b = _sides(rng)
    _disc(canvas, b, rng.uniform(0.1, 0.18), 0.075, (255, 236, 150))
    _clouds(canvas, rng, (250, 252, 250))
    sea = rng.uniform(0.42, 0.48)
    canvas.fill(box(-0.1, sea, 1.1, 0.8), (36, 150, 180), _at(0.05, 0.35))
    canvas.fill([(b - 0.06, sea - 0.01), (b + 0.02, sea - 0.01), (b + 0.02, sea - 0.14)], (250, 248, 240), _at(0.1))
    canvas.fill(
        [(b - 0.08, sea), (b + 0.07, sea), (b + 0.04, sea + 0.025), (b - 0.05, sea + 0.025)], (196, 84, 66), _at(0.1)
    )
    shore = rng.uniform(0.6, 0.66)
    _land(canvas, rng, shore - 0.055, 0.012, (96, 200, 208), 0.28, 0.5)
    _land(canvas, rng, shore - 0.022, 0.014, (246, 250, 244), 0.3, 0.6)
    _land(canvas, rng, shore, 0.014, (246, 214, 150), 0.35, 1.0)
    _palm(canvas, a, shore + 0.07, 1 if a < 0.5 else -1)


def _palm(canvas: Canvas, x: float, foot: float, lean: int) -> None:
    top = (x + 0.04 * lean, foot - 0.46)
    canvas.fill(
        limb([(x, foot), (x - 0.02 * lean, foot - 0.25), top], 0.05, 0.03), (150, 104, 70), _at(0.42, roundness=0.6)
    )
    for dx, dy in ((-0.19, 0.07), (0.19, 0.08), (-0.14, -0.05), (0.15, -0.04), (-0.09, 0.15), (0.08, 0.16)):
        middle = (top[0] + 0.6 * dx, top[1] + 0.35 * dy - 0.05)
        canvas.fill(limb([top, middle, (top[0] + dx, top[1] + dy)], 0.05, 0.012), (52, 142, 84), _at(0.42))


_CROWN = ((0.0, -0.1), (0.15, 0.02), (0.19, 0.2), (0.08, 0.3))


def _forest(canvas: Canvas, rng: random.Random) -> None:
    canvas.sky((176, 210, 160), (206, 226, 178), (150, 190, 130))
    _many(
        canvas,
        [_pine(k / 7 + rng.uniform(-0.04, 0.04), 0.6, rng.uniform(0.4, 0.56), 0.14) for k in range(8)],
        (122, 172, 120),
        _at(0.12),
    )
    _land(canvas, rng, 0.56, 0.01, (104, 150, 92), 0.15, 0.3)
    for x, s in (
        (rng.uniform(-0.02, 0.12), 1.0),
        (rng.uniform(0.24, 0.36), 0.7),
        (rng.uniform(0.64, 0.76), 0.7),
        (rng.uniform(0.88, 1.02), 1.0),
    ):
        canvas.fill(limb([(x, 0.72 * s), (x, 0.0)], 0.09 * s), (104, 74, 58), _at(0.25 + 0.15 * s, roundness=0.7))
        canvas.fill(
            symmetric(x, 0, *((s * a, s * b) for a, b in _CROWN)),
            (44, 110, 70) if s == 1.0 else (66, 132, 82),
            _at(0.25 + 0.15 * s, roundness=0.5),
        )
    _land(canvas, rng, 0.7, 0.015, (86, 128, 66), 0.35, 1.0)
    a, b = _sides(rng)
    _mushroom(canvas, a, 0.82 + rng.uniform(0, 0.08))
    _many(
        canvas,
        [
            limb([(b, 0.86), (b + dx / 2, 0.8), (b + dx, 0.78 + abs(dx) / 2)], 0.022, 0.008)
            for dx in (-0.1, -0.05, 0.0, 0.05, 0.1)
        ],
        (52, 104, 58),
        _at(0.6),
    )


def _pine(x: float, foot: float, height: float, width: float):
    return [(x - width / 2, foot), (x, foot - height), (x + width / 2, foot)]


def _mushroom(canvas: Canvas, x: float, y: float) -> None:
    canvas.fill(limb([(x, y), (x, y - 0.05)], 0.03), (246, 234, 214), _at(0.65, roundness=0.6))
    canvas.fill(
        blob(
            (x - 0.06, y - 0.05), (x - 0.035, y - 0.095), (x + 0.035, y - 0.095), (x + 0.06, y - 0.05), (x, y - 0.042)
        ),
        (206, 66, 58),
        _at(0.65, roundness=0.8),
    )


def _snow(canvas: Canvas, rng: random.Random) -> None:
    canvas.sky((158, 184, 214), (190, 210, 230), (226, 234, 244))
    peak = rng.uniform(0.2, 0.8)
    canvas.fill([(peak - 0.5, 0.62), (peak, 0.14), (peak + 0.5, 0.62)], (150, 172, 206), _at(0.05))
    canvas.fill(
        [
            (peak - 0.17, 0.303),
            (peak, 0.14),
            (peak + 0.17, 0.303),
            (peak + 0.06, 0.27),
            (peak, 0.33),
            (peak - 0.07, 0.27),
        ],
        (246, 249, 255),
        _at(0.05),
    )
    _land(canvas, rng, 0.56, 0.03, (226, 234, 246), 0.1, 0.4)
    for x in (*_sides(rng), rng.choice((0.28, 0.72))):
        _snowy_pine(canvas, x, rng.uniform(0.66, 0.7), rng.uniform(0.8, 1.1))
    _land(canvas, rng, 0.68, 0.02, (248, 250, 255), 0.3, 1.0)
    flakes = [ellipse(rng.random(), rng.uniform(0, 0.62), r, r, n=10) for r in [0.008, 0.011, 0.014] * 7]
    _decals(canvas, flakes, (255, 255, 255))


def _snowy_pine(canvas: Canvas, x: float, foot: float, s: float) -> None:
    canvas.fill(box(x - 0.018, foot - 0.05, x + 0.018, foot + 0.03), (110, 82, 70), _at(0.3))
    for level in range(3):
        base, width = foot - s * 0.1 * level - 0.03, s * (0.22 - 0.05 * level)
        canvas.fill(_pine(x, base, 0.17 * s, width), (54, 112, 108), _at(0.3, roundness=0.4))
        canvas.fill(_pine(x, base - 0.095 * s, 0.075 * s, width * 0.44), (244, 248, 255), _at(0.3))


def _city(canvas: Canvas, rng: random.Random) -> None:
    canvas.sky((246, 176, 150), (250, 204, 168), (252, 226, 196))
    _many(
        canvas,
        [box(k / 6 - 0.02, 0.62, k / 6 + 0.13, rng.uniform(0.12, 0.36)) for k in range(6)],
        (214, 158, 160),
        _at(0.08),
    )
    walls = [(112, 104, 142), (150, 96, 104), (88, 118, 150), (132, 120, 130)]
    rng.shuffle(walls)
    for k, x in enumerate((-0.06, 0.2, 0.56, 0.82)):
        _building(canvas, rng, x, rng.uniform(0.18, 0.24), rng.uniform(0.12, 0.34), walls[k])
    canvas.fill(box(-0.1, 0.66, 1.1, 0.72), (196, 186, 182), _at(0.25, 0.35))
    canvas.fill(box(-0.1, 0.72, 1.1, 1.0), (120, 116, 128), _at(0.35, 1.0))
    start = rng.uniform(-0.1, 0.1)
    _decals(canvas, [box(start + k * 0.27, 0.775, start + k * 0.27 + 0.14, 0.795) for k in range(4)], (248, 238, 214))


def _building(canvas: Canvas, rng: random.Random, x: float, width: float, top: float, colour: Colour) -> None:
    canvas.fill(box(x, top, x + width, 0.67), colour, _at(0.2))
    columns = [x + width * (k + 0.5) / 3 for k in range(3)]
    rows = [top + 0.07 + 0.095 * k for k in range(int((0.6 - top) / 0.095))]
    for lit, shade in ((True, (255, 224, 138)), (False, mix(colour, (40, 40, 70), 0.45))):
        chosen = [
            box(c - 0.02, r - 0.026, c + 0.02, r + 0.026) for c in columns for r in rows if (rng.random() < 0.5) == lit
        ]
        _decals(canvas, chosen, shade)


def _desert(canvas: Canvas, rng: random.Random) -> None:
    canvas.sky((250, 178, 92), (252, 206, 124), (255, 232, 168))
    a, b = _sides(rng)
    _disc(canvas, 0.7 * b + 0.15, rng.uniform(0.14, 0.24), 0.1, (255, 244, 206))
    m = 0.5 + 0.7 * (a - 0.5)
    canvas.fill([(m - 0.26, 0.6), (m - 0.17, 0.36), (m + 0.15, 0.36), (m + 0.23, 0.6)], (204, 112, 76), _at(0.08))
    canvas.fill([(b - 0.2, 0.6), (b - 0.13, 0.46), (b + 0.1, 0.46), (b + 0.16, 0.6)], (216, 128, 86), _at(0.08))
    _land(canvas, rng, 0.56, 0.025, (226, 156, 92), 0.12, 0.4)
    _cactus(canvas, b, 0.78, 1.0)
    _land(canvas, rng, 0.7, 0.03, (238, 178, 108), 0.3, 1.0)
    _cactus(canvas, a, 0.84, 1.2)


def _cactus(canvas: Canvas, x: float, foot: float, s: float) -> None:
    outlines = [limb([(x, foot), (x, foot - 0.32 * s)], 0.07 * s)]
    for dx, low, high in ((-0.09, 0.14, 0.24), (0.085, 0.1, 0.19)):
        arm = [(x, foot - low * s + 0.01), (x + 0.95 * dx * s, foot - low * s), (x + dx * s, foot - high * s)]
        outlines.append(limb(arm, 0.045 * s))
    _many(canvas, outlines, (74, 142, 86), _at(0.4, roundness=0.5))


def _night(canvas: Canvas, rng: random.Random) -> None:
    canvas.sky((28, 30, 84), (50, 52, 120), (98, 88, 160))
    stars = [ellipse(rng.random(), rng.uniform(0, 0.55), r, r, n=8) for r in [0.006, 0.009, 0.013] * 9]
    _decals(canvas, stars, (255, 248, 214))
    x, y = rng.choice((rng.uniform(0.1, 0.25), rng.uniform(0.75, 0.9))), rng.uniform(0.12, 0.22)
    _disc(canvas, x, y, 0.095, (255, 240, 190))
    canvas.fill(ellipse(x + 0.045, y - 0.02, 0.08, 0.08), (40, 42, 100), _at(0.0, ink=False))
    _land(canvas, rng, 0.58, 0.04, (52, 62, 118), 0.08, 0.3)
    _land(canvas, rng, 0.65, 0.03, (54, 80, 120), 0.2, 0.5)
    _land(canvas, rng, 0.73, 0.015, (66, 102, 124), 0.35, 1.0)


def _kitchen(canvas: Canvas, rng: random.Random) -> None:
    canvas.sky((250, 236, 206), (248, 228, 194), (244, 220, 184))
    _decals(
        canvas,
        [box(k / 7 - 0.006, 0, k / 7 + 0.006, 0.68) for k in range(8)]
        + [box(0, k / 7 - 0.006, 1, k / 7 + 0.006) for k in range(1, 5)],
        (226, 204, 172),
    )
    a, b = _sides(rng)
    w = 0.5 + 0.62 * (a - 0.5)
    canvas.fill(box(w - 0.17, 0.1, w + 0.17, 0.42, 0.02), (255, 252, 244), _at(0.06))
    for dx in (-0.075, 0.075):
        canvas.fill(box(w + dx - 0.06, 0.125, w + dx + 0.06, 0.395), (164, 214, 232), _at(0.05))
    shelf = 0.5 + 0.7 * (b - 0.5)
    canvas.fill(box(shelf - 0.22, 0.32, shelf + 0.22, 0.35), (168, 112, 74), _at(0.15))
    for k, colour in enumerate(rng.sample([(214, 92, 80), (86, 150, 148), (240, 186, 84), (126, 150, 96)], 3)):
        x = shelf - 0.13 + 0.13 * k
        canvas.fill(
            box(x - 0.045, 0.32, x + 0.045, 0.32 - rng.uniform(0.1, 0.15), 0.02), colour, _at(0.15, roundness=0.6)
        )
    canvas.fill(box(-0.1, 0.58, 1.1, 0.72), (112, 164, 160), _at(0.15, 0.2))
    canvas.fill(box(-0.1, 0.555, 1.1, 0.6), (250, 246, 236), _at(0.2))
    canvas.fill(box(-0.1, 0.71, 1.1, 1.0), (206, 150, 100), _at(0.3, 1.0))
    _decals(canvas, [box(-0.1, y, 1.1, y + 0.008) for y in (0.785, 0.88)], (176, 120, 78))


def _meadow(canvas: Canvas, rng: random.Random) -> None:
    canvas.sky((104, 178, 240), (156, 210, 246), (214, 238, 246))
    _clouds(canvas, rng, (255, 255, 252))
    _land(canvas, rng, 0.52, 0.05, (150, 206, 122), 0.1, 0.3)
    b = rng.choice(_sides(rng))
    canvas.fill(limb([(b, 0.66), (b, 0.5)], 0.04), (138, 96, 66), _at(0.2))
    canvas.fill(ellipse(b, 0.42, 0.13, 0.12), (88, 166, 84), _at(0.2, roundness=0.6))
    _land(canvas, rng, 0.62, 0.03, (122, 196, 92), 0.2, 0.6)
    _land(canvas, rng, 0.72, 0.015, (104, 182, 78), 0.35, 1.0)
    for petals, heart in (((255, 255, 250), (250, 204, 70)), ((244, 130, 150), (255, 232, 150))):
        spots = [(rng.random(), rng.uniform(0.74, 0.97)) for _ in range(7)]
        _decals(canvas, [ellipse(x, y, 0.022, 0.017, n=12) for x, y in spots], petals)
        _decals(canvas, [ellipse(x, y, 0.009, 0.008, n=8) for x, y in spots], heart)
