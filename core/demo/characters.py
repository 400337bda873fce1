"""People: a face identity (hair, eyes, skin) and, independent of it, an outfit."""

from __future__ import annotations

from .canvas import BODY, CLOTHES, Part, Pen
from .faces import paint_cheeks, paint_eyes
from .hair import paint_back_hair, paint_front_hair
from .props import Anchors
from .shapes import CREAM, Colour, box, dark, ellipse, heart, limb, symmetric

EYES = {"brown": (128, 74, 40), "blue": (66, 132, 236), "green": (66, 176, 96), "violet": (170, 92, 222)}
SKINS = {"fair": (252, 210, 178), "tan": (228, 172, 124), "brown": (190, 132, 94), "deep": (126, 84, 66)}
GARMENTS = ("dress", "shirt", "coat", "overalls", "hoodie")
PATTERNS = ("plain", "stripes", "dots", "checks", "hearts")
SHOES = (92, 62, 58)


def paint_character(pen: Pen, character, palette, hair_colours, pose: str) -> tuple[Anchors, tuple | None]:
    """Paint a person; returns the anchors and the face box (cx, cy, w, h) in picture coordinates or None."""
    if pose == "sitting":
        pen.height *= 1.1
    low = -0.17 if pose == "sitting" else 0.0
    face, skin, hair = character.face, SKINS[character.face.skin], hair_colours[character.face.hair_colour]
    head_at = (-0.02 if pen.side else 0.0, 0.775 + low)
    paint_back_hair(pen, face.hair_style, hair, *head_at)
    wearer = _Wearer(pen, character.outfit, skin, palette, pose, low)
    wearer.paint()
    head = _head(pen, skin, *head_at)
    face_box = None
    if pen.view != "back":
        _features(pen, head, EYES[face.eyes], skin, *head_at)
        face_box = _face_box(pen, *head_at)
    paint_front_hair(pen, face.hair_style, hair, *head_at)
    if pen.view == "back" and face.hair_style == "long":
        wearer.hands()
    return Anchors(
        (head_at[0], 0.9 + low, 0.2), (0, 0.585 + low, 0.13 if not pen.side else 0.11), wearer.hand_at()
    ), face_box


def _head(pen: Pen, skin: Colour, x: float, y: float) -> Part:
    if pen.side:
        pen.fill(ellipse(x - 0.185, y - 0.045, 0.03, 0.026), skin, lift=0.05, roundness=0.3)
    outline = symmetric(x, y, (0, 0.18), (0.15, 0.11), (0.19, -0.02), (0.13, -0.13), (0, -0.18))
    head = pen.fill(outline, skin, lift=0.05, roundness=0.5)
    for s in () if pen.side else (-1, 1):
        pen.fill(ellipse(x + s * 0.19, y - 0.03, 0.032, 0.042), skin, lift=0.04, roundness=0.4)
    return head


def _features(pen: Pen, head: Part, iris: Colour, skin: Colour, x: float, y: float) -> None:
    eyes = (x - 0.105,) if pen.side else (x - 0.083, x + 0.083)
    paint_cheeks(pen, head, (x - 0.05,) if pen.side else (x - 0.125, x + 0.125), y - 0.09)
    paint_eyes(pen, eyes, y - 0.025, 0.042, 0.055, iris)
    mouth = x - 0.135 if pen.side else x
    lips = (226, 120, 112) if skin == SKINS["deep"] else (150, 58, 58)
    pen.over(head, [limb([(mouth - 0.04, y - 0.1), (mouth, y - 0.118), (mouth + 0.04, y - 0.1)], 0.02)], lips)


def _face_box(pen: Pen, x: float, y: float) -> tuple[float, float, float, float]:
    left, right = (x - 0.21, x + 0.08) if pen.side else (x - 0.19, x + 0.19)
    corners = pen.place([(left, y - 0.18), (right, y - 0.18), (left, y + 0.12), (right, y + 0.12)])
    xs, ys = [p[0] for p in corners], [p[1] for p in corners]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)


class _Wearer:
    """Body and outfit of a person."""

    def __init__(self, pen: Pen, outfit, skin: Colour, palette, pose: str, low: float):
        self.pen, self.outfit, self.skin, self.pose, self.low = pen, outfit, skin, pose, low
        self.main, self.second = palette[outfit.colour], palette[outfit.second]
        self.lean = 0.7 if pen.side else 1.0  # people are narrower from the side

    def paint(self) -> None:
        garment = self.outfit.garment
        trousers = {"shirt": self.second, "overalls": self.main, "coat": dark(self.second, 0.15)}.get(garment)
        self.legs(trousers)
        if not self.pen.side:
            self.arm(-1)
            self.arm(1)
        getattr(self, f"_{garment}")()
        if self.pen.side:
            self.arm(1)
        elif self.pose == "sitting" and self.pen.view == "front":
            for s in (-1, 1):  # the feet point at the viewer, before any skirt
                self._shoe((s * 0.16, 0.06), SHOES, s)

    def cloth(self, outline, colour: Colour, patterned: bool = False, lift: float = 0.0) -> Part:
        points = [(x * self.lean, y + self.low) for x, y in outline]
        part = self.pen.fill(points, colour, CLOTHES, 0.6, lift)
        if patterned:
            self.pattern(part)
        return part

    def trim(self, part: Part, outlines, colour: Colour) -> None:
        self.pen.over(part, [[(x * self.lean, y + self.low) for x, y in points] for points in outlines], colour)

    def pattern(self, part: Part) -> None:
        self.pen.over(part, _PATTERN_OUTLINES[self.outfit.pattern](part.cx, part.cy, part.rx, part.ry), self.second)

    def legs(self, trousers: Colour | None) -> None:
        pen = self.pen
        for s in (1, -1):
            shade = dark(trousers or self.skin, 0.2 if pen.side and s == 1 else 0.0)
            shoe = dark(SHOES, 0.2 if pen.side and s == 1 else 0.0)
            hip, foot = self._leg_ends(s)
            leg = pen.fill(limb([hip, foot], 0.115, 0.1), shade, CLOTHES if trousers else BODY, 0.5)
            if trousers and self.outfit.garment == "overalls":
                self.pattern(leg)
            self._shoe(foot, shoe, s)

    def _leg_ends(self, s: int):
        if self.pose == "sitting":
            return ((0.02, 0.1), (-0.28, 0.07 + 0.03 * s)) if self.pen.side else ((s * 0.07, 0.12), (s * 0.16, 0.06))
        return ((0.03 * s, 0.3), (0.05 * s, 0.05)) if self.pen.side else ((s * 0.07, 0.3), (s * 0.085, 0.05))

    def _shoe(self, foot, colour: Colour, s: int) -> None:
        x, y = foot
        if self.pose == "sitting":
            x, y, rx, ry = (x - 0.03, y + 0.03, 0.05, 0.075) if self.pen.side else (x + 0.01 * s, y + 0.01, 0.065, 0.07)
        else:
            x, y, rx, ry = (x - 0.03, 0.04, 0.085, 0.042) if self.pen.side else (x + 0.012 * s, 0.04, 0.07, 0.042)
        self.pen.fill(ellipse(x, y, rx, ry), colour, CLOTHES, 0.6, 0.03)

    def arm_path(self, s: int):
        """Shoulder, elbow and hand."""
        low, waving = self.low, self.pose == "waving"
        if self.pen.side:
            down = [(0.01, 0.54 + low), (0.01, 0.42 + low), (-0.06, 0.33 + low)]
            return [(0.0, 0.53), (-0.16, 0.5), (-0.27, 0.61)] if waving else down
        if waving and s == self.pen.left:
            return [(s * 0.12, 0.53), (s * 0.27, 0.54), (s * 0.33, 0.7)]
        return [(s * 0.12, 0.54 + low), (s * 0.2, 0.43 + low), (s * 0.21, 0.32 + low)]

    def arm(self, s: int) -> None:
        path = self.arm_path(s)
        colour, short = {
            "dress": (self.main, True),
            "shirt": (self.main, True),
            "overalls": (self.second, False),
            "coat": (self.main, False),
            "hoodie": (self.main, False),
        }[self.outfit.garment]
        hand = ellipse(*path[-1], 0.045, 0.045)
        if short:
            arm = self.pen.fill(limb(path, 0.08, 0.07), self.skin, lift=0.03, roundness=0.5)
            self.pen.join(arm, hand, self.skin)
            (ax, ay), (bx, by), _ = path
            path = [(ax, ay), (0.3 * ax + 0.7 * bx, 0.3 * ay + 0.7 * by)]
        else:
            self.pen.fill(hand, self.skin, lift=0.03, roundness=0.5)
        self.pen.fill(limb(path, 0.1), dark(colour, 0.08), CLOTHES, 0.5, 0.03)

    def hands(self) -> None:
        """Hands again, over hair that falls on them."""
        for s in (-1, 1):
            self.pen.fill(ellipse(*self.arm_path(s)[-1], 0.045, 0.045), self.skin, lift=0.06, roundness=0.5)

    def hand_at(self):
        return self.arm_path(self.pen.left)[-1]

    def _torso(self, colour: Colour, bottom: float, hem: float, patterned: bool) -> Part:
        return self.cloth(
            [
                (-0.07, 0.61),
                (-0.14, 0.57),
                (-0.145, 0.45),
                (-hem, bottom),
                (hem, bottom),
                (0.145, 0.45),
                (0.14, 0.57),
                (0.07, 0.61),
            ],
            colour,
            patterned,
        )

    def _dress(self) -> None:
        skirt = self._torso(self.main, 0.17, 0.27, True)
        self.trim(skirt, [box(-0.4, 0.425, 0.4, 0.465)], dark(self.second, 0.12))
        self._collar(self.second)

    def _shirt(self) -> None:
        self._torso(self.main, 0.3, 0.15, True)
        self._collar(self.second)

    def _coat(self) -> None:
        coat = self._torso(self.main, 0.13, 0.235, True)
        if self.pen.view == "front":
            self.trim(coat, [box(-0.014, 0.1, 0.014, 0.62)], dark(self.main, 0.4))
            self.trim(
                coat, [ellipse(s * 0.05, y, 0.022, 0.022) for s in (-1, 1) for y in (0.46, 0.35, 0.24)], (255, 214, 110)
            )
        self.cloth(
            [(-0.15, 0.62), (-0.13, 0.53), (0.0, 0.57), (0.13, 0.53), (0.15, 0.62)], dark(self.main, 0.25), lift=0.02
        )

    def _overalls(self) -> None:
        shirt = self._torso(self.second, 0.3, 0.15, False)
        if self.pen.view == "front" or self.pen.side:
            self.cloth(box(-0.1, 0.3, 0.1, 0.5, 0.03), self.main, True)
        straps = (
            [limb([(s * 0.085, 0.48), (s * 0.1, 0.62)], 0.045) for s in (-1, 1)]
            if self.pen.view != "back"
            else [limb([(-0.1, 0.62), (0.08, 0.38)], 0.05), limb([(0.1, 0.62), (-0.08, 0.38)], 0.05)]
        )
        self.trim(shirt, straps, self.main)
        belt = self.cloth(box(-0.155, 0.25, 0.155, 0.4, 0.04), self.main, True)
        if self.pen.view != "back":
            self.trim(belt, [ellipse(s * 0.12, 0.375, 0.02, 0.02) for s in (-1, 1)], (255, 214, 110))

    def _hoodie(self) -> None:
        self.cloth([(-0.13, 0.4), (-0.24, 0.2), (0.24, 0.2), (0.13, 0.4)], self.second)
        hoodie = self._torso(self.main, 0.34, 0.175, True)
        if self.pen.view == "front":
            self.trim(hoodie, [limb([(s * 0.04, 0.58), (s * 0.045, 0.5)], 0.02) for s in (-1, 1)], CREAM)
        self.cloth(ellipse(0.0 if not self.pen.side else 0.06, 0.59, 0.155, 0.05), dark(self.main, 0.18), lift=0.02)

    def _collar(self, colour: Colour) -> None:
        self.cloth(ellipse(0, 0.6, 0.095, 0.032), colour, lift=0.02)


def _stripes(cx, cy, rx, ry):
    return [box(cx - rx, y - 0.02, cx + rx, y + 0.02) for y in (cy + 0.085 * k for k in range(-3, 4))]


def _dots(cx, cy, rx, ry):
    places = [(cx + 0.095 * (k - 2.5 + 0.5 * (row % 2)), cy + 0.078 * row) for row in range(-3, 4) for k in range(6)]
    return [ellipse(x, y, 0.025, 0.025, n=14) for x, y in places]


def _checks(cx, cy, rx, ry):
    cell = 0.062
    return [
        box(cx + cell * k, cy + cell * row, cx + cell * (k + 1), cy + cell * (row + 1))
        for row in range(-4, 4)
        for k in range(-5, 5)
        if (row + k) % 2
    ]


def _hearts(cx, cy, rx, ry):
    return [heart(cx, cy - 0.15 * ry, 0.09 if ry > 0.1 else 0.04)]


_PATTERN_OUTLINES = {"plain": lambda *_: [], "stripes": _stripes, "dots": _dots, "checks": _checks, "hearts": _hearts}
