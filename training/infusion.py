"""Learning a concept: `likeness train infusion`, and the same from a node.

The foundation runs without gradient at the same noisy latents and leaves its attention output and the word's columns;
the customised stream adds the residuals to them, so a step costs three network passes where textual inversion's takes
two (forward and backward; the weights are frozen).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.attention import Layer, Rows, Site
from ..core.denoiser import Conditioning, Denoiser, Hooks
from ..core.infusion import concept as concepts
from ..core.infusion.concept import Concept
from ..core.infusion.control import add_values, residual_of
from . import loop
from .data import photos, records
from .data.photos import Group
from .processes import accelerated
from .weighting import snr_weight


@dataclass(frozen=True)
class Learn:
    """What is learned, and how.

    Args:
        further: further words of the prompt that get residuals of their own (ours; the paper has one).
        space: where the residual lives: "text" (before the layer's value projection) or "value" (after it).
        layers: cross-attention layers with a residual: all, down+mid, mid+up, up, inner.
        bins: residuals for so many equal parts of the noise schedule (ours; the paper has one).
        batch: pictures a step (paper: 4).
        snr: weight the loss by the signal-to-noise ratio, so that noisy steps, which decide on colours, count more
            **[ours]**; the paper weights all alike.
        save_memory: recompute activations in the backward pass instead of keeping them (headless only).
        loop: steps and learning rate (paper: 0.01).
    """

    further: tuple[str, ...] = ()
    space: str = "text"
    layers: str = "all"
    bins: int = 1
    batch: int = 4
    snr: bool = False
    save_memory: bool = False
    loop: loop.Settings = field(default_factory=lambda: loop.Settings(steps=500, lr=0.01, clip=0.0, every=100))


class Training:
    """A concept being learned.

    Args:
        denoiser: the frozen model.
        prompt: the training prompt, one for the whole picture, carrying the words' positions.
        groups: latents of the pictures in the model's scale, with weights where the loss shall look.
        word: the word of the prompt that stands for the subject.
        learn: see `Learn`.
        checkpoint: file to save to every `learn.loop.every` steps and to resume from; None keeps nothing.
        accelerator, scale: see `loop.Trainer`.
        device: where the model runs; the prompt's by default.
        model: names the model, so that another one's checkpoint is refused.

    Raises:
        ValueError: a word that the prompt doesn't hold, no pictures, or an unknown choice.
        files.LearnedFileError: a checkpoint of another training.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompt: Conditioning,
        groups: Sequence[Group],
        word: str,
        learn: Learn,
        checkpoint: Path | None = None,
        accelerator: Any = None,
        scale: float = 1.0,
        device: torch.device | None = None,
        model: str = "",
    ):
        if not sum(map(len, groups)):
            raise ValueError("images: there is no picture to learn from")
        if learn.batch < 1:
            raise ValueError(f"batch is {learn.batch}; at least 1")
        self.words = (word, *learn.further)
        for each in self.words:
            if not prompt.holds(each):
                raise ValueError(f"word: {each!r} is not in the training prompt; both must name the subject alike")
        self.denoiser, self.prompt, self.groups, self.learn = denoiser, prompt, groups, learn
        start = concepts.blank(denoiser.sites, self.words, learn.space, learn.layers, learn.bins)
        self.device = device or prompt.tokens.device
        self.parameters = {k: torch.nn.Parameter(r.to(self.device)) for k, r in start.residuals.items()}
        self.source = photos.fingerprint(groups, prompt.tokens)
        settings = {k: v for k, v in vars(learn).items() if k not in ("loop", "save_memory")}
        self.trainer = loop.Trainer(
            self.parameters,
            self._loss,
            learn.loop,
            checkpoint,
            f"{self.source} {start.base} {model} {word} {settings}",
            accelerator,
            scale,
        )
        self._start = start

    def run(self, watch: Callable[[loop.Progress], None] | None = None) -> Concept:
        """Train to the end; whatever the watcher raises stops it, checkpointed, and `concept` is what was learned."""
        self.trainer.run(watch)
        return self.concept()

    def concept(self) -> Concept:
        """What has been learned so far."""
        s = self.learn.loop
        settings = {"steps": self.trainer.step, "of": s.steps, "lr": s.lr, "batch": self.learn.batch, "seed": s.seed}
        learned = {k: r.detach().float().cpu().clone() for k, r in self.trainer.weights().items()}
        return replace(self._start, residuals=learned, settings=settings, source=self.source)

    def _loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error of the customised prediction at random noise levels (Infusion, Eq. 8), averaged over the latents.

        A v-prediction model's error is the velocity's, as it was trained **[ours]**.
        """
        schedule, size = self.denoiser.schedule, self.learn.batch
        z0, weight = photos.some(self.groups, size, generator)
        t = schedule.stratified(size, generator)
        eps = torch.randn(z0.shape, generator=generator)
        device = self.device
        z, target = schedule.noise(z0, eps, t).to(device), schedule.target(z0, eps, t).to(device)
        wrong = (self.customised(z, t.to(device)).float() - target).square()
        if self.learn.snr:
            wrong = wrong * snr_weight(schedule)[t].to(device).reshape(-1, 1, 1, 1)
        return photos.weighted_mean(wrong, weight)

    def customised(self, z: Tensor, t: Tensor) -> Tensor:
        """C's raw prediction at z_t, (B, C, H, W), with gradients to the residuals."""
        words = self.words
        foundation = _Foundation(words)
        with torch.no_grad():
            self.denoiser(z, t, self.prompt, hooks=Hooks(foundation, words=words))
        customised = _Customised(foundation, self.parameters, self.learn.space, len(self.denoiser.schedule))
        return self.denoiser(z, t, self.prompt, hooks=Hooks(customised, words=words))[0]


class _Foundation:
    """Keeps each layer's attention output and the words' columns; nothing of the maps' other columns."""

    def __init__(self, words: Sequence[str]):
        self.words, self.kept = words, {}

    def wants(self, site: Site) -> bool:
        return site.kind == "cross"

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        out = attend(q, k, v)
        where = torch.stack([rows.where(word, k.shape[1]) for word in self.words], 1)
        self.kept[site.name] = out, site.columns(q, k, where)
        return out


class _Customised:
    """The foundation's output with the residuals being learned."""

    def __init__(self, foundation: _Foundation, residuals: dict[str, Tensor], space: str, steps: int):
        self.foundation, self.residuals, self.space, self.steps = foundation, residuals, space, steps

    def wants(self, site: Site) -> bool:
        return site.kind == "cross"

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        out, columns = self.foundation.kept[site.name]
        values = residual_of(self.residuals, self.space, site, rows.timestep, self.steps, v, attend)
        return out if values is None else out + add_values(site, columns, values)


# --- headless --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """Learn a concept from a folder of photos.

    Args:
        images: folder of photos, of any sizes; or records (`build retribooru`), of which `identity` names one.
        prompt: what they show, in plain words.
        word: the word of the prompt that stands for the subject.
        out: concept file to write.
        model: folder in diffusers' layout, .safetensors checkpoint or hub name; the embedded model by default.
        masks: folder of masks of the same names, white where the subject is; the loss then looks there only.
        size: pixels; 512 for SD1.x and SD2.x, 1024 for SDXL, 128 for the embedded model.
        fit: crop the middle square, pad to a square, or keep proportions in buckets.
        identity: of records: the id of one of its pictures, or a character with one outfit.
        checkpoint: file to save to and resume from; beside `out` by default.
        learn: what is learned, and how.
    """

    images: Path
    prompt: str
    word: str
    out: Path = Path("concept.safetensors")
    model: str | None = None
    masks: Path | None = None
    size: int = 128
    fit: str = "crop"
    identity: str | None = None
    checkpoint: Path | None = None
    learn: Learn = field(default_factory=Learn)


def train(config: Config, watch: Callable[[str, loop.Progress], None] | None = None) -> Path:
    """Train headless and write the concept, also when it is stopped; on Accelerate's device and processes.

    Raises:
        FileNotFoundError, ValueError: pictures, masks, prompt or model that can't be used.
    """
    from ..core import checkpoint, files
    from ..core.demo import MODEL

    with accelerated() as accelerator:
        groups = records.from_folders(config.images, config.masks, config.size, config.fit, config.identity)
        model = checkpoint.load(config.model or MODEL, device=str(accelerator.device))
        words, learn = (config.word, *config.learn.further), config.learn
        prompt = model.text(config.prompt, words, (config.size, config.size))
        file = config.checkpoint or config.out.with_suffix(".checkpoint")
        latents = photos.encode(groups, model.encode)
        base = files.fingerprint(model.denoiser.unet.state_dict())
        if learn.save_memory:
            model.denoiser.save_memory()
        training = Training(model.denoiser, prompt, latents, config.word, learn, file, accelerator, model=base)
        try:
            training.run(watch and (lambda progress: watch("infusion", progress)))
        finally:
            if accelerator.is_main_process and training.trainer.step:
                concepts.save(config.out, training.concept())
        file.unlink(missing_ok=True)
    return config.out
