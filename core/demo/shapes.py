"""Outlines as lists of (x, y) points, and colour arithmetic; plain geometry without any drawing."""

from __future__ import annotations

import math

Point = tuple[float, float]
Outline = list[Point]
Colour = tuple[int, int, int]

INK: Colour = (52, 40, 46)
CREAM: Colour = (255, 246, 228)
PINK: Colour = (244, 150, 150)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from `a` to `b`."""
    return tuple(round(p + (q - p) * share) for p, q in zip(a, b))


def light(colour: Colour, share: float = 0.45) -> Colour:
    """A warmer, lighter neighbour of `colour`."""
    return mix(colour, CREAM, share)


def dark(colour: Colour, share: float = 0.25) -> Colour:
    """A cooler, darker neighbour of `colour`."""
    return mix(colour, (46, 30, 66), share)


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, n: int = 36) -> Outline:
    """An ellipse; `angle` in degrees, counter-clockwise in the coordinates it is drawn in."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    points = []
    for i in range(n):
        t = 2 * math.pi * i / n
        px, py = rx * math.cos(t), ry * math.sin(t)
        points.append((cx + px * c - py * s, cy + px * s + py * c))
    return points


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Outline:
    """A rectangle between two corners, with round corners where `radius` > 0."""
    x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    r = min(radius, (x1 - x0) / 2, (y1 - y0) / 2)
    if r <= 0:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    points = []
    for cx, cy, start in ((x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180), (x1 - r, y0 + r, 270)):
        for k in range(7):
            t = math.radians(start + 15 * k)
            points.append((cx + r * math.cos(t), cy + r * math.sin(t)))
    return points


def curve(points: list[Point], closed: bool = False, steps: int = 6) -> Outline:
    """A Catmull-Rom curve through `points`."""
    n = len(points)
    pick = (lambda i: points[i % n]) if closed else (lambda i: points[min(max(i, 0), n - 1)])
    result = []
    for i in range(n if closed else n - 1):
        a, b, c, d = pick(i - 1), pick(i), pick(i + 1), pick(i + 2)
        for k in range(steps):
            t = k / steps
            result.append(
                tuple(
                    0.5 * (2 * q + (r - p) * t + (2 * p - 5 * q + 4 * r - s) * t * t + (3 * q - p - 3 * r + s) * t**3)
                    for p, q, r, s in zip(a, b, c, d)
                )
            )
    if not closed:
        result.append(points[-1])
    return result


def blob(*points: Point) -> Outline:
    """A smooth closed outline through `points`."""
    return curve(list(points), closed=True)


def symmetric(x: float, y: float, *half: Point) -> Outline:
    """A smooth outline symmetric about `x`; `half` is its right half from top to bottom, relative to (x, y).

    First and last point of `half` lie on the axis when their x is 0, else they are mirrored too.
    """
    mirrored = [(x - dx, y + dy) for dx, dy in reversed(half) if dx]
    return blob(*((x + dx, y + dy) for dx, dy in half), *mirrored)


def limb(points: list[Point], start: float, end: float | None = None) -> Outline:
    """A curved stroke with round ends through `points`, its width going from `start` to `end`."""
    end = start if end is None else end
    path = curve(points) if len(points) > 2 else list(points)
    left, right = [], []
    last = len(path) - 1
    for i, (x, y) in enumerate(path):
        (ax, ay), (bx, by) = path[max(i - 1, 0)], path[min(i + 1, last)]
        length = math.hypot(bx - ax, by - ay) or 1.0
        half = (start + (end - start) * i / last) / 2
        dx, dy = -(by - ay) / length * half, (bx - ax) / length * half
        left.append((x + dx, y + dy))
        right.append((x - dx, y - dy))
    return left + _cap(path[-1], left[-1]) + right[::-1] + _cap(path[0], right[0])


def _cap(centre: Point, first: Point) -> Outline:
    """Points of the half circle that goes clockwise round `centre` from `first`."""
    radius = math.hypot(first[0] - centre[0], first[1] - centre[1])
    start = math.atan2(first[1] - centre[1], first[0] - centre[0])
    turns = (start - math.pi * k / 6 for k in range(1, 6))
    return [(centre[0] + radius * math.cos(t), centre[1] + radius * math.sin(t)) for t in turns]


def star(cx: float, cy: float, radius: float, tips: int = 5, inner: float = 0.5, turn: float = 90.0) -> Outline:
    """A star with `tips` tips; `inner` is the radius of its notches, as a share of `radius`."""
    points = []
    for k in range(2 * tips):
        r = radius * (inner if k % 2 else 1.0)
        t = math.radians(turn + 180.0 * k / tips)
        points.append((cx + r * math.cos(t), cy + r * math.sin(t)))
    return points


def heart(cx: float, cy: float, radius: float) -> Outline:
    """A heart, its tip pointing to smaller y."""
    points = []
    for k in range(28):
        t = 2 * math.pi * k / 28
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((cx + radius * x / 16, cy + radius * y / 16))
    return points


def stretched(points: Outline, centre: float, factor: float) -> Outline:
    """`points` with x scaled by `factor` about `centre`."""
    return [(centre + (x - centre) * factor, y) for x, y in points]


def bounds(points: Outline) -> tuple[float, float, float, float]:
    """Smallest x, smallest y, largest x, largest y."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return min(xs), min(ys), max(xs), max(ys)
