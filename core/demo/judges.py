"""The embedded judges: four small models that measure pictures of the demo world, independent of its base model."""

from __future__ import annotations

from pathlib import Path

import torch

from ..vision.clip import Clip
from ..vision.dino import Dino
from .attributes import Attributes
from .segments import Segments

JUDGES = Path(__file__).parent / "judges"


def clip(folder: Path = JUDGES, *, device: str | torch.device = "cpu") -> Clip:
    """Pictures and captions in one space; FileNotFoundError without its weights."""
    return Clip(Path(folder) / "clip", device=device)


def dino(folder: Path = JUDGES, *, device: str | torch.device = "cpu") -> Dino:
    """Pictures by the identity of their subject, and their places; FileNotFoundError without its weights."""
    return Dino(Path(folder) / "dino", device=device)


def attributes(folder: Path = JUDGES, *, device: str | torch.device = "cpu") -> Attributes:
    """What a picture shows, attribute by attribute; FileNotFoundError without its weights."""
    return Attributes(Path(folder) / "attributes", device=device)


def segments(folder: Path = JUDGES, *, device: str | torch.device = "cpu") -> Segments:
    """Where the subject is; FileNotFoundError without its weights."""
    return Segments(Path(folder) / "segments", device=device)
