"""LoRAs for the embedded base model, a style or a subject: `likeness train demo-lora`.

The style turns everything into a print in two inks, learned from the demo world's own pictures with their brightness
mapped to a ramp of two colours. Captions stay as they are and there is no trigger word: the style is in force wherever
the LoRA is. The subject is learned from a few photos of one individual as DreamBooth does it, without its rare word and
its class pictures: the class word becomes the subject. The style and all sizes here are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import checkpoint, files
from ..core.attention import base_of
from ..core.demo import MODEL, world
from . import loop
from .demo_model import Pictures, encode
from .processes import accelerated
from .tokenizer import LENGTH
from .weighting import snr_weight

KIND = "lora"
LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
LUMA = (0.299, 0.587, 0.114)
Colour = tuple[int, int, int]
Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Config:
    """Train a style LoRA, or a subject's, for the embedded model.

    Args:
        out: LoRA file to write, in kohya's naming, which ComfyUI and diffusers read.
        work: folder for rendered pictures, latents and the checkpoint; a second run resumes from it.
        model: folder of the base model.
        subject: learn a subject instead of the style: the first held-out one of this kind of the world, as car.
        photos: of the subject; the Demo Subject node's with seed 0.
        pictures: size of the style's training set.
        ink: colour of what is dark, red, green and blue in 0..255.
        paper: colour of what is bright.
        contrast: steepness of the ramp around middle grey; 1 leaves brightness as it is.
        rank: of the change of each attention projection of the U-Net.
        batch: latents a step.
        loop: steps and learning rate.
        threads: CPU threads; give it only cores that nothing else uses.
    """

    out: Path = Path("duotone.safetensors")
    work: Path = Path("runs/demo-lora-work")
    model: Path = MODEL
    subject: str = ""
    photos: int = 5
    pictures: int = 1000
    ink: Colour = (48, 12, 120)
    paper: Colour = (255, 184, 148)
    contrast: float = 1.6
    rank: int = 6
    batch: int = 16
    loop: loop.Settings = field(
        default_factory=lambda: loop.Settings(steps=450, lr=4e-3, warmup=20, decay=0.6, ema=0.98, every=50)
    )
    threads: int = 2


def train(config: Config, watch: Callable[[str, loop.Progress], None] | None = None) -> Path:
    """Train, resumed where it stopped, on Accelerate's device; returns the finished file.

    Raises:
        FileNotFoundError: no model there.
        LearnedFileError: the work folder holds a checkpoint of a training with other settings, pictures or base.
    """
    torch.set_num_threads(config.threads)
    with accelerated() as accelerator:
        model = checkpoint.load(config.model, device=str(accelerator.device))
        config.work.mkdir(parents=True, exist_ok=True)
        pictures = subject_photos(config) if config.subject else style_pictures(config)
        known = files.fingerprint({**model.vae.encoder.state_dict(), "pictures": pictures.images})
        latents = encode(model.vae, pictures, config.work / f"latents-{known}.safetensors")
        (tower,) = model.text.towers
        unet, text = weights_hash(model.denoiser.unet), weights_hash(tower.model)
        parameters = add_lora(model.denoiser.unet, config.rank, config.loop.seed)
        trainer = loop.Trainer(
            parameters,
            make_loss(model, pictures, latents, config.batch),
            config.loop,
            config.work / f"{config.subject or 'lora'}.safetensors",
            f"{unet} {text} {known} {config.rank} {config.batch}",
            accelerator,
        )
        learned = trainer.run(watch and (lambda progress: watch("lora", progress)))
        if accelerator.is_main_process:
            base = base_of(model.denoiser.sites)
            header = files.Header(KIND, base, settings=settings_of(config, trainer), source=unet)
            files.save(config.out, kohya(learned, config.rank), header)
    return config.out


def settings_of(config: Config, trainer: loop.Trainer) -> dict[str, Any]:
    """What the file says about its training."""
    data = ("subject", "photos") if config.subject else ("pictures", "ink", "paper", "contrast")
    own = {k: getattr(config, k) for k in (*data, "rank", "batch")}
    return {**own, **vars(config.loop), "steps": trainer.step, "loss": round(trainer.recent, 4)}


def weights_hash(module: nn.Module) -> str:
    """Of the weights in half precision, as the model's card has it."""
    return files.fingerprint({k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()})


def style_pictures(config: Config) -> Pictures:
    """The world's pictures as prints."""
    pictures = Pictures.render(config.pictures, config.work / f"pictures-{config.pictures}.safetensors")
    return Pictures(duotone(pictures.images, config.ink, config.paper, config.contrast), pictures.shown)


def subject_photos(config: Config) -> Pictures:
    """Photos of one subject from the front, each in another place; ValueError for an unknown kind."""
    (subject,) = world.held_out_subjects(1, config.subject)
    shots = world.photos(subject, config.photos, style="photo", view="front", accessory=None)
    images = torch.stack([(shot.image * 255).round().to(torch.uint8) for shot in shots])
    return Pictures(images, [(shot.subject, shot.scene) for shot in shots])


def duotone(images: Tensor, ink: Colour, paper: Colour, contrast: float) -> Tensor:
    """Pictures uint8 (N, 3, H, W) as a print: brightness, around middle grey, on a ramp from ink to paper."""
    weights, dark, bright = (torch.tensor(c, dtype=torch.float32).view(3, 1, 1) for c in (LUMA, ink, paper))

    def one(image: Tensor) -> Tensor:
        grey = (image * weights).sum(0, keepdim=True) / 255
        share = ((grey - 0.5) * contrast + 0.5).clamp(0, 1)
        return (dark + (bright - dark) * share).round().to(torch.uint8)

    return torch.stack([one(image) for image in images])


# --- LoRA ------------------------------------------------------------------------------------------------------------


def add_lora(unet: Any, rank: int, seed: int) -> dict[str, Tensor]:
    """Give every attention projection a change of this rank that is nothing yet; returns the trainable parameters."""
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws the first factors from the global generator
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS))
    return {name: p for name, p in unet.named_parameters() if p.requires_grad}


def kohya(parameters: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """peft's factors in half precision under the names that every program reads."""
    tensors = {}
    for name, weight in parameters.items():
        layer, factor = name.removesuffix(".default.weight").rsplit(".lora_", 1)
        key = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{key}.lora_{'down' if factor == 'A' else 'up'}.weight"] = weight.half()
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    return tensors


def make_loss(
    model: checkpoint.Checkpoint,
    pictures: Pictures,
    latents: Tensor,
    batch: int,
    silent: float = 0.1,
    predict: Predict | None = None,
) -> loop.Loss:
    """Noise prediction as the base was trained, weighted by SNR.

    Args:
        silent: share of the prompts that are dropped.
        predict: (z (B, C, h, w), t (B,), text tokens, numbers of the pictures (B,)) to the noise; the U-Net by default.
    """
    unet, schedule, (tower,) = model.denoiser.unet, model.denoiser.schedule, model.text.towers
    weight, device = snr_weight(schedule), unet.device

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        captions = pictures.captions(chosen.tolist(), int(torch.randint(2**31, (), generator=generator)))
        dropped = torch.rand(batch, generator=generator) < silent
        captions = ["" if d else c for c, d in zip(captions, dropped)]
        ids = tower.tokenizer(captions, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
        with torch.no_grad():
            words = tower.model(ids.to(device)).last_hidden_state
        t = schedule.stratified(batch, generator)
        z0, eps = latents[chosen], torch.randn(latents[chosen].shape, generator=generator)
        noisy, times = schedule.noise(z0, eps, t).to(device), t.to(device)
        answer = predict(noisy, times, words, chosen) if predict else unet(noisy, times, words, return_dict=False)[0]
        return ((answer - eps.to(device)).square().mean((1, 2, 3)) * weight[t].to(device)).mean()

    return loss
