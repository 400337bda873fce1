"""Learning a subject's step-wise embeddings (HiFi Tuner, Algorithm 1): `likeness train hifi`, and the same from a node.

First one set of rows over all timesteps; then, from noisy to clean, a set for each DDIM timestep that starts from the
set before. The weights are frozen: a step is a forward and a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..core import files
from ..core.attention import base_of
from ..core.denoiser import Conditioning, Denoiser
from ..core.hifi import subject as subjects
from ..core.hifi.subject import ROWS, Subject
from . import loop
from .data import photos, records
from .data.photos import Group
from .processes import accelerated

KIND = "hifi-timesteps"
Watch = Callable[[loop.Progress], None]


@dataclass(frozen=True)
class Learn:
    """What is learned, and how.

    Args:
        rows: n, text tokens that the subject takes (paper: 5).
        regularisation: w_s, weight of the mean squared distance to the null text's rows (Eq. 6); the paper does not
            publish it. On the embedded model 0.01 lets subjects take their scenes along, 0.1 learns nothing **[ours]**.
        timesteps: T, DDIM timesteps that get rows of their own (paper: 50); 0 keeps one set for all.
        each: I, steps at each of them (paper: 10).
        batch: pictures a step.
        save_memory: recompute activations in the backward pass instead of keeping them (headless only).
        loop: steps and learning rate of the first set (paper: 1000 and 0.005).
    """

    rows: int = ROWS
    regularisation: float = 0.03
    timesteps: int = 50
    each: int = 10
    batch: int = 4
    save_memory: bool = False
    loop: loop.Settings = field(default_factory=lambda: loop.Settings(steps=1000, lr=5e-3, clip=0.0, every=100))

    def __post_init__(self):
        if min(self.rows, self.each, self.batch) < 1 or self.timesteps < 0 or self.regularisation < 0:
            raise ValueError("rows, each and batch must be at least 1, timesteps and regularisation at least 0")

    @property
    def steps(self) -> int:
        """Of both stages together."""
        return self.loop.steps + self.timesteps * self.each


class Training:
    """A subject being learned.

    Args:
        denoiser: the frozen model.
        prompt: what the pictures show, as in "a photo of a cat", carrying the positions of `word`; its places for the
            subject's rows are its last ones.
        null: the null text.
        groups: latents of the pictures in the model's scale, with weights where the loss shall look: the subject's
            masks (Eq. 5).
        word: the class word of the prompt.
        learn: see `Learn`.
        start: rows to start from, (1, n, width); None starts from the null text's last ones, phi_s, as the paper does.
        checkpoint: file to save to and to resume from, with a second one beside it for the second stage; None keeps
            nothing.
        accelerator, scale: see `loop.Trainer`.
        device: where the model runs; the prompt's by default.
        model: names the model, so that another one's checkpoint is refused.

    Raises:
        ValueError: no pictures, or a word that the prompt doesn't hold.
        files.LearnedFileError: a checkpoint of another training.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompt: Conditioning,
        null: Conditioning,
        groups: Sequence[Group],
        word: str,
        learn: Learn,
        start: Tensor | None = None,
        checkpoint: Path | None = None,
        accelerator: Any = None,
        scale: float = 1.0,
        device: torch.device | None = None,
        model: str = "",
    ):
        if not sum(map(len, groups)):
            raise ValueError("images: there is no picture to learn from")
        if not prompt.holds(word):
            raise ValueError(f"word: {word!r} is not in the training prompt; both must name the subject alike")
        self.denoiser, self.prompt, self.groups, self.word, self.learn = denoiser, prompt, groups, word, learn
        self.device = device or prompt.tokens.device
        self.anchor = null.tokens[:1, -learn.rows :].detach().float().to(self.device)  # phi_s, (1, n, width)
        start = self.anchor if start is None else start.to(self.anchor)
        self.source = photos.fingerprint(groups, prompt.tokens)
        settings = {k: v for k, v in vars(learn).items() if k not in ("loop", "save_memory", "timesteps", "each")}
        begin = files.fingerprint({"start": start})
        identity = f"{self.source} {begin} {base_of(denoiser.sites)} {model} {word} {settings}"
        self._accelerator, self._scale = accelerator, scale
        self.timesteps = denoiser.schedule.timesteps(learn.timesteps) if learn.timesteps else []
        self.trainer = self._trainer(start, partial(self._loss, None), learn.loop, identity, checkpoint)
        self.sets: list[Tensor] = []
        self._later: list[float] = []  # losses of the second stage, of whole timesteps
        self._identity = f"{self.trainer.identity} {learn.loop.steps} {learn.timesteps} {learn.each}"
        if checkpoint is not None:
            self.keep(checkpoint)

    def keep(self, checkpoint: Path) -> None:
        """Save to this file from now on, and go on from it if it is there."""
        if self.trainer.checkpoint != checkpoint:
            self.trainer.keep(checkpoint)
        del self.trainer.losses[self.trainer.step :]  # older checkpoints could hold some of the second stage's
        if self._beside().exists() and self.trainer.step == self.learn.loop.steps:
            tensors, header = files.load(self._beside(), kind=KIND)
            if header.source == self._identity:
                self.sets = list(tensors["sets"].to(self.device))
                self._later = tensors["losses"].tolist() if "losses" in tensors else []

    @property
    def losses(self) -> list[float]:
        """Of every step so far, of both stages."""
        return self.trainer.losses + self._later

    @property
    def step(self) -> int:
        """Steps done, of both stages."""
        return self.trainer.step + len(self.sets) * self.learn.each

    def run(self, watch: Watch | None = None, until: int | None = None) -> Subject:
        """Train to the end, or until about so many steps; what the watcher raises stops it, checkpointed.

        The second stage stops between timesteps; one that was broken off is learned again when it goes on, the same.
        """
        last = self.learn.steps if until is None else until
        told = watch and self._told(watch, 0)
        self.trainer.run(told, min(last, self.learn.loop.steps))
        while len(self.sets) < len(self.timesteps) and self.step < last:
            index = len(self.sets)
            settings = replace(
                self.learn.loop, steps=self.learn.each, warmup=0, decay=0.0, seed=self.learn.loop.seed + 1 + index
            )
            start = self.sets[-1] if self.sets else self.trainer.weights()["rows"]
            trainer = self._trainer(start, partial(self._loss, self.timesteps[index]), settings)
            learned = trainer.run(watch and self._told(watch, self.step))["rows"].detach().clone()
            self.sets.append(learned)
            self._later += trainer.losses
            self._save()
        return self.subject()

    def subject(self) -> Subject:
        """What has been learned so far."""
        s = self.learn.loop
        settings = {"steps": self.step, "of": self.learn.steps, "lr": s.lr, "batch": self.learn.batch, "seed": s.seed}
        settings["regularisation"] = self.learn.regularisation
        rows = torch.cat(self.sets or [self.trainer.weights()["rows"]]).detach().float().cpu().clone()
        times = tuple(self.timesteps[: len(rows)]) or (len(self.denoiser.schedule) - 1,)
        return Subject(rows, times, self.word, base_of(self.denoiser.sites), settings, self.source)

    def remove(self) -> None:
        """Remove the checkpoints of a training that has ended."""
        for path in (self.trainer.checkpoint, self._beside()):
            path.unlink(missing_ok=True)

    # --- parts

    def _trainer(
        self, start: Tensor, loss: Any, settings: loop.Settings, identity: str = "", checkpoint: Path | None = None
    ) -> loop.Trainer:
        rows = torch.nn.Parameter(start.detach().clone())
        bound = partial(loss, rows)
        return loop.Trainer({"rows": rows}, bound, settings, checkpoint, identity, self._accelerator, self._scale)

    def _told(self, watch: Watch, before: int) -> Watch:
        return lambda progress: watch(replace(progress, step=before + progress.step, steps=self.learn.steps))

    def _beside(self) -> Path:
        return self.trainer.checkpoint.with_suffix(".timesteps")

    def _save(self) -> None:
        if self.trainer.checkpoint is not None and (self._accelerator is None or self._accelerator.is_main_process):
            tensors = {"sets": torch.stack(self.sets), "losses": torch.tensor(self._later, dtype=torch.float64)}
            files.save(self._beside(), tensors, files.Header(KIND, source=self._identity))

    def _loss(self, time: int | None, rows: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """Eq. 6 at one timestep, or at random ones; both terms are means **[ours: the paper sums]**.

        A v-prediction model's error is the velocity's, as it was trained **[ours]**.
        """
        schedule, size, device = self.denoiser.schedule, self.learn.batch, self.device
        z0, weight = photos.some(self.groups, size, generator)
        t = schedule.stratified(size, generator) if time is None else torch.full((size,), time)
        eps = torch.randn(z0.shape, generator=generator)
        z, target = schedule.noise(z0, eps, t).to(device), schedule.target(z0, eps, t).to(device)
        tokens = self.prompt.tokens.to(device)
        where = torch.arange(tokens.shape[1], device=device)[None] >= tokens.shape[1] - self.learn.rows
        prompt = self.prompt.with_tokens(subjects.put(tokens[:1].float(), where, rows))
        wrong = (self.denoiser(z, t.to(device), prompt)[0].float() - target).square()
        error = photos.weighted_mean(wrong, weight)
        return error + self.learn.regularisation * (rows - self.anchor).square().mean()


# --- headless --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """Learn a subject from a folder of photos.

    Args:
        images: folder of photos, of any sizes; or records (`build retribooru`), of which `identity` names one.
        prompt: what they show, in plain words.
        word: the class word of the prompt.
        out: subject file to write.
        model: folder in diffusers' layout, .safetensors checkpoint or hub name; the embedded model by default.
        masks: folder of masks of the same names, white where the subject is; without them the subject learns its
            background too.
        size: pixels; 512 for SD1.x and SD2.x, 1024 for SDXL, 128 for the embedded model.
        fit: crop the middle square, pad to a square, or keep proportions in buckets.
        start: "null" starts from the null text's last rows (paper), "word" from the class word's embedding, as textual
            inversion does (ours, for comparison).
        identity: of records: the id of one of its pictures, or a character with one outfit.
        checkpoint: file to save to and resume from; beside `out` by default.
        learn: what is learned, and how.
    """

    images: Path
    prompt: str
    word: str
    out: Path = Path("subject.safetensors")
    model: str | None = None
    masks: Path | None = None
    size: int = 128
    fit: str = "crop"
    start: Literal["null", "word"] = "null"
    identity: str | None = None
    checkpoint: Path | None = None
    learn: Learn = field(default_factory=Learn)


def train(config: Config, watch: Callable[[str, loop.Progress], None] | None = None) -> Path:
    """Train headless and write the subject, also when it is stopped; on Accelerate's device and processes.

    Raises:
        FileNotFoundError, ValueError: pictures, masks, prompt or model that can't be used.
    """
    from ..core import checkpoint, prompts
    from ..core.demo import MODEL

    with accelerated() as accelerator:
        groups = records.from_folders(config.images, config.masks, config.size, config.fit, config.identity)
        model = checkpoint.load(config.model or MODEL, device=str(accelerator.device))
        prompt, null = (model.text(text, [config.word], (config.size,) * 2) for text in (config.prompt, ""))
        subjects.places(prompt.tokens.shape[1], prompts.used(config.prompt, model.text.tokenize), config.learn.rows)
        file = config.checkpoint or config.out.with_suffix(".checkpoint")
        latents = photos.encode(groups, model.encode)
        base = files.fingerprint(model.denoiser.unet.state_dict())
        if config.learn.save_memory:
            model.denoiser.save_memory()
        # the class word's embedding, the mean of its tokens, in every row
        word = prompt.tokens[:, prompt.words[config.word]].mean(1, keepdim=True).expand(-1, config.learn.rows, -1)
        start = word if config.start == "word" else None
        both = prompt, null
        training = Training(
            model.denoiser, *both, latents, config.word, config.learn, start, file, accelerator, model=base
        )
        try:
            training.run(watch and (lambda progress: watch("hifi", progress)))
        finally:
            if accelerator.is_main_process and training.step:
                subjects.save(config.out, training.subject())
        if accelerator.is_main_process:
            training.remove()
    return config.out
