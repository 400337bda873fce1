"""How good the judges are, on pictures that no training saw."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.demo import world
from ..core.demo.attributes import Attributes
from ..core.demo.truth import VALUES
from ..core.vision.protocols import ImageEmbedder, PatchEmbedder
from .judge_captions import altered
from .judge_pictures import labels_of

UNSEEN = 20_000_000  # first seed of the pictures that judges are measured on


@dataclass(frozen=True)
class Unseen:
    """Pictures (N, 3, 128, 128) in 0..1, what they show, and labels as `judge_pictures.labels_of` gives them."""

    images: Tensor
    shown: list[tuple[world.Subject, world.Scene]]
    labels: Tensor

    @classmethod
    def draw(cls, count: int) -> Unseen:
        """The first so many unseen pictures."""
        shown = [world.sample_scene(UNSEEN + i) for i in range(count)]
        images = torch.stack([world.draw(*pair).image for pair in shown])
        return cls(images, shown, torch.tensor([labels_of(*pair) for pair in shown]))


def accuracy(judge: Attributes, images: Tensor, labels: Tensor) -> dict[str, tuple[float, int]]:
    """Attribute -> (share of right answers where it is visible, number of pictures that show it).

    A mark counts twice, as "stripes" on all things, and as "stripes colour" on those that have them. Attributes that no
    picture shows are left out.
    """
    answers, found = judge(images), {}
    for name, wanted in zip(VALUES, labels.unbind(1)):
        right = answers[name].probabilities.argmax(-1).cpu() == wanted
        if name in world.MARKS:
            there = wanted > 0
            found[f"{name} colour"] = (_share(right[there]), int(there.sum()))
            right = (answers[name].probabilities.argmax(-1).cpu() > 0) == (wanted > 0)
        found[name] = (_share(right[wanted >= 0]), int((wanted >= 0).sum()))
    return {name: (share, count) for name, (share, count) in found.items() if count}


def _share(right: Tensor) -> float:
    return float(right.float().mean()) if len(right) else float("nan")


@dataclass(frozen=True)
class Triple:
    """A held-out subject, the same in another scene, and another held-out subject of its class in a third scene."""

    anchor: tuple[world.Subject, world.Scene]
    same: tuple[world.Subject, world.Scene]
    other: tuple[world.Subject, world.Scene]


def triples(count: int, subjects: int = 100) -> list[Triple]:
    """The first so many triples, of the first `subjects` held-out subjects in turn; scenes are random."""
    shown, made = world.held_out_subjects(subjects), []
    rivals = {kind: world.held_out_subjects(24, kind) for kind in {subject.word for subject in shown[:count]}}
    for i in range(count):
        rng = random.Random(f"identity {i}")
        subject = shown[i % len(shown)]
        other = rng.choice([rival for rival in rivals[subject.word] if rival != subject])
        scenes = [world.random_scene(rng) for _ in range(3)]
        made.append(Triple((subject, scenes[0]), (subject, scenes[1]), (other, scenes[2])))
    return made


def ranked_right(judge: ImageEmbedder, asked: Sequence[Triple]) -> dict[str, tuple[float, int]]:
    """Class -> (share of triples whose anchor is nearer to the same subject than to the other, number of triples).

    Classes are "all", "things" and "person", those of which there are any.
    """
    vectors = [
        judge.images(torch.stack([world.draw(*getattr(triple, role)).image for triple in asked])).cpu()
        for role in ("anchor", "same", "other")
    ]
    right = (vectors[0] * vectors[1]).sum(-1) > (vectors[0] * vectors[2]).sum(-1)
    person = torch.tensor([triple.anchor[0].word == "person" for triple in asked])
    groups = {"all": torch.ones_like(person), "things": ~person, "person": person}
    return {name: (_share(right[group]), int(group.sum())) for name, group in groups.items() if group.any()}


def patches_right(judge: PatchEmbedder, asked: Sequence[Triple]) -> dict[str, tuple[float, int]]:
    """Of the patches that a subject covers: the share whose nearest patch in another scene also lies on the subject.

    "chance" is the share that the subject covers there.
    """
    pictures = [[world.draw(*getattr(triple, role)) for triple in asked] for role in ("anchor", "same")]
    tokens = [judge.patches(torch.stack([p.image for p in row])).cpu().flatten(1, 2) for row in pictures]
    tokens = [torch.nn.functional.normalize(t, dim=-1) for t in tokens]
    side = int(tokens[0].shape[1] ** 0.5)
    masks = [torch.stack([p.mask for p in row]) for row in pictures]
    here, there = (torch.nn.functional.adaptive_avg_pool2d(m, side).flatten(1) > 0.5 for m in masks)
    nearest = torch.einsum("bpd,bqd->bpq", *tokens).argmax(-1)
    right, count = there.gather(1, nearest)[here], int(here.sum())
    chance = there.float().mean(1, keepdim=True).expand_as(here)[here]
    return {"on the subject": (_share(right), count), "chance": (_share(chance), count)}


def overlap(judge: Callable[[Tensor], Tensor], unseen: Unseen) -> float:
    """Mean intersection over union of found and true masks."""
    true = torch.stack([world.draw(*pair).mask for pair in unseen.shown]) > 0.5
    found = judge(unseen.images).cpu() > 0.5
    both, either = (found & true).flatten(1).sum(1), (found | true).flatten(1).sum(1)
    return float((both / either.clamp(min=1)).mean())


def captions_right(judge, unseen: Unseen, caption: Callable = world.caption) -> float:
    """Share of pictures whose own caption fits better than the same with one claim changed."""
    seeds = [f"caption {i}" for i in range(len(unseen.shown))]
    own = judge.texts([caption(*pair, random.Random(seed)) for pair, seed in zip(unseen.shown, seeds)])
    wrong = judge.texts([altered(*pair, seed) for pair, seed in zip(unseen.shown, seeds)])
    images = judge.images(unseen.images)
    return _share(((images * own).sum(-1) > (images * wrong).sum(-1)).cpu())
