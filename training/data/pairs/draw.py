"""Drawing with the factory's models: text-aligned pictures, edits under a mask, details refined, other views."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ....core.checkpoint import Checkpoint
from ....core.controlnet import Controlled
from ....core.denoiser import guided
from ....core.diffusers import Text
from ....core.diffusion import Predict, Schedule
from ....core.toffee.adapter import Adapter, Injection
from ....core.toffee.matching import SHARE, THRESHOLD
from ....core.toffee.tokens import blended, encode
from .masks import pasted


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn and prepared; all of it is the same for the whole of a data set.

    Args:
        size: of the pictures, in pixels; a multiple of 32.
        steps: DDIM steps of each drawing; the Refiner takes those of them that lie below `start`.
        guidance: of text, on the base model **[ours]**.
        dino_guidance: of the Refiner and the View Generator (Toffee, section 3.1).
        threshold: cosine above which a patch is the subject's (Toffee, Eq. 3) **[the number is ours]**.
        share: a, how much of such a patch the subject gives **[the number is ours]**.
        start: t_0, share of the noise schedule that the Refiner starts from **[the number is ours]**.
        edit_start: share of the noise schedule that edits other than of the background start from, so that the
            subject's shape stays; 1 is Blended Diffusion's **[ours]**.
        control: strength of the ControlNet.
        least, most: share of its picture that a subject may take **[ours]**.
        margin: share of the side by which an edit's mask is wider than the subject **[ours]**.
        batch: pictures drawn together.

    Raises:
        ValueError: numbers that make no sense.
    """

    size: int = 128
    steps: int = 50
    guidance: float = 5.0
    dino_guidance: float = 3.0
    threshold: float = THRESHOLD
    share: float = SHARE
    start: float = 0.6
    edit_start: float = 0.8
    control: float = 1.0
    least: float = 0.02
    most: float = 0.9
    margin: float = 0.05
    batch: int = 4

    def __post_init__(self):
        if self.size < 32 or self.size % 32:
            raise ValueError(f"size is {self.size}; it must be a multiple of 32")
        for name, value in {n: getattr(self, n) for n in ("share", "start", "edit_start", "margin")}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must lie within 0..1")
        if not 0 <= self.least < self.most <= 1:
            raise ValueError(f"least is {self.least} and most {self.most}; both within 0..1, the smaller first")
        if min(self.batch, self.steps) < 1:
            raise ValueError(f"batch is {self.batch} and steps {self.steps}; at least 1")


@dataclass(frozen=True)
class Adapted:
    """An adapter, and the checkpoint that it was trained on."""

    model: Checkpoint
    adapter: Adapter


@dataclass(frozen=True)
class Kept:
    """What blended drawing keeps.

    Args:
        latents, noise: of the originals, (B, C, h, w).
        mask: where they may change, (B, 1, h, w) of 0 and 1.
        start: timestep below which steps may change them, one for each.
    """

    latents: Tensor
    noise: Tensor
    mask: Tensor
    start: Tensor

    def blend(self, schedule: Schedule, z: Tensor, t: int, s: int) -> Tensor:
        """Latents after a step from t to s, the originals' where nothing may change."""
        mask = self.mask * (t < self.start).to(z).reshape(-1, 1, 1, 1)
        return mask * z + (1 - mask) * schedule.noise(self.latents, self.noise, s)


def sample(schedule: Schedule, predict: Predict, z: Tensor, timesteps: Sequence[int], kept: Kept | None) -> Tensor:
    """DDIM; where there is something to keep, each step's latents outside of the mask are the noised original's.

    This is Blended Latent Diffusion (Avrahami et al. 2023). The original always has the same noise, as DDIM's way
    through time has **[ours; it draws new noise each step]**.
    """
    for t, s in zip(timesteps, [*timesteps[1:], -1]):
        z = schedule.step(predict(z, t), z, t, s)
        z = z if kept is None else kept.blend(schedule, z, t, s)
    return z


def noise(key: str, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers that a key alone determines."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


class Painter:
    """Draws what the factory needs; pictures are (B, 3, S, S) in 0..1 on the CPU.

    Args:
        base: draws by text.
        dino: describes pictures for the adapters; None where there is neither of them.
        refiner, views: None leaves their step out.
        controlnet: diffusers' `ControlNetModel` for depth, on the base; None draws by text alone.
        settings: see `Settings`.
    """

    def __init__(
        self,
        base: Checkpoint,
        dino: Any,
        refiner: Adapted | None,
        views: Adapted | None,
        controlnet: Any,
        settings: Settings,
    ):
        self.base, self.dino, self.refiner, self.views = base, dino, refiner, views
        self.controlnet, self.settings = controlnet, settings
        self._null: dict[int, Text] = {}

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], keys: Sequence[str], depth: Tensor | None = None) -> Tensor:
        """Pictures by text, each from its own noise; under the ControlNet where depth (B, 1, S, S) is given."""
        return self._text(prompts, keys, depth, None)

    @torch.no_grad()
    def edit(
        self,
        images: Tensor,
        masks: Tensor,
        prompts: Sequence[str],
        keys: Sequence[str],
        starts: Sequence[float],
        depth: Tensor | None = None,
    ) -> Tensor:
        """Pictures that change under masks (B, 1, S, S) only, by Blended Diffusion; outside they are the originals.

        Args:
            starts: share of the noise schedule from which each begins to change.
        """
        return pasted(images, masks, self._text(prompts, keys, depth, (images, masks, starts)))

    @torch.no_grad()
    def refine(
        self,
        images: Tensor,
        subjects: Tensor,
        figures: Tensor,
        keys: Sequence[str],
        masks: Tensor | None = None,
    ) -> tuple[Tensor, list[float | None]]:
        """Subjects' details in drawn pictures, and the share of patches that had a match (Toffee, section 2.1).

        Args:
            images: drawn.
            subjects: their pictures.
            figures: the subjects in these, (B, 1, S, S); only their patches are given **[ours]**.
            masks: where an edit may change the subject's picture; None is everywhere.
        """
        if self.refiner is None:
            return images, [None] * len(images)
        s, (model, adapter) = self.settings, (self.refiner.model, self.refiner.adapter)
        name, schedule = adapter.dino, model.denoiser.schedule
        subject = encode(self.dino, name, subjects).of(figures)
        tokens, _, shares = blended(encode(self.dino, name, images), subject, s.threshold, s.share)
        timesteps = [t for t in schedule.timesteps(s.steps) if t < s.start * len(schedule)]
        if not timesteps:
            return images, list(shares)
        latents = model.encode(images)
        eps = self._noise(keys, "refined", latents)
        kept = None if masks is None else self._kept(model, subjects, masks, [s.start] * len(images), eps)
        refined = self._dino(self.refiner, tokens.tokens, schedule.noise(latents, eps, timesteps[0]), timesteps, kept)
        return (refined if masks is None else pasted(subjects, masks, refined)), list(shares)

    @torch.no_grad()
    def view(self, images: Tensor, keys: Sequence[str], words: Sequence[str]) -> Tensor:
        """The subjects of pictures from other sides (Toffee, section 2.1); the pictures without a View Generator.

        Args:
            words: of the subjects, for a View Generator that was trained to be told **[ours]**.
        """
        if self.views is None:
            return images
        model = self.views.model
        schedule, like = model.denoiser.schedule, self._latents(model, len(images))
        tokens, start = self.dino.tokens(images), self._noise(keys, "view", like)
        timesteps, text = schedule.timesteps(self.settings.steps), None
        if self.views.adapter.settings.get("told"):
            size = (self.settings.size, self.settings.size)
            texts = [model.text(f"a photo of a {word}", size=size) for word in words]
            text = texts[0].with_rows(texts[1:])
        return self._dino(self.views, tokens, start, timesteps, None, text)

    def _text(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        depth: Tensor | None,
        edit: tuple[Tensor, Tensor, Sequence[float]] | None,
    ) -> Tensor:
        s, model = self.settings, self.base
        texts = [model.text(prompt, size=(s.size, s.size)) for prompt in prompts]
        start = self._noise(keys, "drawn", self._latents(model, len(prompts)))
        denoiser = model.denoiser
        if self.controlnet is not None and depth is not None:
            denoiser = Controlled(denoiser, self.controlnet, depth.expand(-1, 3, -1, -1).to(start.device), s.control)
        predict = guided(denoiser, texts[0].with_rows(texts[1:]), self._nothing(model), s.guidance)
        schedule, kept = model.denoiser.schedule, None
        timesteps = schedule.timesteps(s.steps)
        if edit is not None:
            kept = self._kept(model, *edit, start)
            original = schedule.noise(kept.latents, start, timesteps[0])
            start = torch.where((kept.start < len(schedule)).reshape(-1, 1, 1, 1), original, start)
        return model.decode(sample(schedule, predict, start, timesteps, kept)).cpu()

    def _dino(
        self,
        adapted: Adapted,
        tokens: Tensor,
        start: Tensor,
        timesteps: Sequence[int],
        kept: Kept | None,
        text: Text | None = None,
    ) -> Tensor:
        """Drawn from DINO tokens, guided away from none; without a text it is the empty one **[ours]**."""
        model, null = adapted.model, self._nothing(adapted.model)
        hooks = Injection(adapted.adapter, tokens.to(start.device), len(model.denoiser.schedule)).hooks
        predict = guided(model.denoiser, text or null, null, self.settings.dino_guidance, hooks)
        return model.decode(sample(model.denoiser.schedule, predict, start, timesteps, kept)).cpu()

    def _nothing(self, model: Checkpoint) -> Text:
        """The empty prompt, encoded once a model."""
        side = self.settings.size
        if id(model) not in self._null:
            self._null[id(model)] = model.text("", size=(side, side))
        return self._null[id(model)]

    def _latents(self, model: Checkpoint, count: int) -> Tensor:
        """Latents of so many pictures, of no content."""
        unet, side = model.denoiser.unet, self.settings.size // 8
        return torch.empty(count, unet.config.out_channels, side, side, device=unet.device)

    @staticmethod
    def _noise(keys: Sequence[str], what: str, like: Tensor) -> Tensor:
        return torch.stack([noise(f"{key} {what}", like.shape[1:]) for key in keys]).to(like.device)

    @staticmethod
    def _kept(model: Checkpoint, images: Tensor, masks: Tensor, starts: Sequence[float], eps: Tensor) -> Kept:
        latents, start = model.encode(images), torch.tensor(starts) * len(model.denoiser.schedule)
        # what touches the mask may change: outside of it the pixels are put back
        return Kept(latents, eps, F.adaptive_max_pool2d(masks.to(latents), latents.shape[-2:]), start.to(latents))


Depth = Callable[[Tensor], Tensor]  # pictures (B, 3, H, W) to depth (B, 1, H, W) in 0..1, 1 nearest
