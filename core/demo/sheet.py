"""Prompts in, a contact sheet out: `likeness draw`, and sheets of any pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoint, diffusion, files
from ..denoiser import Hooks, guided
from . import MODEL

PROMPTS = (
    "a photo of a red cat on the beach",
    "a painting of a blue car in the snow",
    "a drawing of a green robot in the city",
    "a photo of a yellow duck in a meadow",
    "a photo of a person in the kitchen",
    "a painting of a purple teapot in the desert",
)


@dataclass(frozen=True)
class Config:
    """Draw a contact sheet with the embedded model; no download.

    Args:
        out: picture to write (PNG).
        prompts: one row each.
        columns: pictures a prompt, from seeds `seed`, `seed` + 1, ...
        steps: DDIM steps.
        guidance: classifier-free guidance weight.
        seed: of the first column.
        model: the embedded model, or any SD1.x / SD2.x / SDXL folder in diffusers' layout.
        size: picture width and height in pixels; a multiple of 8.
    """

    out: Path = Path("sheet.png")
    prompts: tuple[str, ...] = PROMPTS
    columns: int = 6
    steps: int = 30
    guidance: float = 5.0
    seed: int = 0
    model: Path = MODEL
    size: int = 128


@dataclass(frozen=True)
class Row:
    """One prompt's pictures, (N, 3, H, W) in 0..1, and what they took."""

    prompt: str
    images: Tensor
    seconds: float


def text_to_image(
    model: checkpoint.Checkpoint,
    prompt: str,
    noise: Tensor,
    *,
    steps: int,
    guidance: float,
    hooks: Hooks | None = None,
) -> Tensor:
    """Pictures (N, 3, H, W) in 0..1 by DDIM from latent noise (N, C, H/8, W/8), with a one-stream method's hooks."""
    size = (noise.shape[-2] * 8, noise.shape[-1] * 8)
    text, null = model.text(prompt, hooks.words if hooks else (), size), model.text("", size=size)
    predict = guided(model.denoiser, text, null, guidance, hooks)
    with torch.no_grad():
        schedule = model.denoiser.schedule
        return model.decode(diffusion.sample(schedule, predict, noise, schedule.timesteps(steps)))


# a prompt and latent noise (N, C, H/8, W/8) to pictures (N, 3, H, W) in 0..1
Way = Callable[[str, Tensor], Tensor]


def draw(config: Config, with_model: Callable[[checkpoint.Checkpoint], Way] | None = None) -> list[Row]:
    """Draw all rows and write the sheet.

    Args:
        with_model: how prompts become pictures; plain text-to-image by default.

    Raises:
        ValueError: no columns, or a size that is not a multiple of 8.
    """
    if config.columns < 1 or config.size < 8 or config.size % 8:
        raise ValueError(f"columns is {config.columns} and size {config.size}: at least 1, and a multiple of 8")
    model = checkpoint.load(config.model)
    channels = model.denoiser.unet.config.out_channels
    shape = (channels, config.size // 8, config.size // 8)
    noise = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(config.seed + i)) for i in range(config.columns)]
    )
    way, rows = (with_model or partial(plainly, config))(model), []
    for prompt in config.prompts:
        started = time.perf_counter()
        images = way(prompt, noise)
        rows.append(Row(prompt, images, time.perf_counter() - started))
    contact_sheet([(row.prompt, row.images) for row in rows], config.out)
    return rows


def plainly(config: Config, model: checkpoint.Checkpoint) -> Way:
    """Text-to-image by the model alone."""
    return partial(text_to_image, model, steps=config.steps, guidance=config.guidance)


def contact_sheet(
    rows: Sequence[tuple[str, Tensor]], path: Path, heads: Sequence[str] = (), gap: int = 6, label: int = 18
) -> Path:
    """Write rows of labelled pictures (N, 3, H, W) in 0..1 as one PNG or JPEG, with headings over the columns.

    Raises:
        ValueError: no pictures, or rows whose pictures differ in size.
    """
    import io

    from PIL import Image, ImageDraw, ImageFont

    if not rows or len({images.shape[-2:] for _, images in rows}) != 1:
        raise ValueError("a contact sheet needs at least one row, and pictures of one size")
    height, width = rows[0][1].shape[-2:]
    columns = max(len(images) for _, images in rows)
    start = gap + (label + gap if heads else 0)
    sheet = Image.new("RGB", (gap + columns * (width + gap), start + len(rows) * (height + label + gap)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for c, text in enumerate(heads):
        pen.text((gap + c * (width + gap), gap), text, fill="black", font=ImageFont.load_default(size=14))
    for r, (text, images) in enumerate(rows):
        top = start + r * (height + label + gap)
        pen.text((gap, top), text, fill=(60, 60, 60), font=font)
        for c, image in enumerate(images):
            pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            sheet.paste(Image.fromarray(pixels), (gap + c * (width + gap), top + label))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG" if Path(path).suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=90)
    return files.write_atomically(path, buffer.getvalue())


def table(rows: Sequence[Row]) -> str:
    """What was drawn and how long it took, as text."""
    width = max(len(row.prompt) for row in rows)
    lines = [f"{'prompt':<{width}}  pictures  seconds  a picture"]
    for row in rows:
        count = len(row.images)
        lines.append(f"{row.prompt:<{width}}  {count:>8}  {row.seconds:>7.2f}  {row.seconds / count:>9.2f}")
    return "\n".join(lines)
