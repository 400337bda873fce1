"""Pictures measured against references and prompts: `likeness evaluate pictures`.

CLIP-I, CLIP-T and DINO as published, Seg-DINO and Seg-CLIP-I on the subject alone (Toffee, section 4), the VQA score
and similarity-weighted diversity (RetriBooru, section 4). Which model embeds and answers is the caller's choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import files
from ..core.metrics.diversity import QUESTIONS, swd, vqa_diversity
from ..core.metrics.similarity import alone, average, matched, similarity
from ..core.vision.protocols import VQA
from .data import photos

DEMO = "demo"
LARGEST = 1024  # pixels of a picture's side in memory
PAIRS = (("vqa", "clip_i"), ("vqa", "clip_t"), ("clip_i", "clip_t"))  # RetriBooru, Table 3


@dataclass(frozen=True)
class Models:
    """What measures.

    Args:
        clip: pictures (`images`) and texts (`texts`) to unit vectors.
        dino: pictures to unit vectors (`images`).
        segment: pictures (B, 3, H, W) to the subject's masks (B, 1, H, W), 0 where there is none; None leaves the
            segmented metrics out.
        vqa: answers `questions`; None leaves the VQA score out.
        embed: answers to vectors (B, D).
    """

    clip: Any
    dino: Any
    segment: Callable[[Tensor], Tensor] | None = None
    vqa: VQA | None = None
    questions: Sequence[str] = QUESTIONS
    embed: Callable[[list[str]], Tensor] | None = None


@dataclass(frozen=True)
class Scores:
    """Every metric of every picture, (N,) each; "swd A x B" of every pair of `PAIRS` that was measured."""

    each: dict[str, Tensor]

    def summary(self) -> dict[str, float]:
        """Means over all pictures."""
        return {name: float(values.mean()) for name, values in self.each.items()}


def score(
    models: Models,
    images: Tensor,
    references: Tensor,
    prompts: Sequence[str] | None = None,
    masks: tuple[Tensor, Tensor] | None = None,
) -> Scores:
    """Measure pictures of one subject.

    Args:
        images: (N, 3, H, W) in 0..1.
        references: all pictures of the subject, (M, 3, h, w) in 0..1; likeness is the mean over them.
        prompts: of each picture; None leaves CLIP-T out.
        masks: of the subject in images and references, (N, 1, H, W) and (M, 1, h, w), instead of `models.segment`'s.

    Raises:
        ValueError: no subject in any reference, where one is needed.
    """
    embedded = {name: [model.images(side) for side in (images, references)] for name, model in _embedders(models)}
    found = {name: average(*sides) for name, sides in embedded.items()}
    likeness = {"clip_i": similarity(*embedded["clip_i"])}  # (N, M), as SWD multiplies them
    if prompts is not None:
        found["clip_t"] = matched(embedded["clip_i"][0], models.clip.texts(list(prompts)))
        likeness["clip_t"] = found["clip_t"][:, None]
    if masks is None and models.segment is not None:
        masks = models.segment(images), models.segment(references)
    if masks is not None:
        sides = [alone(side, mask) for side, mask in zip((images, references), masks)]
        if not bool(sides[1][1].any()):
            raise ValueError("references: no subject is found in any of them; the segmented metrics need one")
        shown = sides[1][0][sides[1][1] > 0]
        for name, model in _embedders(models):
            # a picture without subject is no likeness
            likenesses = average(model.images(sides[0][0]), model.images(shown))
            found[f"seg_{name}"] = likenesses * sides[0][1].to(likenesses)
    if models.vqa is not None:
        ours, theirs = (models.vqa(side, models.questions) for side in (images, references))
        each = [vqa_diversity(ours, [other] * len(ours), models.embed) for other in theirs]
        likeness["vqa"] = torch.stack(each, 1)
        found["vqa"] = likeness["vqa"].mean(1)
    for a, b in PAIRS:
        if a in likeness and b in likeness:
            found[f"swd {a} x {b}"] = swd(likeness[a].cpu(), likeness[b].cpu())
    return Scores({name: values.float().cpu() for name, values in found.items()})


def _embedders(models: Models) -> tuple[tuple[str, Any], ...]:
    return ("clip_i", models.clip), ("dino", models.dino)


# --- the embedded judges ---------------------------------------------------------------------------------------------


def embedded() -> Models:
    """The demo world's judges; they answer about pose and view, all else of a person there is identity."""
    from ..core.demo import judges
    from ..core.demo.truth import VALUES

    heads = judges.attributes()
    names = {"What is the pose of the person?": "pose", "Which way is the head turned?": "view"}
    words = [f"{name} {value}" for name in names.values() for value in VALUES[name]]

    def answer(images: Tensor, questions: Sequence[str]) -> list[list[str]]:
        read = heads(images)
        return [[f"{names[q]} {read[names[q]].values[i]}" for q in questions] for i in range(len(images))]

    def embed(texts: list[str]) -> Tensor:
        return torch.tensor([[float(word in text.split(", ")) for word in words] for text in texts])

    return Models(judges.clip(), judges.dino(), judges.segments(), answer, tuple(names), embed)


# --- headless --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """Measure a folder of pictures of one subject.

    Args:
        images: folder of what was drawn.
        references: folder of the subject's pictures.
        prompts: JSON file, {"picture.png": "its prompt"}; without it CLIP-T is left out.
        clip, dino: folder or hub name, as openai/clip-vit-base-patch32 and facebook/dino-vits16; "demo" for the
            embedded judges.
        vqa: InstructBLIP or BLIP for questions, folder or hub name; "demo" as above; none leaves it out.
        device: where named models run, as in cuda.
        half: the VQA model in half precision, bfloat16.
        out: JSON file for every picture's numbers.
    """

    images: Path
    references: Path
    prompts: Path | None = None
    clip: str = DEMO
    dino: str = DEMO
    vqa: str | None = None
    device: str = "cpu"
    half: bool = False
    out: Path | None = None


def run(config: Config) -> dict[str, float]:
    """Measure, write `out`, return the summary.

    Raises:
        FileNotFoundError, ValueError: pictures, prompts or models that can't be used.
    """
    named, shown = photos.read_folder(config.images), photos.read_folder(config.references)
    prompts = None
    if config.prompts is not None:
        known = json.loads(config.prompts.read_text())
        if missing := [name for name, _ in named if name not in known]:
            raise ValueError(f"prompts: {config.prompts.name} has none for {', '.join(missing)}")
        prompts = [known[name] for name, _ in named]
    scores = score(models_of(config), _batch(named), _batch(shown), prompts)
    if config.out is not None:
        each = {name: {k: float(v[i]) for k, v in scores.each.items()} for i, (name, _) in enumerate(named)}
        data = json.dumps({"means": scores.summary(), "each": each}, indent=2) + "\n"
        files.write_atomically(config.out, data.encode())
    return scores.summary()


def models_of(config: Config) -> Models:
    """The models that a command names."""
    from ..core.vision.clip import Clip
    from ..core.vision.dino import Dino
    from .data.retribooru.models import vqa_of

    demo = embedded() if DEMO in (config.clip, config.dino, config.vqa) else None
    clip = demo.clip if config.clip == DEMO else Clip(config.clip, device=config.device)
    dino = demo.dino if config.dino == DEMO else Dino(config.dino, device=config.device)
    if config.vqa == DEMO:
        return Models(clip, dino, demo.segment, demo.vqa, demo.questions, demo.embed)
    if config.vqa and config.clip == DEMO:
        raise ValueError("clip: the embedded one can't read a model's answers; name another one with this vqa")
    segment = demo.segment if demo is not None else None
    where = {"device": config.device, "dtype": torch.bfloat16 if config.half else torch.float32}
    return Models(clip, dino, segment, vqa_of(config.vqa, where) if config.vqa else None, QUESTIONS, clip.texts)


def _batch(named: Sequence[tuple[str, Tensor]]) -> Tensor:
    """Pictures of any sizes as one batch: the middle square of each, which is all that CLIP and DINO look at."""
    side = min(LARGEST, max(min(picture.shape[-2:]) for _, picture in named))
    return torch.stack([photos.middle(picture, side) for _, picture in named])
