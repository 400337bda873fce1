"""The View Generator: a subject's other views from its DINO tokens (Toffee, Eq. 4): `likeness train view-generator`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import adapter_command, loop
from .data import examples


@dataclass(frozen=True)
class Config(adapter_command.Config):
    """Train a View Generator.

    Args:
        records: shards, or a folder of pictures for each subject; the demo world's by default.
        told: tell it in words what the subject is, by the records' prompts or as in "a photo of a cat", so that it
            need not guess shapes from tokens alone **[ours]**; whoever draws with it then tells it too.
    """

    out: Path = Path("view-generator.safetensors")
    records: Path | None = None
    told: bool = False


def train(config: Config, watch: Callable[[str, loop.Progress], None] | None = None) -> Path:
    """Train headless and write the adapter; errors as `adapter_command.run` and `records.read`."""
    if config.records is None:
        loads = examples.rendered_views(config.pictures, config.learn.loop.seed, config.size, config.told)
    else:
        loads = examples.of_views(config.records, config.size, config.told, config.learn.figure_weight > 0)
    return adapter_command.run("view-generator", config, loads, watch, told=config.told)
