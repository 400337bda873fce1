"""Eyes, mouths and cheeks, shared by everything that looks back at you."""

from __future__ import annotations

from .canvas import Part, Pen
from .shapes import INK, PINK, ellipse, limb


def paint_eyes(pen: Pen, xs, y: float, width: float, height: float, iris=INK) -> None:
    """Large dark eyes with a bright spot; `iris` colours a ring in them."""
    for x in xs:
        eye = pen.fill(ellipse(x, y, width, height), INK, roundness=0.0, lift=0.03, ink=False)
        if iris != INK:
            pen.over(eye, [ellipse(x, y - 0.12 * height, 0.82 * width, 0.8 * height)], iris)
            pen.over(eye, [ellipse(x, y, 0.42 * width, 0.45 * height)], INK)
        pen.over(eye, [ellipse(x - 0.3 * width, y + 0.38 * height, 0.34 * width, 0.3 * height)], (255, 255, 255))


def paint_smile(pen: Pen, part: Part, x: float, y: float, width: float) -> None:
    """A small curved mouth on `part`."""
    pen.over(
        part, [limb([(x - width, y + 0.4 * width), (x, y - 0.3 * width), (x + width, y + 0.4 * width)], 0.02)], INK
    )


def paint_cheeks(pen: Pen, part: Part, xs, y: float) -> None:
    """Rosy cheeks on `part`."""
    pen.over(part, [ellipse(x, y, 0.05, 0.035) for x in xs], PINK)
