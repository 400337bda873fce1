"""Plots of comparisons as pictures, (H, W, 3) in 0..1; plotting libraries are not for every user's ComfyUI."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

COLOURS = ((40, 90, 170), (214, 92, 40), (44, 140, 80), (150, 70, 160), (120, 120, 120), (200, 160, 20), (20, 150, 170),
           (190, 50, 90))  # fmt: skip
GREY, PALE, INK = (120, 120, 120), (228, 228, 228), (40, 40, 40)
FONT, LINE = 24, 1.35  # pixels of a letter, and of a line in letters


@dataclass(frozen=True)
class Point:
    """A method in a scatter plot.

    Args:
        name: what the legend says.
        x, y: where.
        group: points of one group have one colour.
        x_range, y_range: their intervals, drawn as thin lines.
    """

    name: str
    x: float
    y: float
    group: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


def scatter(points: Sequence[Point], x: str, y: str, width: int = 1500, height: int = 900) -> Tensor:
    """Numbered points with a legend at the right.

    Raises:
        ValueError: no points, or one that is not finite.
    """
    if not points or not all(math.isfinite(v) for p in points for v in (p.x, p.y)):
        raise ValueError("points: give at least one, all of them finite")
    page = _Page(width, max(height, 150 + round(len(points) * FONT * LINE)), legend=480)
    xs = [v for p in points for v in (p.x, *_finite(p.x_range))]
    page.axes(xs, [v for p in points for v in (p.y, *_finite(p.y_range))], x, y)
    groups = list(dict.fromkeys(p.group for p in points))
    for number, p in enumerate(points, 1):
        colour, (px, py) = COLOURS[groups.index(p.group) % len(COLOURS)], page.place(p.x, p.y)
        bars = [[page.place(v, p.y) for v in _finite(p.x_range)], [page.place(p.x, v) for v in _finite(p.y_range)]]
        for bar in filter(None, bars):
            page.pen.line(bar, fill=tuple((c + 510) // 3 for c in colour), width=2)
        page.pen.ellipse((px - 7, py - 7, px + 7, py + 7), fill=colour)
        page.pen.text((px + 9, py - FONT), str(number), fill=colour, font=page.font)
        page.entry(f"{number}  {p.name}", colour)
    return page.done()


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, width: int = 1500, height: int = 800
) -> Tensor:
    """A line each, with a mark at every value.

    Raises:
        ValueError: no values, or some that are not finite.
    """
    every = [point for points in series.values() for point in points]
    if not every or not all(math.isfinite(v) for point in every for v in point):
        raise ValueError("series: give at least one value, all of them finite")
    page = _Page(width, height, legend=420)
    page.axes([px for px, _ in every], [py for _, py in every], x, y)
    for i, (name, points) in enumerate(series.items()):
        colour, placed = COLOURS[i % len(COLOURS)], [page.place(*point) for point in points]
        if len(placed) > 1:
            page.pen.line(placed, fill=colour, width=4)
        for px, py in placed:
            page.pen.ellipse((px - 6, py - 6, px + 6, py + 6), fill=colour)
        page.entry(name, colour)
    return page.done()


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], size: int = FONT) -> Tensor:
    """Rows of text under headings, each column as wide as it needs.

    Raises:
        ValueError: rows of another length than the headings.
    """
    from PIL import Image, ImageDraw, ImageFont

    if any(len(row) != len(heads) for row in rows):
        raise ValueError(f"rows: each needs {len(heads)} cells, as there are headings")
    font, every = ImageFont.load_default(size=size), [heads, *rows]
    widths = [max(font.getlength(row[c]) for row in every) + size for c in range(len(heads))]
    step = round(size * 1.6)
    picture = Image.new("RGB", (round(sum(widths) + size), step * len(every) + size), "white")
    pen = ImageDraw.Draw(picture)
    for r, row in enumerate(every):
        left, top = size / 2, size / 2 + r * step
        if r % 2:
            pen.rectangle((0, top, picture.width, top + step), fill=(245, 246, 248))
        for text, width in zip(row, widths):
            pen.text((left, top + size / 4), text, fill=INK if r else GREY, font=font)
            left += width
    return _tensor(picture)


class _Page:
    """A plot in the making: axes, places, a legend."""

    def __init__(self, width: int, height: int, legend: int):
        from PIL import Image, ImageDraw, ImageFont

        self.picture = Image.new("RGB", (width, height), "white")
        self.pen, self.font = ImageDraw.Draw(self.picture), ImageFont.load_default(size=FONT)
        self.left, self.right, self.top, self.foot = 110, width - legend, 50, height - 90
        self.listed = 0

    def axes(self, xs: Sequence[float], ys: Sequence[float], x: str, y: str) -> None:
        """Grid lines at round numbers that enclose all values."""
        self.x, self.y = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
        for value in self.x:
            px, _ = self.place(value, self.y[0])
            self.pen.line((px, self.top, px, self.foot), fill=PALE)
            self.pen.text((px, self.foot + 8), f"{value:g}", fill=GREY, font=self.font, anchor="ma")
        for value in self.y:
            _, py = self.place(self.x[0], value)
            self.pen.line((self.left, py, self.right, py), fill=PALE)
            self.pen.text((self.left - 10, py), f"{value:g}", fill=GREY, font=self.font, anchor="rm")
        self.pen.text((self.right, self.foot + 46), x, fill=INK, font=self.font, anchor="ra")
        self.pen.text((10, 8), y, fill=INK, font=self.font)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a value."""
        share = (x - self.x[0]) / (self.x[-1] - self.x[0])
        rise = (y - self.y[0]) / (self.y[-1] - self.y[0])
        return self.left + share * (self.right - self.left), self.foot - rise * (self.foot - self.top)

    def entry(self, text: str, colour: tuple[int, int, int]) -> None:
        """A line of the legend."""
        top = self.top + self.listed * FONT * LINE
        self.pen.rectangle((self.right + 30, top + 6, self.right + 46, top + 22), fill=colour)
        self.pen.text((self.right + 56, top), text, fill=INK, font=self.font)
        self.listed += 1

    def done(self) -> Tensor:
        return _tensor(self.picture)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, evenly spaced, from at or below `low` to at or above `high`."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m * about >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _finite(span: tuple[float, float] | None) -> tuple[float, ...]:
    return () if span is None or not all(map(math.isfinite, span)) else span


def _tensor(picture: Any) -> Tensor:
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.reshape(picture.height, picture.width, 3) / 255
