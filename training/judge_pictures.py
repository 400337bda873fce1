"""Pictures to train the embedded judges on: every subject in several scenes, with what each picture shows."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import files
from ..core.demo import truth, world

SCENES = 4  # of each subject
KIND, TWINS = "judge-pictures", "judge-twins"
_CHUNK = 8  # pictures in the autoencoder at a time


@dataclass
class JudgePictures:
    """Subjects in SCENES scenes each; picture i shows subject i // SCENES.

    Attributes:
        images: uint8 (N * SCENES, 3, 128, 128).
        labels: int (N * SCENES, attributes): the true value's index in VALUES, -1 where the picture doesn't show it.
        twins: uint8 (M, 3, 128, 128): the first M pictures of a fixed shuffle, after the autoencoder's round trip.
        shown: subject and scene of each picture.
        identity: number of the first equal subject, (N,): the same identity may be drawn twice.
        masks: uint8 (N * SCENES, 1, 64, 64), the subject's share of each 2x2 pixels, 0..255.
    """

    images: Tensor
    labels: Tensor
    twins: Tensor
    shown: list[tuple[world.Subject, world.Scene]]
    identity: Tensor
    masks: Tensor

    @classmethod
    def render(cls, subjects: int, twins: int, vae: Path, work: Path, workers: int = 1) -> JudgePictures:
        """Draw them in so many processes, or take them from `work` where they are complete and still the world's."""
        shown = [scene_of(i) for i in range(subjects * SCENES)]
        images, labels, masks = _drawn(len(shown), work / f"judge-pictures-{subjects}.safetensors", workers)
        first: dict[world.Subject, int] = {}
        identity = torch.tensor([first.setdefault(shown[i * SCENES][0], i) for i in range(subjects)])
        changed = _round_trips(images[shuffled(len(images))[:twins]], vae, work)
        return cls(images, labels, changed, shown, identity, masks)

    def known(self) -> str:
        """A fingerprint of everything that a training takes from here."""
        return files.fingerprint({"images": self.images, "labels": self.labels, "twins": self.twins})

    def batch(self, chosen: Tensor, generator: torch.Generator, share: float = 0.3) -> Tensor:
        """Pictures (B, 3, 128, 128) in 0..1, jittered; of those that have a twin, `share` come as their twin."""
        images = self.images[chosen].clone()
        twin = self._twin_of()[chosen]
        swapped = (torch.rand(len(chosen), generator=generator) < share) & (twin >= 0)
        images[swapped] = self.twins[twin[swapped]]
        return jitter(images / 255, generator)

    def some(self, count: int, generator: torch.Generator, twins: float = 0.25) -> Tensor:
        """Picture numbers, (count,), a share of `twins` among those that have a twin."""
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        if len(self.twins):
            paired = shuffled(len(self.images))[torch.randint(len(self.twins), (count,), generator=generator)]
            chosen = torch.where(torch.rand(count, generator=generator) < twins, paired, chosen)
        return chosen

    def masked(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, 128, 128) and their subjects' masks (B, 1, 64, 64), in 0..1; half of them mirrored.

        A twin stands for its picture where there is one.
        """
        chosen = self.some(count, generator)
        twin, turned = self._twin_of()[chosen], torch.rand(count, generator=generator) < 0.5
        images = torch.where((twin >= 0)[:, None, None, None], self.twins[twin.clamp(min=0)], self.images[chosen])
        images, masks = (
            torch.where(turned[:, None, None, None], x.flip(-1), x) / 255 for x in (images, self.masks[chosen])
        )
        return lights(images, generator), masks

    def _twin_of(self) -> Tensor:
        twin = torch.full((len(self.images),), -1)
        twin[shuffled(len(self.images))[: len(self.twins)]] = torch.arange(len(self.twins))
        return twin


def scene_of(number: int) -> tuple[world.Subject, world.Scene]:
    """Subject and scene of training picture `number`; the names of the seeds keep them apart from every other set."""
    subject = world.random_subject(random.Random(f"judges subject {number // SCENES}"))
    return subject, world.random_scene(random.Random(f"judges scene {number}"))


def labels_of(subject: world.Subject, scene: world.Scene) -> list[int]:
    """Index of each attribute's true value in VALUES, -1 where the picture does not show it."""
    values, seen = truth.truth(subject, scene), truth.visible(subject, scene)
    return [names.index(values[name]) if name in seen else -1 for name, names in truth.VALUES.items()]


def shuffled(count: int) -> Tensor:
    """A fixed permutation, (count,)."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures in 0..1 a little shifted, brighter, blurred and noisy; colours keep their hue, since it is identity."""
    count, side = len(images), images.shape[-1]
    shift = torch.randint(-6, 7, (count, 2), generator=generator).tolist()
    padded = nn.functional.pad(images, (6, 6, 6, 6), mode="replicate")
    moved = [x[:, 6 + dy : 6 + dy + side, 6 + dx : 6 + dx + side] for x, (dy, dx) in zip(padded, shift)]
    return lights(torch.stack(moved), generator)


def lights(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures in 0..1 a little brighter or darker, blurred and noisy."""
    count = len(images)
    images = images * (1 + 0.12 * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1))
    soft = nn.functional.avg_pool2d(nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, soft, 0.9 * torch.rand(count, 1, 1, 1, generator=generator))
    noise = torch.randn(images.shape, generator=generator)
    return (images + 0.03 * torch.rand(count, 1, 1, 1, generator=generator) * noise).clamp(0, 1)


def mirrored(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the pictures turned left to right, and what they then show: only the view is another."""
    turned = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(turned[:, None, None, None], images.flip(-1), images)
    view, opposite = list(truth.VALUES).index("view"), {"left": "right", "right": "left"}
    swap = torch.tensor([world.VIEWS.index(opposite.get(name, name)) for name in world.VIEWS])
    labels = labels.clone()
    labels[turned, view] = swap[labels[turned, view]]  # every picture shows its view
    return images, labels


def _drawn(count: int, cache: Path, workers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and masks, from the cache where it is of the world as it is drawn now."""
    tensors = files.load(cache, kind=KIND)[0] if cache.exists() else {}
    if "masks" in tensors:
        images, labels, masks = (tensors[name] for name in ("images", "labels", "masks"))
        some = (0, count // 2, count - 1)
        fresh = [_draw(i) for i in some]
        if all(
            (image == images[i].numpy()).all() and label == labels[i].tolist()
            for i, (image, label, _) in zip(some, fresh)
        ):
            return images, labels, masks
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            drawn = list(pool.map(_draw, range(count), chunksize=50))
    else:
        drawn = [_draw(i) for i in range(count)]
    images, masks = (torch.stack([torch.from_numpy(row[i]) for row in drawn]) for i in (0, 2))
    labels = torch.tensor([label for _, label, _ in drawn])
    files.save(cache, {"images": images, "labels": labels, "masks": masks}, files.Header(kind=KIND))
    return images, labels, masks


def _draw(number: int) -> tuple[Any, list[int], Any]:
    subject, scene = scene_of(number)
    picture = world.draw(subject, scene)
    image, mask = ((x * 255).round().byte().numpy() for x in (picture.image, nn.functional.avg_pool2d(picture.mask, 2)))
    return image, labels_of(subject, scene), mask


def _round_trips(images: Tensor, folder: Path, work: Path) -> Tensor:
    """Pictures after the autoencoder of `folder`, uint8; computed once for each autoencoder and set."""
    if not len(images):
        return images
    vae = open_vae(folder)
    name = files.fingerprint({**vae.state_dict(), "images": images})
    cache = work / f"judge-twins-{name}.safetensors"
    if not cache.exists():
        parts = [(round_trip(vae, chunk / 255) * 255).round().to(torch.uint8) for chunk in images.split(_CHUNK)]
        files.save(cache, {"images": torch.cat(parts)}, files.Header(kind=TWINS))
    return files.load(cache, kind=TWINS)[0]["images"]


def open_vae(folder: Path) -> nn.Module:
    """The embedded model's autoencoder, in float32."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny.from_pretrained(folder).float().eval().requires_grad_(False)


@torch.no_grad()
def round_trip(vae: nn.Module, images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 as they come back from an autoencoder."""
    return (vae.decode(vae.encode(images * 2 - 1).latents).sample / 2 + 0.5).clamp(0, 1)
