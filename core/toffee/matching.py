"""Which patch of the subject is which of the generated picture, and tokens blended accordingly (Toffee, Eqs. 2-3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

THRESHOLD, SHARE = 0.3, 0.9  # measured on the demo world: python benchmarks/toffee_quality.py --parts blend


@dataclass(frozen=True)
class Matches:
    """For each patch of the generated picture, its closest of the subject.

    Args:
        index: (N,), which patch of the subject.
        similarity: (N,), their cosine.
    """

    index: Tensor
    similarity: Tensor


def match(generated: Tensor, subject: Tensor, mask: Tensor | None = None) -> Matches:
    """The most similar patch of the subject for each patch (Toffee, Eq. 2).

    Args:
        generated: (N, D) patch tokens, without class token.
        subject: (M, D).
        mask: bool (M,): patches of the subject to choose from; None is all **[ours]**.

    Raises:
        ValueError: tokens of two widths, or an empty mask.
    """
    if generated.ndim != 2 or subject.ndim != 2 or generated.shape[1] != subject.shape[1]:
        raise ValueError(
            f"dino: tokens of shapes {tuple(generated.shape)} and {tuple(subject.shape)} don't compare; encode both "
            "pictures with one DINO"
        )
    cosine = F.normalize(generated.float(), dim=-1) @ F.normalize(subject.float(), dim=-1).T
    if mask is not None:
        if not bool(mask.any()):
            raise ValueError("mask: no patch of the subject lies in it; give the subject's mask, or none")
        cosine = cosine.masked_fill(~mask[None], float("-inf"))
    similarity, index = cosine.max(1)
    return Matches(index, similarity)


def blend(
    generated: Tensor, subject: Tensor, threshold: float = THRESHOLD, share: float = SHARE, mask: Tensor | None = None
) -> tuple[Tensor, Matches]:
    """Tokens of the generated picture, with the subject's where both are alike (Toffee, Eq. 3).

    The class token, which belongs to no patch, stays the generated picture's **[ours]**.

    Args:
        generated, subject: class token and patches, (1 + N, D) and (1 + M, D).
        threshold: cosine above which a patch is the subject's **[the number is ours]**.
        share: a, how much of such a patch the subject gives **[the number is ours]**.
        mask: as in `match`.

    Returns:
        (1 + N, D), and the matches.

    Raises:
        ValueError: as `match`, or a share outside of 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it must lie within 0..1")
    found = match(generated[1:], subject[1:], mask)
    mixed = torch.lerp(generated[1:], subject[1:][found.index], share)
    patches = torch.where((found.similarity > threshold)[:, None], mixed, generated[1:])
    return torch.cat([generated[:1], patches]), found


def picture(
    generated: Tensor,
    subject: Tensor,
    matches: Matches,
    grids: tuple[tuple[int, int], tuple[int, int]],
    threshold: float,
) -> Tensor:
    """Both pictures side by side, matched patches in one colour: hue and brightness say where in the subject.

    Args:
        generated, subject: (3, H, W) in 0..1, of one size.
        grids: rows and columns of patches of the generated picture and of the subject.
        threshold: patches that are less alike keep the picture's own colours, faded.

    Returns:
        (3, H, 2 W): the subject left.
    """
    rows, columns = grids[1]
    y, x = torch.meshgrid(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns), indexing="ij")
    colours = torch.stack([x, y, 1 - (x + y) / 2]).flatten(1)  # (3, M)
    on = matches.similarity > threshold
    theirs = torch.where(on, colours[:, matches.index], torch.full_like(colours[:, :1], 0.5)).unflatten(1, grids[0])
    used = torch.zeros(rows * columns, dtype=torch.bool)
    used[matches.index[on]] = True
    ours = torch.where(used, colours, torch.full_like(colours, 0.5)).unflatten(1, grids[1])
    sides = []
    for image, colour in ((subject, ours), (generated, theirs)):
        sides.append(0.45 * image.cpu() + 0.55 * F.interpolate(colour[None], image.shape[-2:], mode="nearest")[0])
    return torch.cat(sides, 2)
