"""A training's loss as a picture; plotting libraries are not for every user's ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def loss_curve(losses: Sequence[float], width: int = 512, height: int = 256) -> Tensor:
    """Each step's loss (thin) and its running mean (thick), (height, width, 3) in 0..1.

    Raises:
        ValueError: no losses.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not losses:
        raise ValueError("no losses to plot")
    mean, means = losses[0], []
    for i, loss in enumerate(losses):
        mean += (loss - mean) * max(0.03, 1 / (i + 1))
        means.append(mean)
    picture = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
    low, high, left, foot = 0.0, max(means) * 1.5 or 1.0, 44, 22

    def place(i: int, value: float) -> tuple[float, float]:
        x = left + (width - left - 8) * i / max(1, len(losses) - 1)
        return x, height - foot - (height - foot - 8) * (min(value, high) - low) / (high - low)

    for part in range(5):
        value = high * part / 4
        y = place(0, value)[1]
        pen.line((left, y, width - 8, y), fill=(225, 225, 225))
        pen.text((4, y - 7), f"{value:.3f}", fill=(90, 90, 90), font=font)
    pen.text((left, height - 18), f"loss over {len(losses)} steps", fill=(90, 90, 90), font=font)
    for values, colour, thickness in ((losses, (190, 205, 230), 1), (means, (40, 90, 170), 3)):
        points = [place(i, value) for i, value in enumerate(values)]
        pen.line(points if len(points) > 1 else points * 2, fill=colour, width=thickness)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(height, width, 3) / 255
