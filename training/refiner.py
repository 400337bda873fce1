"""The Refiner: a picture drawn from its own DINO tokens (Toffee, Eq. 1): `likeness train refiner`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import adapter_command, loop
from .data import examples


@dataclass(frozen=True)
class Config(adapter_command.Config):
    """Train a Refiner.

    Args:
        images: folder of pictures of anything, or records (`build retribooru`); the demo world's by default.
    """

    out: Path = Path("refiner.safetensors")
    images: Path | None = None


def train(config: Config, watch: Callable[[str, loop.Progress], None] | None = None) -> Path:
    """Train headless and write the adapter; errors as `adapter_command.run` and `records.read`."""
    if config.images is None:
        loads = examples.rendered_pictures(config.pictures, config.learn.loop.seed, config.size)
    else:
        loads = examples.of_pictures(config.images, config.size, config.learn.figure_weight > 0)
    return adapter_command.run("refiner", config, loads, watch)
