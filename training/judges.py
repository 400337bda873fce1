"""The embedded judges, trained from scratch on the demo world: `likeness train judges`.

Three small models that know nothing of the base model: CLIP on pictures and captions; a DINO-like one without labels,
whose augmentation is the world itself (one subject drawn in two scenes); an attribute judge on the renderer's truth.
All sizes and losses here are ours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core import files
from ..core.demo import MODEL, world
from ..core.demo.attributes import AttributeNet
from ..core.demo.segments import SegmentNet
from . import judge_export as export
from . import judge_losses as losses
from . import loop
from .demo_model import Watch
from .judge_captions import altered, facts, fits
from .judge_pictures import SCENES, JudgePictures, jitter, mirrored
from .processes import accelerated
from .tokenizer import LENGTH, make_tokenizer

SIZE, PATCH = 128, 16
VISION = dict(hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4)
TEXT = dict(hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4)
SPACE = 96
DINO = dict(hidden_size=160, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=3)
PARTS = ("attributes", "dino", "clip", "segments")


@dataclass(frozen=True)
class Config:
    """Train the embedded judges.

    Args:
        out: folder for the judges.
        work: folder for rendered pictures and checkpoints; a second run resumes from it.
        init: folder of judges to go on from.
        which: one of them, or all.
        vae: autoencoder whose round trip the judges shall bear.
        subjects: how many, each in four scenes.
        twins: how many of the pictures are also shown after the round trip.
        attributes, dino, clip, segments: training of each; dino's running average is its teacher.
        attributes_batch, clip_batch, segments_batch: pictures a step.
        groups, group: dino sees so many groups of subjects of one kind, each of so many subjects, in two scenes each.
        threads: CPU threads; give it only cores that nothing else uses.
    """

    out: Path = Path("runs/judges")
    work: Path = Path("runs/judges-work")
    init: Path | None = None
    which: Literal["clip", "dino", "attributes", "segments", "all"] = "all"
    vae: Path = MODEL / "vae"
    subjects: int = 6000
    twins: int = 1200
    attributes: loop.Settings = field(
        default_factory=lambda: loop.Settings(
            steps=8000, lr=2e-3, warmup=100, decay=0.7, ema=0.995, weight_decay=0.02, every=250
        )
    )
    dino: loop.Settings = field(
        default_factory=lambda: loop.Settings(
            steps=2000, lr=1e-3, warmup=150, decay=0.6, ema=0.995, weight_decay=0.05, every=200
        )
    )
    clip: loop.Settings = field(
        default_factory=lambda: loop.Settings(
            steps=4000, lr=1e-3, warmup=100, decay=0.7, ema=0.99, weight_decay=0.05, every=200
        )
    )
    segments: loop.Settings = field(
        default_factory=lambda: loop.Settings(
            steps=1500, lr=2e-3, warmup=100, decay=0.7, ema=0.99, weight_decay=0.01, every=200
        )
    )
    attributes_batch: int = 32
    clip_batch: int = 48
    segments_batch: int = 16
    groups: int = 4
    group: int = 6
    threads: int = 2


@dataclass(frozen=True)
class _Stage:
    """What every judge's training needs."""

    config: Config
    pictures: JudgePictures
    accelerator: Any
    watch: Watch | None

    def trainer(self, name: str, model: nn.Module, loss: loop.Loss) -> loop.Trainer:
        """A trainer whose checkpoint belongs to this data, this start and these batches."""
        c, settings = self.config, getattr(self.config, name)
        parameters = dict(model.named_parameters())
        start = files.fingerprint(parameters) if c.init else ""
        size = {
            "attributes": c.attributes_batch,
            "dino": (c.groups, c.group),
            "clip": c.clip_batch,
            "segments": c.segments_batch,
        }[name]
        identity = f"{name} {start} {self.pictures.known()} {size}"
        return loop.Trainer(parameters, loss, settings, c.work / f"{name}.safetensors", identity, self.accelerator)

    def run(self, name: str, model: nn.Module, trainer: loop.Trainer) -> None:
        """Train, leave the best weights in the model, write it with its record."""
        best = trainer.run(self.watch and (lambda progress: self.watch(name, progress)))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(best[key])
        if self.accelerator.is_main_process:
            export.save(name, model.cpu().eval(), trainer, self.config)


def train(config: Config, watch: Watch | None = None) -> Path:
    """The judges asked for, each resumed where it stopped, on Accelerate's device; returns the folder of the judges.

    Raises:
        LearnedFileError: the work folder holds a checkpoint of a training with other settings.
        ValueError: dino without a running average, which is its teacher.
    """
    if not config.dino.ema:
        raise ValueError("dino.ema is 0, but dino learns from its running average; choose one like 0.995")
    torch.set_num_threads(config.threads)
    with accelerated() as accelerator:
        config.work.mkdir(parents=True, exist_ok=True)
        pictures = JudgePictures.render(config.subjects, config.twins, config.vae, config.work, config.threads)
        stage = _Stage(config, pictures, accelerator, watch)
        for name in PARTS if config.which == "all" else (config.which,):
            torch.manual_seed(getattr(config, name).seed)  # the weights it starts from
            TRAINERS[name](stage)
        if accelerator.is_main_process:
            export.write_card(config.out)
    return config.out


def train_attributes(stage: _Stage) -> None:
    """The renderer's truth, each attribute where the picture shows it."""
    config, pictures, device = stage.config, stage.pictures, stage.accelerator.device
    net = AttributeNet()
    if config.init:
        from ..core.demo.attributes import Attributes

        net = Attributes(config.init / "attributes").net.requires_grad_(True)
    net.to(device, memory_format=torch.channels_last)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = pictures.some(config.attributes_batch, generator)
        images, labels = mirrored(pictures.batch(chosen, generator), pictures.labels[chosen], generator)
        return losses.answers(net(images.to(device, memory_format=torch.channels_last)), labels.to(device))

    stage.run("attributes", net, stage.trainer("attributes", net, loss))


def train_segments(stage: _Stage) -> None:
    """The renderer's masks."""
    config, pictures, device = stage.config, stage.pictures, stage.accelerator.device
    net = SegmentNet()
    if config.init and (config.init / "segments").is_dir():
        from ..core.demo.segments import Segments

        net = Segments(config.init / "segments").net.requires_grad_(True)
    net.to(device, memory_format=torch.channels_last)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        images, masks = pictures.masked(config.segments_batch, generator)
        return losses.subject(net(images.to(device, memory_format=torch.channels_last)), masks.to(device))

    stage.run("segments", net, stage.trainer("segments", net, loss))


# --- dino ------------------------------------------------------------------------------------------------------------


def train_dino(stage: _Stage) -> None:
    """Without labels: a subject in two scenes is one identity, others of its kind are not; patches keep their meaning.

    The student sees its pictures moved by whole patches and partly masked; the teacher, its running average, sees them
    as they are, in other light.
    """
    from transformers import Dinov2Config, Dinov2Model

    config, pictures, device = stage.config, stage.pictures, stage.accelerator.device
    student = Dinov2Model(Dinov2Config(**DINO, image_size=SIZE, patch_size=PATCH))
    if config.init:
        student = Dinov2Model.from_pretrained(config.init / "dino", use_safetensors=True).float()
    student.to(device).train()

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = kindred(pictures, config.groups, config.group, generator)
        images = pictures.batch(chosen, generator)
        moves = torch.randint(-1, 2, (len(chosen), 2), generator=generator).tolist()
        moved = torch.stack([x.roll([PATCH * dy, PATCH * dx], (1, 2)) for x, (dy, dx) in zip(images, moves)])
        mask = masks(len(chosen), (SIZE // PATCH) ** 2, generator).to(device)
        seen = student(normalised(jitter(moved, generator)).to(device), bool_masked_pos=mask).last_hidden_state
        known = watch_teacher(student, trainer.average, normalised(images).to(device))
        grid = known[:, 1:].unflatten(1, (SIZE // PATCH, -1))
        grid = torch.stack([g.roll([dy, dx], (0, 1)) for g, (dy, dx) in zip(grid, moves)]).flatten(1, 2)
        identity = pictures.identity[chosen // SCENES].to(device)
        return losses.same_subject(seen[:, 0], known[:, 0], identity) + 0.5 * losses.same_patch(seen[:, 1:], grid)

    trainer = stage.trainer("dino", student, loss)
    stage.run("dino", student, trainer)


@torch.no_grad()
def watch_teacher(student: nn.Module, average: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The last hidden state (B, 1 + patches, D) of the student's running average."""
    return torch.func.functional_call(student, dict(average), (images,)).last_hidden_state


def kindred(pictures: JudgePictures, groups: int, size: int, generator: torch.Generator) -> Tensor:
    """Picture numbers (2 * groups * size,): groups of subjects of one kind, then the same subjects in other scenes.

    A kind is as likely as its subjects are many; one of few subjects may repeat them.
    """
    kinds = pictures.labels[::SCENES, 0]  # the first attribute, always visible
    subjects = []
    for leader in torch.randint(len(kinds), (groups,), generator=generator).tolist():
        kin = (kinds == kinds[leader]).nonzero()[:, 0]
        order = torch.randperm(len(kin), generator=generator).repeat(-(-size // len(kin)))
        subjects.append(kin[order[:size]])
    chosen = torch.cat(subjects)
    scenes = torch.rand(len(chosen), SCENES, generator=generator).argsort(-1)
    return torch.cat([chosen * SCENES + scenes[:, 0], chosen * SCENES + scenes[:, 1]])


def masks(count: int, places: int, generator: torch.Generator) -> Tensor:
    """Which patches the student doesn't see, bool (count, places): up to half of them in every other picture."""
    share = 0.5 * torch.rand(count, 1, generator=generator) * (torch.rand(count, 1, generator=generator) < 0.5)
    return torch.rand(count, places, generator=generator) < share


def normalised(images: Tensor) -> Tensor:
    """0..1 to -1..1, as `preprocessor_config.json` of the judges says."""
    return images * 2 - 1


# --- clip ------------------------------------------------------------------------------------------------------------


def train_clip(stage: _Stage) -> None:
    """Pictures and their captions, against other pictures' captions and against their own with one thing wrong."""
    config, pictures, device = stage.config, stage.pictures, stage.accelerator.device
    tokenizer = make_tokenizer(config.out / "clip", world.words())
    model = make_clip(tokenizer, config.init).to(device).train()
    shown = torch.tensor([facts(*pair) for pair in pictures.shown])

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = pictures.some(config.clip_batch, generator)
        images = normalised(pictures.batch(chosen, generator)).to(device)
        seeds = [f"{i} {int(torch.randint(2**31, (), generator=generator))}" for i in chosen.tolist()]
        pairs = [pictures.shown[i] for i in chosen.tolist()]
        texts = [world.caption(*pair, random.Random(seed)) for pair, seed in zip(pairs, seeds)]
        texts += [altered(*pair, seed) for pair, seed in zip(pairs, seeds)]
        words = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt").to(device)
        out = model(input_ids=words.input_ids, attention_mask=words.attention_mask, pixel_values=images)
        true = fits(texts, shown[chosen]).to(device)
        return losses.captions(out.image_embeds, out.text_embeds, true, model.logit_scale.exp().clamp(max=100))

    stage.run("clip", model, stage.trainer("clip", model, loss))


def make_clip(tokenizer: Any, init: Path | None) -> nn.Module:
    """A small CLIP with random weights, or the one to go on from."""
    from transformers import CLIPConfig, CLIPModel

    if init:
        return CLIPModel.from_pretrained(init / "clip", use_safetensors=True).float()
    special = dict(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPModel(
        CLIPConfig(
            text_config={**TEXT, **special, "max_position_embeddings": LENGTH, "projection_dim": SPACE},
            vision_config={**VISION, "image_size": SIZE, "patch_size": PATCH, "projection_dim": SPACE},
            projection_dim=SPACE,
        )
    )


TRAINERS = {"attributes": train_attributes, "dino": train_dino, "clip": train_clip, "segments": train_segments}
