"""Inputs that several nodes share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from . import vision
from .schema import entry


def photos_and_prompt() -> list[Any]:
    """The model, the photos and what they show."""
    return [
        entry(io.Model, "model", tooltip="The model to learn on; it is not changed."),
        entry(io.Clip, "clip", tooltip="Its text encoder."),
        entry(io.Vae, "vae", tooltip="Its autoencoder."),
        entry(io.Image, "images", tooltip="Three to ten photos of the subject: a batch, or a list of any sizes."),
        entry(
            io.String,
            "prompt",
            default="a photo of a cat",
            tooltip="What the photos show, in plain words. No new word is needed.",
        ),
        entry(io.String, "word", default="cat", tooltip="The word of that prompt that stands for the subject."),
    ]


def seed() -> Any:
    """The seed of a training."""
    return entry(
        io.Int,
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFF,
        control_after_generate=False,  # another seed would start another training
        tooltip="Of all randomness: the same seed learns the same subject.",
    )


def learning_rate(default: float) -> Any:
    """The optimiser's rate."""
    return entry(
        io.Float,
        "learning_rate",
        default=default,
        min=1e-5,
        max=1.0,
        step=0.001,
        round=0.00001,
        optional=True,
        advanced=True,
        tooltip=f"{default} in the paper.",
    )


def batch_and_fit() -> list[Any]:
    """How many photos a step takes, and how they are made ready."""
    return [
        entry(
            io.Int,
            "batch_size",
            default=4,
            min=1,
            max=64,
            optional=True,
            advanced=True,
            tooltip="Photos a step. Less needs less memory.",
        ),
        entry(
            io.Int,
            "size",
            default=0,
            min=0,
            max=2048,
            step=32,
            optional=True,
            advanced=True,
            tooltip="Pixels of a photo's side. 0 takes what the model was made for: 512, 1024 for SDXL, "
            "128 for the demo model.",
        ),
        entry(
            io.Combo,
            "fit",
            options=["crop", "pad", "buckets"],
            default="crop",
            optional=True,
            advanced=True,
            tooltip="Crop the middle square, pad to a square that the loss leaves out, or keep proportions.",
        ),
    ]


def preview_every(default: int) -> Any:
    """How often a training shows a picture."""
    return entry(
        io.Int,
        "preview_every",
        default=default,
        min=0,
        max=100_000,
        optional=True,
        advanced=True,
        tooltip="Steps between live previews drawn with what was learned so far; 0 shows none.",
    )


def file(options: list[str]) -> Any:
    """A drop-down of learned files."""
    return entry(
        io.Combo,
        "file",
        options=options,
        tooltip="A file in models/likeness. Press R to see new ones.",
    )


def save_as(name: str) -> list[Any]:
    """What a learned thing is saved under, and by what it is found."""
    return [
        entry(io.String, "name", default=name, tooltip="File name, without the ending."),
        entry(
            io.Image,
            "thumbnail",
            optional=True,
            tooltip="A picture to find it by; saved beside it as a small JPEG.",
        ),
    ]


def judges() -> list[Any]:
    """The models that measure pictures."""
    return [
        entry(
            io.Combo,
            "clip",
            options=vision.names(vision.DEMO, vision.CLIP),
            default=vision.DEMO,
            tooltip="Which CLIP embeds pictures and prompts; papers take openai/clip-vit-base-patch32.",
        ),
        entry(
            io.Combo,
            "dino",
            options=vision.names(vision.DEMO, *vision.DINOS),
            default=vision.DEMO,
            tooltip="Which DINO embeds pictures; papers take facebook/dino-vits16.",
        ),
        entry(
            io.Combo,
            "vqa",
            options=[vision.NONE, *vision.names(vision.DEMO, vision.BLIP, vision.INSTRUCT_BLIP)],
            default=vision.NONE,
            tooltip="Which model answers questions about the pictures; none leaves the VQA score out.",
        ),
    ]


def readers(model: str) -> list[Any]:
    """A model, whose tooltip is given, and what reads reference pictures for it."""
    return [
        entry(io.Model, "model", tooltip=model),
        entry(io.Clip, "clip", tooltip="Its text encoder, which reads the concepts' words."),
        entry(io.Vae, "vae", tooltip="Its autoencoder, which reads the pictures."),
    ]


def span(**fields: Any) -> list[Any]:
    """Between which shares of the noise schedule a method acts."""
    return [
        entry(io.Float, f"{name}_percent", default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, **fields)
        for name, default, tooltip in (
            ("start", 0.0, "From which share of the noise schedule on."),
            ("end", 1.0, "Until which share of the noise schedule."),
        )
    ]


def drawing(prompt: str, tooltip: str, steps: int, shown: int) -> list[Any]:
    """What a node that draws one picture, and shows some of its steps, asks for."""
    return [
        entry(io.String, "prompt", multiline=True, default=prompt, tooltip=tooltip),
        entry(io.Latent, "latent", tooltip="An empty latent of the picture's size."),
        entry(
            io.Int,
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Of the noise.",
        ),
        entry(io.Int, "steps", default=steps, min=1, max=1000, tooltip="Steps of drawing."),
        entry(
            io.Float,
            "guidance",
            default=5.0,
            min=0.0,
            max=100.0,
            step=0.5,
            tooltip="Classifier-free guidance (CFG).",
        ),
        entry(
            io.Int,
            "shown",
            default=shown,
            min=1,
            max=50,
            tooltip="How many of the steps are shown, a row each.",
        ),
    ]


def pictures_of(images: list, mask: list | None) -> tuple[list[Tensor], list[Tensor] | None]:
    """Lists of IMAGE and MASK batches as single pictures (3, H, W) and masks (1, H, W)."""
    pictures = [picture[..., :3].movedim(-1, 0) for batch in images for picture in batch]
    return pictures, None if mask is None else [each[None] for batch in mask for each in batch]
