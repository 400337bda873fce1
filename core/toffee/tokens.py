"""Pictures as a DINO describes them, with what is needed to match and to show their patches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..metrics.similarity import masked
from ..vision.dino import Dino
from ..vision.preprocess import Preprocess
from .matching import SHARE, THRESHOLD, blend, picture

EMBEDDED = "the embedded judge"  # what the built-in DINO is called in files


@dataclass(frozen=True)
class Tokens:
    """DINO tokens of pictures.

    Args:
        tokens: class token and patches, (B, 1 + h w, D), float32.
        grid: h and w.
        dino: name of the DINO.
        pictures: what it looked at, (B, 3, H, W) in 0..1.
        size: height and width of the pictures before.
        preprocess: how they became what it looked at.
        subject: bool, (B, h w), patches that show the subject; None is all.
    """

    tokens: Tensor = field(repr=False)
    grid: tuple[int, int]
    dino: str
    pictures: Tensor = field(repr=False)
    size: tuple[int, int]
    preprocess: Preprocess
    subject: Tensor | None = field(default=None, repr=False)

    def of(self, masks: Tensor) -> Tokens:
        """The same, with the subject where masks (1 or B, 1, H, W) in 0..1 of the pictures before show it.

        Raises:
            ValueError: masks of another size or number, or without subject in what the DINO looked at.
        """
        return replace(self, subject=patches_of(masks, self))


def same(dino: str, other: str) -> bool:
    """Whether two names are of one DINO: folders are named as the hub names models, without the publisher."""
    return dino.split("/")[-1].lower() == other.split("/")[-1].lower()


def encode(dino: Dino, name: str, images: Tensor, masks: Tensor | None = None) -> Tokens:
    """Pictures (B, 3, H, W) in 0..1 to tokens, on the CPU.

    Args:
        name: what the DINO is called.
        masks: the subject, (1 or B, 1, H, W) in 0..1: the rest becomes white, as in the paper's test of segmented
            input (Toffee, section 4.3; white is ours).

    Raises:
        ValueError: as `Tokens.of`.
    """
    alone = images if masks is None else masked(images, masks)
    pictures, side = dino.preprocess.shown(alone), dino.model.config.patch_size
    grid = (pictures.shape[-2] // side, pictures.shape[-1] // side)
    size = (images.shape[-2], images.shape[-1])
    tokens = Tokens(dino.tokens(alone).cpu(), grid, name, pictures.cpu(), size, dino.preprocess)
    return tokens if masks is None else tokens.of(masks)


def patches_of(masks: Tensor, tokens: Tokens) -> Tensor:
    """Patches that show the subject, bool (B, h w): half of what the patch that shows most of it does **[ours]**.

    Raises:
        ValueError: see `Tokens.of`.
    """
    count = len(tokens.tokens)
    if tuple(masks.shape[-2:]) != tokens.size or len(masks) not in (1, count):
        (height, width), (h, w) = masks.shape[-2:], tokens.size
        raise ValueError(
            f"mask: {len(masks)} of {width} x {height} pixels for {count} pictures of {w} x {h}; give each picture's "
            "own, or one for all"
        )
    shown = tokens.preprocess.shown(masks.float().cpu().expand(-1, 3, -1, -1))[:, :1]
    shares = F.adaptive_avg_pool2d(shown, tokens.grid).flatten(1)
    most = shares.amax(1, keepdim=True)
    if not bool((most > 0).all()):
        raise ValueError(
            "mask: nothing of it lies in the middle of the picture, where the DINO looks; crop the picture"
        )
    return (shares > most / 2).expand(count, -1)


def blended(
    generated: Tokens, subject: Tokens, threshold: float = THRESHOLD, share: float = SHARE
) -> tuple[Tokens, Tensor, list[float]]:
    """Tokens of generated pictures with the subject's where both are alike (Toffee, Eqs. 2-3), for the Refiner.

    Args:
        subject: of one picture for all, or of as many as are generated; where its subject is known, only those patches
            are given.
        threshold, share: see `matching.blend`.

    Returns:
        The tokens, the matches as pictures (B, 3, H, 2 W), and the share of patches that were matched in each.

    Raises:
        ValueError: tokens of two DINOs, another number of subjects, or as `matching.blend`.
    """
    count, given = len(generated.tokens), len(subject.tokens)
    if not same(generated.dino, subject.dino):
        raise ValueError(
            f"subject: encoded with {subject.dino}, generated with {generated.dino}; encode both with one DINO"
        )
    if given not in (1, count):
        raise ValueError(f"subject: {given} pictures for {count} generated ones; give one, or one for each")
    rows, pictures, shares = [], [], []
    for i in range(count):
        j = i % given
        where = None if subject.subject is None else subject.subject[j]
        tokens, found = blend(generated.tokens[i], subject.tokens[j], threshold, share, where)
        theirs = F.interpolate(subject.pictures[j][None], generated.pictures.shape[-2:], mode="bilinear")[0]
        rows.append(tokens)
        pictures.append(picture(generated.pictures[i], theirs, found, (generated.grid, subject.grid), threshold))
        shares.append(float((found.similarity > threshold).float().mean()))
    return replace(generated, tokens=torch.stack(rows)), torch.stack(pictures), shares
