"""Likeness as cosine similarity of embeddings, on whole pictures or on the subject alone, and how sure a mean is.

CLIP-I and DINO compare pictures with pictures, CLIP-T pictures with their prompts; "Seg-" variants first lay the
subject on a plain background (Toffee, section 4). Which model embeds is the caller's choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn.functional import normalize


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every pair, (N, M), of embeddings (N, D) and (M, D); 0 where one is all zeros.

    Raises:
        ValueError: embeddings that don't share D.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"embeddings of shapes {tuple(a.shape)} and {tuple(b.shape)} don't compare; give (N, D), (M, D)"
        )
    return normalize(a.float()) @ normalize(b.float()).T


def matched(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of row i with row i, (N,), of embeddings (N, D) both: CLIP-T of pictures and their own prompts.

    Raises:
        ValueError: embeddings of different shapes.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"embeddings of shapes {tuple(a.shape)} and {tuple(b.shape)} don't match row by row")
    return (normalize(a.float()) * normalize(b.float())).sum(1)


def average(generated: Tensor, references: Tensor) -> Tensor:
    """Mean cosine with all of a subject's pictures, (N,): CLIP-I and DINO as published.

    Args:
        generated: (N, D).
        references: (M, D), the pictures that a method was shown included.
    """
    return similarity(generated, references).mean(1)


def best(generated: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine with the closest of a subject's pictures, (N,), and which one that is, (N,)."""
    values, indices = similarity(generated, references).max(1)
    return values, indices


def masked(images: Tensor, masks: Tensor, fill: float | Sequence[float] = 1.0) -> Tensor:
    """Subjects on a plain background, (B, 3, H, W), ready to be embedded.

    Args:
        images: (B, 3, H, W) in 0..1.
        masks: (1 or B, 1, H, W) or (1 or B, H, W) in 0..1, 1 on the subject; soft edges blend.
        fill: the background's value, or one a channel; white is a choice of ours, the paper names no colour.

    Raises:
        ValueError: masks that don't fit, leave 0..1, or are empty: two pictures without a subject would look alike.
    """
    masks = masks.to(images)
    masks = masks[:, None] if masks.ndim == 3 else masks
    if masks.shape[1:] != (1, *images.shape[-2:]) or len(masks) not in (1, len(images)):
        raise ValueError(f"masks of shape {tuple(masks.shape)} don't fit pictures of shape {tuple(images.shape)}")
    if not (masks.min() >= 0 and masks.max() <= 1):
        raise ValueError(f"masks run from {masks.min():g} to {masks.max():g}; they must stay between 0 and 1")
    empty = (masks.flatten(1).amax(1) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"masks {empty} are empty: leave these pictures out, or count them as no likeness")
    background = torch.as_tensor(fill).to(images).reshape(-1, 1, 1)
    return masks * images + (1 - masks) * background


def alone(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Subjects on white, and 1 where one was found, (B,): a picture without subject has no likeness.

    Args:
        images: (B, 3, H, W) in 0..1.
        masks: as a segmenter finds them, (B, 1, H, W); under a hundredth of the picture is none **[ours]**.
    """
    found = (masks.flatten(1).mean(1) > 0.01).to(images)
    return masked(images, torch.where(found[:, None, None, None] > 0, masks, torch.ones_like(masks))), found


# --- how sure --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean over subjects with its confidence interval."""

    mean: float
    low: float
    high: float
    subjects: int


def paired_bootstrap(
    differences: Mapping[str, Tensor | Sequence[float]], *, level: float = 0.95, n: int = 10_000, seed: int = 0
) -> Interval:
    """Confidence interval of a mean paired difference, by resampling whole subjects.

    Pictures of one subject are no independent witnesses, so subjects are what is drawn; each weighs the same. The
    percentiles are widened as a t interval is (Hesterberg, "What Teachers Should Know about the Bootstrap", 2015),
    because a plain percentile interval of ten subjects covers too little. No resampling leaves the subjects' own range,
    so with fewer than six a 95% interval is still too narrow.

    Args:
        differences: subject -> differences of two methods on the same prompts and seeds, any number each.
        level: coverage, between 0 and 1.
        n: resamplings.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: fewer than two subjects, a subject without differences, values that are not finite, or a level
            outside of 0..1.
    """
    if len(differences) < 2 or n < 1 or not 0 < level < 1:
        raise ValueError(
            f"{len(differences)} subjects, level {level}, n {n}: give two subjects or more, a level between 0 and 1, "
            "and at least one resampling"
        )
    values = [torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in differences.values()]
    means = torch.stack([v.mean() for v in values])
    if not means.isfinite().all():
        wrong = [subject for subject, mean in zip(differences, means) if not mean.isfinite()]
        raise ValueError(f"subjects {wrong} have no differences, or some that are not finite")
    count = len(means)
    drawn = torch.randint(count, (n, count), generator=torch.Generator().manual_seed(seed))
    tail = NormalDist().cdf(_student((1 - level) / 2, count - 1) * math.sqrt(count / (count - 1)))
    low, high = means[drawn].mean(1).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(means.mean()), low, high, count)


def _student(tail: float, freedom: int) -> float:
    """Quantile of Student's t, by its expansion around the normal's (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf(tail)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))
