"""What the judges learn from: answers, captions, and pictures of one subject in different scenes. All of it is ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits, cross_entropy, normalize

from ..core.demo.truth import VALUES


def answers(logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Mean cross-entropy over the attributes, each over the pictures that show it.

    Args:
        logits: attribute -> (B, values).
        labels: (B, attributes), -1 where the picture does not show it.
    """
    losses = []
    for name, wanted in zip(VALUES, labels.unbind(1)):
        if (wanted >= 0).any():
            losses.append(cross_entropy(logits[name].float(), wanted, ignore_index=-1))
    return torch.stack(losses).mean()


def subject(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of each place, and one minus the soft overlap, which keeps small subjects from being left out.

    Args:
        logits: (B, 1, h, w).
        masks: (B, 1, H, W) in 0..1.
    """
    true = adaptive_avg_pool2d(masks, logits.shape[-2:])
    found = logits.float().sigmoid()
    overlap = (2 * (found * true).sum((1, 2, 3)) + 1) / ((found + true).sum((1, 2, 3)) + 1)
    return binary_cross_entropy_with_logits(logits.float(), true) + (1 - overlap).mean()


def captions(images: Tensor, texts: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss, where a caption that happens to be true of another picture is no wrong answer.

    Args:
        images: unit vectors (B, D).
        texts: unit vectors (B + M, D); the first B are the pictures' own captions, the rest are all wrong answers.
        true: bool (B, B + M): which captions are true of which pictures.
        scale: factor on cosines.
    """
    logits = scale * images @ texts.T
    own = torch.eye(len(images), len(texts), dtype=torch.bool, device=images.device)
    logits = logits.masked_fill(true & ~own, -torch.inf)
    wanted = torch.arange(len(images), device=images.device)
    return (cross_entropy(logits, wanted) + cross_entropy(logits[:, : len(images)].T, wanted)) / 2


def same_subject(student: Tensor, teacher: Tensor, identity: Tensor, temperature: float = 0.1) -> Tensor:
    """Each picture finds the other picture of its subject among the teacher's vectors of all of them.

    Args:
        student, teacher: (2 * N, D); row i and row i + N show one subject in two scenes.
        identity: (2 * N,); other rows of equal identity are no wrong answers.
    """
    count = len(student)
    logits = normalize(student, dim=-1) @ normalize(teacher, dim=-1).T / temperature
    wanted = torch.arange(count, device=student.device).roll(count // 2)
    same = identity[:, None] == identity
    same[torch.arange(count, device=student.device), wanted] = False
    return cross_entropy(logits.float().masked_fill(same, -torch.inf), wanted)


def same_patch(student: Tensor, teacher: Tensor, temperature: float = 0.2) -> Tensor:
    """Each patch finds the teacher's token of the same patch, among those at its place in other pictures (so a place
    alone says nothing) and among the others of its own picture (so the picture alone says nothing).

    Args:
        student, teacher: (B, P, D), row by row the same patches of the same pictures.
    """
    s, t = normalize(student, dim=-1), normalize(teacher, dim=-1)
    across = torch.einsum("ipd,jpd->pij", s, t).float() / temperature
    within = torch.einsum("ipd,iqd->ipq", s, t).float() / temperature
    losses = []
    for logits in (across, within):
        groups, count = logits.shape[:2]
        wanted = torch.arange(count, device=logits.device).repeat(groups)
        losses.append(cross_entropy(logits.flatten(0, 1), wanted))
    return (losses[0] + losses[1]) / 2
