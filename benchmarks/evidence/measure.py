"""What is measured of a cell's pictures: likeness, faith to the prompt, and what the demo world's judges read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from grid import Case
from likeness.core.demo import world
from likeness.core.metrics.similarity import masked
from likeness.training import evaluate
from torch import Tensor

from .bench import Bench, Prompt, judge_identity


@torch.no_grad()
def measured(bench: Bench, case: Case, images: Tensor) -> dict[str, Tensor]:
    """Each metric of a cell, (prompts, seeds).

    `clip_i`, `dino`, `clip_t`, `seg_clip_i`, `seg_dino` and `vqa` are `likeness evaluate pictures`'; "swd A x B" are
    the per-picture products whose mean is SWD (RetriBooru, Eq. 1); `variety` is how far CLIP sees a prompt's pictures
    apart. On the demo world `agreement` is the share of a subject's attributes that the attribute judge reads as in its
    photos, `colour` of those that are colours of its own, not of its marks, and `background`, `style` and `accessory`
    are 1 where it reads what was asked.

    Args:
        images: (prompts, seeds, 3, H, W) in 0..1.
    """
    seeds = images.shape[1]
    prompts = [prompt for prompt in bench.asked(case) for _ in range(seeds)]
    found = evaluate.score(bench.judges(case), images.flatten(0, 1), case.images, prompts).each
    found["variety"] = variety(bench.models.clip.images(images.flatten(0, 1)), seeds)
    if bench.read is not None:
        found |= read(bench, case, images.flatten(0, 1), [p for p in bench.prompts for _ in range(seeds)])
    return {name: values.reshape(-1, seeds).cpu() for name, values in found.items()}


def variety(embedded: Tensor, seeds: int) -> Tensor:
    """One minus the mean cosine of pictures of one prompt, the same for each of them, (N,); 0 for a single seed."""
    x = embedded.unflatten(0, (-1, seeds))
    others = ((x @ x.transpose(1, 2)).sum((1, 2)) - seeds) / max(1, seeds * (seeds - 1))
    return (1 - others if seeds > 1 else torch.zeros(len(x))).repeat_interleave(seeds)


def beside(bench: Bench, case: Case, images: Tensor, plain: Tensor) -> dict[str, Tensor]:
    """How much of the foundation's picture from the same noise is kept, (prompts, seeds) each.

    `layout` is the intersection over union of both subjects' masks, `surroundings` one minus the mean difference of the
    colours where neither subject is **[ours]**; nothing without a segmenter.

    Args:
        images, plain: (prompts, seeds, 3, H, W) in 0..1.
    """
    if bench.segmenter is None:
        return {}
    one, other = (bench.segment(x.flatten(0, 1), case) for x in (images, plain))
    either = torch.maximum(one, other)
    layout = (one * other).flatten(1).sum(1) / either.flatten(1).sum(1).clamp(min=1)
    apart = (images - plain).abs().flatten(0, 1).mean(1, keepdim=True) * (1 - either)
    outside = 1 - apart.flatten(1).sum(1) / (1 - either).flatten(1).sum(1).clamp(min=1)
    return {name: v.reshape(images.shape[:2]) for name, v in (("layout", layout), ("surroundings", outside))}


def read(bench: Bench, case: Case, images: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
    """What the attribute judge says of pictures, (N,) each: agreement with the photos, and with what was asked."""
    answers = bench.read(images)
    names, photos = judge_identity(case.word), bench.read(case.images)
    usual = {name: Counter(photos[name].values).most_common(1)[0][0] for name in names}
    agreement = torch.tensor(
        [[answers[name].values[i] == usual[name] for name in names] for i in range(len(images))]
    ).float()
    colours = [i for i, name in enumerate(names) if "colour" in name]
    found = {"agreement": agreement.mean(1), "colour": agreement[:, colours].mean(1)}
    for name in ("background", "style", "accessory"):
        right = [answers[name].values[i] == prompt.wanted.get(name) for i, prompt in enumerate(prompts)]
        found[name] = torch.tensor(right).float()
    return found


@torch.no_grad()
def segmented(bench: Bench, case: Case) -> dict[str, float]:
    """The same subject of the demo world in all places: mean DINO and Seg-DINO of the pairs of pictures.

    Pictures in which no subject is found are left out and counted; nothing but their number where fewer than two are
    left.
    """
    kind, number = case.name.rsplit(" ", 1)
    subject = world.held_out_subjects(int(number) + 1, kind)[int(number)]
    images = torch.stack([world.draw(subject, world.Scene(place, "photo")).image for place in world.BACKGROUNDS])
    masks = bench.segment(images, case)
    seen = masks.flatten(1).amax(1) > 0
    images, masks = images[seen], masks[seen]
    count, found = len(images), {"left out": int((~seen).sum())}
    if count < 2:
        return found
    for name, shown in (("dino", images), ("seg_dino", masked(images, masks))):
        x = bench.models.dino.images(shown)
        found[name] = round(float((x @ x.T).sum() - count) / (count * (count - 1)), 4)
    return found


def kept(metrics: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Metrics as the results keep them: the mean over seeds, a number a prompt."""
    return {name: [round(float(v), 4) for v in values.mean(1)] for name, values in metrics.items()}
