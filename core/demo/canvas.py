"""A drawing surface that keeps, next to the colours, the number of the shape every pixel belongs to.

From these numbers the renderer finds roles (subject, clothes, ...), depth, shading and ink lines, so the
drawing routines only say what is where.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .shapes import Colour, Outline, bounds

SUPERSAMPLE = 4
BACK, BODY, CLOTHES, PROP = range(4)
VIEW_ANGLES = {"front": 0.0, "left": 90.0, "back": 180.0, "right": -90.0}


@dataclass(frozen=True)
class Shape:
    """What the renderer knows of one numbered shape; lengths in picture widths, y downwards."""

    role: int = BACK
    far: float = 0.0  # depth at its upper edge, 0 (horizon) to 1 (viewer)
    near: float = 0.0  # depth at its lower edge
    roundness: float = 0.0  # 0 flat, 1 shaded like a ball
    ink: bool = True  # whether the drawing style outlines it
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


@dataclass
class Canvas:
    """Colour and shape-number images of `size` * SUPERSAMPLE pixels a side; draws in [0, 1] coordinates."""

    size: int
    shapes: list[Shape] = field(default_factory=lambda: [Shape(ink=False)])
    shadows: list[tuple[float, float, float, float]] = field(default_factory=list)

    def __post_init__(self):
        from PIL import Image, ImageDraw

        self.side = self.size * SUPERSAMPLE
        self.colours = Image.new("RGB", (self.side, self.side))
        self.numbers = Image.new("L", (self.side, self.side))
        self._colour_pen = ImageDraw.Draw(self.colours)
        self._number_pen = ImageDraw.Draw(self.numbers)
        self.behind = None

    def sky(self, *stops: Colour) -> None:
        """Fill the picture with a vertical gradient through `stops`, top to bottom."""
        from PIL import Image

        column = Image.new("RGB", (1, len(stops)))
        column.putdata(list(stops))
        self.colours.paste(column.resize((self.side, self.side), Image.Resampling.BILINEAR))

    def fill(self, points: Outline, colour: Colour, shape: Shape | None = None, number: int | None = None) -> int:
        """Paint an outline as a new shape (or as part of shape `number`) and return the shape's number."""
        if number is None:
            number = self._add(shape or Shape(), bounds(points))
        pixels = self._pixels(points)
        self._colour_pen.polygon(pixels, fill=colour)
        self._number_pen.polygon(pixels, fill=number)
        return number

    def tint(self, points: Outline, colour: Colour) -> None:
        """Paint colour only: the pixels keep their shape numbers."""
        self._colour_pen.polygon(self._pixels(points), fill=colour)

    def tint_within(self, frame: Outline, outlines: list[Outline], colour: Colour) -> None:
        """Tint `outlines` where they lie inside `frame`."""
        from PIL import Image, ImageChops, ImageDraw

        x0, y0, x1, y1 = (v * self.side for v in bounds(frame))
        left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
        width, height = min(math.ceil(x1), self.side) - left, min(math.ceil(y1), self.side) - top
        if width <= 0 or height <= 0:
            return
        masks = [Image.new("L", (width, height)) for _ in range(2)]
        for mask, group in zip(masks, ([frame], outlines)):
            pen = ImageDraw.Draw(mask)
            for points in group:
                pen.polygon([(x - left, y - top) for x, y in self._pixels(points)], fill=255)
        self.colours.paste(colour, (left, top, left + width, top + height), ImageChops.darker(*masks))

    def keep_background(self) -> None:
        """Remember the picture so far as the background (blurred behind the subject in photos)."""
        self.behind = self.colours.reduce(SUPERSAMPLE)

    def _add(self, shape: Shape, box: tuple[float, float, float, float]) -> int:
        if len(self.shapes) > 255:
            raise ValueError("canvas: more than 255 shapes in one picture")
        self.shapes.append(Shape(shape.role, shape.far, shape.near, shape.roundness, shape.ink, box))
        return len(self.shapes) - 1

    def _pixels(self, points: Outline) -> Outline:
        return [(x * self.side, y * self.side) for x, y in points]


@dataclass(frozen=True)
class Part:
    """A painted part of a subject: its number, outline and box (cx, cy, rx, ry) in subject coordinates."""

    number: int
    points: Outline
    cx: float
    cy: float
    rx: float
    ry: float


@dataclass
class Pen:
    """Draws in subject coordinates: the ground at y = 0, up positive, one unit = `height` of the picture.

    Side views are drawn facing -x; the right view is the left one mirrored.
    """

    canvas: Canvas
    view: str = "front"
    x: float = 0.5
    ground: float = 0.88
    height: float = 0.68
    tilt: float = 0.0  # degrees, about the point the subject stands on
    depth: float = 0.7

    def place(self, points: Outline) -> Outline:
        """`points` in picture coordinates."""
        c, s = math.cos(math.radians(self.tilt)), math.sin(math.radians(self.tilt))
        flip = -1.0 if self.view == "right" else 1.0
        h = self.height
        return [
            (self.x + h * (flip * px * c - py * s), self.ground - h * (flip * px * s + py * c)) for px, py in points
        ]

    def fill(
        self,
        points: Outline,
        colour: Colour,
        role: int = BODY,
        roundness: float = 1.0,
        lift: float = 0.0,
        ink: bool = True,
    ) -> Part:
        """Paint a part; `lift` brings it nearer in depth."""
        depth = self.depth + lift
        number = self.canvas.fill(self.place(points), colour, Shape(role, depth, depth, roundness, ink))
        x0, y0, x1, y1 = bounds(points)
        return Part(number, points, (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2)

    def join(self, part: Part, points: Outline, colour: Colour) -> None:
        """Paint `points` as belonging to `part`: no line between the two."""
        self.canvas.fill(self.place(points), colour, number=part.number)

    def over(self, part: Part, outlines: list[Outline], colour: Colour) -> None:
        """Paint on the surface of `part`, clipped to it."""
        self.canvas.tint_within(self.place(part.points), [self.place(points) for points in outlines], colour)

    def around(self, theta: float, strength: float = 1.0) -> tuple[float, float]:
        """Where a point at angle `theta` (0 front, 90 the subject's left) of an upright unit cylinder is seen.

        Returns (x, width): its place in -1..1 and the foreshortening of what is there, negative when hidden.
        `strength` < 1 turns side views a little towards the viewer.
        """
        angle = VIEW_ANGLES[self.view]
        turned = math.radians(theta - (angle if angle == 180.0 else angle * strength))
        return math.sin(turned) * (-1.0 if self.view == "right" else 1.0), math.cos(turned)

    @property
    def side(self) -> bool:
        """Whether the subject is seen from its left or right."""
        return self.view in ("left", "right")

    @property
    def left(self) -> int:
        """On which side the subject's left is seen: 1 (towards +x) unless it shows its back."""
        return -1 if self.view == "back" else 1
