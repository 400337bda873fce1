"""ToffeeNet: a subject generated or edited by a prompt (Toffee, section 2.2): `likeness train toffeenet`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import adapter_command, loop
from .data import examples


@dataclass(frozen=True)
class Config(adapter_command.Config):
    """Train a ToffeeNet.

    Args:
        pairs: generation pairs (G), editing pairs (E), or both (E+G; a third of them editing, as in Toffee-5M).
        controlnet: a depth ControlNet, folder or hub name; without one depth is not used.
    """

    out: Path = Path("toffeenet.safetensors")
    pairs: Literal["both", "generation", "editing"] = "both"
    controlnet: str | None = None


def train(config: Config, watch: Callable[[str, loop.Progress], None] | None = None) -> Path:
    """Train headless and write the adapter; errors as `adapter_command.run`."""
    loads = examples.rendered_pairs(config.pictures, config.pairs, config.learn.loop.seed, size=config.size)
    return adapter_command.run("toffeenet", config, loads, watch, config.controlnet)
