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
        pairs_from: what `likeness build pairs` wrote, its folder or a shard; the demo world's pairs by default.
        records: subjects of several pictures each, shards or a folder for each, instead: generation pairs alone.
        pairs: generation pairs (G), editing pairs (E), or both (E+G; a third of them editing, as in Toffee-5M).
        controlnet: a depth ControlNet: Control-LoRA (.safetensors), folder or hub name; without one depth is not used.
    """

    out: Path = Path("toffeenet.safetensors")
    pairs_from: Path | None = None
    records: Path | None = None
    pairs: Literal["both", "generation", "editing"] = "both"
    controlnet: str | None = None


def train(config: Config, watch: Callable[[str, loop.Progress], None] | None = None) -> Path:
    """Train headless and write the adapter; errors as `adapter_command.run`, `examples.of_pairs` and `of_views`."""
    if config.pairs_from is not None and config.records is not None:
        raise ValueError("records: pairs_from is given too; choose one of them")
    if config.records is not None:
        loads = examples.of_views(config.records, config.size, True, config.learn.figure_weight > 0)
    elif config.pairs_from is None:
        loads = examples.rendered_pairs(config.pictures, config.pairs, config.learn.loop.seed, size=config.size)
    else:
        loads = examples.of_pairs(config.pairs_from, config.size, config.pairs)
    return adapter_command.run("toffeenet", config, loads, watch, config.controlnet)
