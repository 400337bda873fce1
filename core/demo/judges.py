"""The embedded judges: four small models that measure pictures of the demo world, independent of its base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..metrics.similarity import alone, average, masked, matched
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


@dataclass(frozen=True)
class Asked:
    """A prompt, and what of it the attribute judge can check; the colour is the subject's own."""

    prompt: str
    background: str
    style: str


METRICS = ("dino", "clip_i", "clip_t", "background", "style")


class Panel:
    """All judges together: likeness to a subject and faith to a prompt.

    Raises:
        FileNotFoundError: weights are missing.
    """

    def __init__(self, folder: Path = JUDGES, *, device: str | torch.device = "cpu"):
        self.dino, self.clip = dino(folder, device=device), clip(folder, device=device)
        self.attributes, self.segments = attributes(folder, device=device), segments(folder, device=device)

    def score(self, images: Tensor, asked: Sequence[Asked], references: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Each of METRICS for each picture, (N,).

        `dino` and `clip_i` are mean cosines of the subject alone with the references' subjects, 0 where no subject is
        found; `clip_t` is the cosine of picture and prompt; `background` and `style` are 1 where the judge reads what
        was asked.

        Args:
            images: (N, 3, H, W) in 0..1, one a prompt.
            references: (M, 3, H, W) in 0..1.
            masks: the subject in them, (M, 1, H, W).
        """
        subjects, found = alone(images, self.segments(images))
        subject = masked(references, masks)
        answers = self.attributes(images)
        scores = {
            "dino": average(self.dino.images(subjects), self.dino.images(subject)) * found,
            "clip_i": average(self.clip.images(subjects), self.clip.images(subject)) * found,
            "clip_t": matched(self.clip.images(images), self.clip.texts([a.prompt for a in asked])),
        }
        for name in ("background", "style"):
            right = [value == getattr(a, name) for value, a in zip(answers[name].values, asked, strict=True)]
            scores[name] = torch.tensor(right).float()
        return scores
