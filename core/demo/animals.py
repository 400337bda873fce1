"""Cat, dog, bear and rabbit: plump toy-like bodies with a large head."""

from __future__ import annotations

from dataclasses import dataclass

from .canvas import Part, Pen
from .faces import paint_cheeks, paint_eyes, paint_smile
from .marks import ALL_OVER, marked_colour, paint_marks
from .props import Anchors
from .shapes import INK, PINK, blob, dark, ellipse, light, limb, mix, symmetric


@dataclass(frozen=True)
class Breed:
    """What tells one four-legged animal from another."""

    ears: str
    head: tuple[float, float]  # half width, half height
    muzzle: tuple[float, float]
    tail: str
    size: float = 1.0  # shrinks animals with long ears to the common height


BREEDS = {
    "cat": Breed("pointed", (0.29, 0.235), (0.12, 0.08), "long"),
    "dog": Breed("floppy", (0.26, 0.25), (0.15, 0.12), "short", 1.04),
    "bear": Breed("round", (0.28, 0.25), (0.13, 0.11), "stub"),
    "rabbit": Breed("tall", (0.245, 0.225), (0.1, 0.08), "puff", 0.86),
}


def paint_animal(pen: Pen, thing, palette, pose: str) -> Anchors:
    """Paint a four-legged animal."""
    breed = BREEDS[thing.kind]
    pen.height *= breed.size
    painter = _Animal(pen, thing, palette, pose, breed)
    return painter.side() if pen.side else painter.upright()


class _Animal:
    def __init__(self, pen: Pen, thing, palette, pose: str, breed: Breed):
        self.pen, self.marks, self.palette, self.pose, self.breed = pen, thing.marks, palette, pose, breed
        self.colour = palette[thing.colour]
        self.paw = marked_colour(thing.marks, "dip", palette, self.colour)
        self.pale = light(self.colour, 0.62)

    def upright(self) -> Anchors:
        """Front and back views."""
        pen, colour, front = self.pen, self.colour, self.pen.view == "front"
        low = -0.07 if self.pose == "sitting" else 0.0
        if front:
            self.tail(0.2, 0.12, 0.36)
        if self.pose != "sitting":
            for s in (-1, 1):
                pen.fill(limb([(s * 0.13, 0.2), (s * 0.13, 0.05)], 0.15, 0.13), self.paw)
        body = pen.fill(symmetric(0, low, (0, 0.56), (0.17, 0.5), (0.25, 0.3), (0.19, 0.13), (0, 0.09)), colour)
        paint_marks(pen, body, self.marks, self.palette, band=0.42)
        for s in (-1, 1):
            self.foot(s, low)
            self.arm(s, low)
        if not front:
            self.tail(0.0, 0.16, 0.3)
        head = self.head(0.0, 0.7 + low)
        if front:
            self.face(head, 0.0, 0.7 + low)
        return Anchors((0, 0.7 + low + 0.8 * self.breed.head[1], 0.19), (0, 0.475 + low, 0.2), self.hand(low))

    def foot(self, s: int, low: float) -> None:
        if self.pose == "sitting":
            self.pen.fill(ellipse(s * 0.2, 0.075, 0.105, 0.085), self.paw, lift=0.04)
            if self.pen.view == "front":
                self.pen.fill(
                    ellipse(s * 0.2, 0.07, 0.055, 0.042), mix(self.pale, PINK, 0.5), lift=0.04, roundness=0.2, ink=False
                )
        else:
            self.pen.fill(ellipse(s * 0.14, 0.045, 0.095, 0.05), self.paw, lift=0.03)

    def arm(self, s: int, low: float) -> None:
        lifted = self.pose == "waving" and s == self.pen.left
        path = (
            [(s * 0.17, 0.4 + low), (s * 0.32, 0.42), (s * 0.42, 0.58)]
            if lifted
            else [(s * 0.17, 0.42 + low), (s * 0.235, 0.33 + low), (s * 0.21, 0.23 + low)]
        )
        self.pen.fill(limb(path, 0.105, 0.115), self.paw if lifted else self.colour, lift=0.03)

    def hand(self, low: float) -> tuple[float, float]:
        s = self.pen.left
        return (s * 0.42, 0.58) if self.pose == "waving" else (s * 0.23, 0.24 + low)

    def side(self) -> Anchors:
        """Side views, facing -x."""
        pen, colour, sitting = self.pen, self.colour, self.pose == "sitting"
        far = dark(self.paw, 0.22)
        self.tail(0.36 if not sitting else 0.3, 0.34 if not sitting else 0.1, 0.3)
        if sitting:
            pen.fill(limb([(-0.12, 0.3), (-0.15, 0.06)], 0.12), far, lift=-0.03)
            body = pen.fill(
                blob(
                    (-0.12, 0.56), (0.12, 0.46), (0.31, 0.22), (0.27, 0.05), (0.0, 0.03), (-0.18, 0.12), (-0.22, 0.36)
                ),
                colour,
            )
        else:
            for x in (-0.08, 0.25):
                pen.fill(limb([(x, 0.28), (x - 0.01, 0.06)], 0.12), far, lift=-0.03)
            body = pen.fill(
                blob(
                    (-0.24, 0.46),
                    (-0.05, 0.5),
                    (0.2, 0.47),
                    (0.37, 0.38),
                    (0.37, 0.22),
                    (0.2, 0.15),
                    (-0.05, 0.15),
                    (-0.24, 0.22),
                ),
                colour,
            )
        paint_marks(pen, body, self.marks, self.palette, kinds=(*ALL_OVER, "dip", "badge"))
        self.side_legs(sitting)
        if band := marked_colour(self.marks, "band", self.palette, None):
            pen.fill(limb([(-0.3, 0.47), (-0.15, 0.43), (-0.02, 0.49)], 0.12), band, lift=0.02, roundness=0.4)
        head = self.head(-0.19, 0.68)
        self.side_face(head, -0.19, 0.68)
        hand = (-0.45, 0.4) if self.pose == "waving" else (-0.27, 0.14)
        return Anchors((-0.17, 0.68 + 0.8 * self.breed.head[1], 0.18), (-0.16, 0.46, 0.17), hand)

    def side_legs(self, sitting: bool) -> None:
        pen = self.pen
        if sitting:
            pen.fill(ellipse(0.14, 0.14, 0.15, 0.13), self.colour, lift=0.03)
            pen.fill(limb([(0.14, 0.045), (0.0, 0.045)], 0.09), self.paw, lift=0.04)
        else:
            pen.fill(limb([(0.3, 0.26), (0.3, 0.055)], 0.15, 0.12), self.paw, lift=0.03)
        if self.pose == "waving":
            pen.fill(limb([(-0.18, 0.28), (-0.33, 0.26), (-0.43, 0.38)], 0.125, 0.12), self.paw, lift=0.04)
        else:
            pen.fill(limb([(-0.18, 0.3), (-0.19, 0.055)], 0.14, 0.12), self.paw, lift=0.03)

    def head(self, x: float, y: float) -> Part:
        rx, ry = self.breed.head
        if self.breed.ears != "floppy":
            self.ears(x, y)
        shape = symmetric(x, y, (0, ry), (0.72 * rx, 0.72 * ry), (rx, -0.1 * ry), (0.68 * rx, -0.82 * ry), (0, -ry))
        head = self.pen.fill(shape, self.colour, lift=0.05)
        paint_marks(self.pen, head, self.marks, self.palette, kinds=ALL_OVER)
        if self.breed.ears == "floppy":
            self.ears(x, y)
        return head

    def ears(self, x: float, y: float) -> None:
        pen, style = self.pen, self.breed.ears
        for s in (1,) if pen.side and style == "floppy" else (1, -1):
            outer, hollow = getattr(self, f"_{style}_ear")(x, y, s)
            shade = 0.28 if style == "floppy" else 0.12 if pen.side and s == -1 else 0.0
            ear = pen.fill(outer, dark(self.colour, shade), roundness=0.6, lift=0.05)
            if hollow and pen.view != "back":
                pen.over(ear, [hollow], mix(self.pale, PINK, 0.6))

    def _ear_x(self, x: float, s: int) -> float:
        return x + (0.14 + 0.1 * s if self.pen.side else 0.68 * s * self.breed.head[0])

    def _pointed_ear(self, x: float, y: float, s: int):
        ex, ry = self._ear_x(x, s), self.breed.head[1]
        tip = ex + (0.03 if self.pen.side else 0.07 * s)
        return (
            [(ex - 0.12, y + 0.45 * ry), (tip, y + ry + 0.13), (ex + 0.12, y + 0.45 * ry)],
            [(ex - 0.055, y + 0.62 * ry), (tip, y + ry + 0.07), (ex + 0.055, y + 0.62 * ry)],
        )

    def _round_ear(self, x: float, y: float, s: int):
        ex, ey = self._ear_x(x, s), y + 0.85 * self.breed.head[1]
        return ellipse(ex, ey, 0.095, 0.095), ellipse(ex, ey, 0.05, 0.05)

    def _tall_ear(self, x: float, y: float, s: int):
        ex, ey = 0.75 * self._ear_x(x, s) + 0.25 * x, y + self.breed.head[1] + 0.12
        lean = 8 * s - 20 if self.pen.side else -14 * s
        return ellipse(ex, ey, 0.075, 0.22, lean), ellipse(ex, ey + 0.01, 0.035, 0.16, lean)

    def _floppy_ear(self, x: float, y: float, s: int):
        if self.pen.side:
            return ellipse(x + 0.1, y - 0.01, 0.085, 0.18), None
        return ellipse(x + 0.94 * s * self.breed.head[0], y - 0.01, 0.085, 0.18, 10 * s), None

    def face(self, head: Part, x: float, y: float) -> None:
        pen, (mx, my) = self.pen, self.breed.muzzle
        paint_cheeks(pen, head, (x - 0.185, x + 0.185), y - 0.075)
        muzzle = pen.fill(ellipse(x, y - 0.1, mx, my), self.pale, lift=0.07, roundness=0.6)
        paint_smile(pen, muzzle, x, y - 0.13, 0.05)
        pen.fill(ellipse(x, y - 0.1 + 0.62 * my, 0.045, 0.032), INK, roundness=0.3, lift=0.08, ink=False)
        paint_eyes(pen, (x - 0.115, x + 0.115), y + 0.035, 0.042, 0.058)

    def side_face(self, head: Part, x: float, y: float) -> None:
        pen, rx, (mx, my) = self.pen, self.breed.head[0], self.breed.muzzle
        paint_cheeks(pen, head, (x - 0.03,), y - 0.08)
        muzzle = pen.fill(ellipse(x - 0.86 * rx, y - 0.09, 0.85 * mx, 0.9 * my), self.pale, lift=0.05, roundness=0.6)
        paint_smile(pen, muzzle, x - 0.86 * rx, y - 0.125, 0.05)
        pen.fill(ellipse(x - 0.86 * rx - 0.7 * mx, y - 0.06, 0.038, 0.034), INK, roundness=0.3, lift=0.06, ink=False)
        paint_eyes(pen, (x - 0.11,), y + 0.035, 0.042, 0.058)

    def tail(self, x: float, y: float, rise: float) -> None:
        pen, style = self.pen, self.breed.tail
        if style == "long":
            path = [(x, y), (x + 0.15, y - 0.02), (x + 0.17, y + 0.5 * rise), (x + 0.1, y + rise)]
            if pen.view == "back":
                path = [(x, y), (x + 0.1, y - 0.03), (x + 0.28, y), (x + 0.33, y + 0.5 * rise)]
            pen.fill(limb(path, 0.085, 0.075), self.colour, lift=0.02)
        elif style == "short":
            pen.fill(limb([(x, y), (x + 0.08, y + 0.05), (x + 0.11, y + 0.16)], 0.09, 0.06), self.colour, lift=0.02)
        elif pen.view != "front":
            radius, colour = (0.09, light(self.colour, 0.7)) if style == "puff" else (0.06, self.colour)
            pen.fill(ellipse(x, y, radius, radius), colour, lift=0.03)
