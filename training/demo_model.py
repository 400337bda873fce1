"""The embedded base model, trained from scratch on the demo world: `likeness train demo-model`.

Three parts in Stable Diffusion's shape: an autoencoder of TAESD architecture, a small CLIP text encoder with a
CLIP-format tokenizer, and a U-Net with ten cross-attention layers. The text encoder learns together with the U-Net.
All sizes and losses here are ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import files
from ..core.demo import world
from ..core.diffusion import Schedule
from . import demo_export as export
from . import loop
from .processes import accelerated
from .tokenizer import LENGTH, make_tokenizer
from .weighting import snr_weight

VAE = dict(latent_channels=4, scaling_factor=1.0)
TEXT = dict(
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    projection_dim=192,
    max_position_embeddings=LENGTH,
    hidden_act="quick_gelu",
)
UNET = dict(
    sample_size=16,
    block_out_channels=(64, 128, 128),
    layers_per_block=1,
    cross_attention_dim=192,
    attention_head_dim=4,
    down_block_types=("CrossAttnDownBlock2D",) * 3,
    up_block_types=("CrossAttnUpBlock2D",) * 3,
)
SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)
Watch = Callable[[str, loop.Progress], None]


@dataclass(frozen=True)
class Config:
    """Train the embedded base model.

    Args:
        out: folder for the model, in diffusers' layout.
        work: folder for rendered pictures and checkpoints; a second run resumes from it.
        init: folder of a model to go on from.
        pictures: size of the training set.
        vae: training of the autoencoder, on square crops.
        unet: training of U-Net and text encoder.
        vae_batch: crops a step.
        vae_crop: their width in pixels.
        unet_batch: latents a step.
        bare: share of the prompts whose padding is another prompt's, so that each word's own token learns to speak.
        keep_encoder: train the decoder of `init` alone; its latents, and so its U-Net, stay valid.
        threads: CPU threads; give it only cores that nothing else uses.
    """

    out: Path = Path("runs/demo-model")
    work: Path = Path("runs/demo-model-work")
    init: Path | None = None
    pictures: int = 8000
    vae: loop.Settings = field(
        default_factory=lambda: loop.Settings(steps=20000, lr=8e-4, warmup=50, decay=0.7, ema=0.998, every=500)
    )
    unet: loop.Settings = field(
        default_factory=lambda: loop.Settings(
            steps=3300, lr=1e-3, warmup=100, decay=0.6, ema=0.998, weight_decay=0.01, every=250
        )
    )
    vae_batch: int = 4
    vae_crop: int = 64
    unet_batch: int = 32
    bare: float = 0.5
    keep_encoder: bool = False
    threads: int = 2


def train(config: Config, watch: Watch | None = None) -> Path:
    """All stages, each resumed where it stopped, on Accelerate's device; returns the folder of the finished model.

    Raises:
        ValueError: keep_encoder without init.
        LearnedFileError: the work folder holds a checkpoint of a training with other settings.
    """
    if config.keep_encoder and config.init is None:
        raise ValueError("keep_encoder: there is no encoder to keep; name the model to go on from with --init")
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.unet.seed)
    with accelerated() as accelerator:
        config.work.mkdir(parents=True, exist_ok=True)
        pictures = Pictures.render(config.pictures, config.work / f"pictures-{config.pictures}.safetensors")
        vae = train_vae(config, pictures, accelerator, watch)
        tokenizer = make_tokenizer(config.out / "tokenizer", world.words())
        known = files.fingerprint({**vae.encoder.state_dict(), "pictures": pictures.images[-1]})
        latents = encode(vae, pictures, config.work / f"latents-{known}.safetensors", accelerator)
        unet, text, loss = train_unet(config, pictures, latents, tokenizer, accelerator, watch)
        if accelerator.is_main_process:
            export.save(config, SCHEDULER, vae.cpu(), unet.cpu(), text.cpu(), loss)
    return config.out


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass
class Pictures:
    """Rendered training pictures, uint8 (N, 3, 128, 128), and what each shows."""

    images: Tensor
    shown: list[tuple[world.Subject, world.Scene]]

    @classmethod
    def render(cls, count: int, cache: Path) -> Pictures:
        """The world's pictures of seeds 0..count-1, from the cache where it is complete."""
        return cls(rendered(count, cache, "pictures", _image), [world.sample_scene(seed) for seed in range(count)])

    def crops(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Random square crops in 0..1, (count, 3, size, size)."""
        room = self.images.shape[-1] - size + 1
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        corners = torch.randint(room, (count, 2), generator=generator).tolist()
        return torch.stack([self.images[i, :, y : y + size, x : x + size] for i, (y, x) in zip(chosen, corners)]) / 255

    def captions(self, indices: list[int], seed: int) -> list[str]:
        """A fresh caption for each picture."""
        return [world.caption(*self.shown[i], random.Random(f"{seed}-{i}")) for i in indices]


def rendered(count: int, cache: Path, kind: str, draw: Callable[[int], Any]) -> Tensor:
    """What a function of the module's top level draws for seeds 0..count-1, from the cache where it is complete."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    images = files.load(cache, kind=kind)[0]["images"] if cache.exists() else torch.empty(0)
    # a cache from before the world was redrawn does not fit its captions
    if not len(images) or any((images[i].numpy() != draw(i)).any() for i in (0, count // 2, count - 1)):
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            images = torch.stack([torch.from_numpy(a) for a in pool.map(draw, range(count), chunksize=50)])
        files.save(cache, {"images": images}, files.Header(kind=kind))
    return images


def _image(seed: int):
    # arrays, since each tensor sent between processes would hold a file open
    return (world.sample(seed).image * 255).round().to(torch.uint8).numpy()


# --- autoencoder -----------------------------------------------------------------------------------------------------


def train_vae(config: Config, pictures: Pictures, accelerator: Any, watch: Watch | None) -> nn.Module:
    """TAESD's architecture on crops: errors of colours and of their differences, latents held near N(0, 1)."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(config.init / "vae") if config.init else AutoencoderTiny(**VAE)
    device = accelerator.device
    vae.to(device, memory_format=torch.channels_last)
    parameters = dict(vae.decoder.named_parameters() if config.keep_encoder else vae.named_parameters())

    def loss(step: int, generator: torch.Generator) -> Tensor:
        x = pictures.crops(config.vae_batch, config.vae_crop, generator).to(device) * 2 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(not config.keep_encoder):
            z = vae.encode(x).latents
        # noise makes the decoder forgive what a diffusion model gets slightly wrong
        y = vae.decode(z + 0.02 * torch.randn(z.shape, generator=generator).to(device)).sample
        spread = z.mean((0, 2, 3)).square().mean() + (z.std((0, 2, 3)) - 1).square().mean()
        # at first three channels are asked to be the colours at latent size: colour is learned in minutes, not hours
        hint = 0.0 if config.init else max(0.0, 0.3 * (1 - step / (0.3 * config.vae.steps)))
        colour = (z[:, :3] - 2 * nn.functional.avg_pool2d(x, 8)).square().mean()
        wrong = y - x
        error = 4 * wrong.square().mean() + 0.5 * wrong.abs().mean() + 0.5 * _edges(wrong)
        return error + 0.02 * spread + hint * colour

    _fit("decoder" if config.keep_encoder else "vae", parameters, loss, config.vae, config, accelerator, watch)
    return vae.eval().requires_grad_(False)


def _edges(x: Tensor) -> Tensor:
    return x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()


@torch.no_grad()
def encode(vae: nn.Module, pictures: Pictures, cache: Path, accelerator: Any = None) -> Tensor:
    """Latents of the whole set, (N, 4, 16, 16), made in the accelerator's precision."""
    if cache.exists():
        return files.load(cache, kind="latents")[0]["latents"]
    parts = []
    with accelerator.autocast() if accelerator else nullcontext():
        for chunk in pictures.images.split(16):
            pixels = (chunk.to(vae.device) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            parts.append(vae.encode(pixels).latents.float().cpu().contiguous())  # as from the cache
    files.save(cache, {"latents": torch.cat(parts)}, files.Header(kind="latents"))
    return torch.cat(parts)


# --- text and U-Net --------------------------------------------------------------------------------------------------


def make_text_encoder(tokenizer: Any) -> nn.Module:
    """A small CLIP text encoder with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        **TEXT,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def train_unet(
    config: Config, pictures: Pictures, latents: Tensor, tokenizer: Any, accelerator: Any, watch: Watch | None
) -> tuple[nn.Module, nn.Module, float]:
    """U-Net and text encoder on noise prediction, weighted by SNR, one prompt in ten dropped."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    if config.init:
        unet = UNet2DConditionModel.from_pretrained(config.init / "unet")
        text = CLIPTextModel.from_pretrained(config.init / "text_encoder").float()
    else:
        unet, text = UNet2DConditionModel(**UNET), make_text_encoder(tokenizer)
    device = accelerator.device
    unet.to(device, memory_format=torch.channels_last)
    text.to(device)
    schedule = Schedule.from_scheduler(SCHEDULER)
    weight = snr_weight(schedule)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        size = config.unet_batch
        chosen = torch.randint(len(latents), (size,), generator=generator)
        captions = pictures.captions(chosen.tolist(), int(torch.randint(2**31, (), generator=generator)))
        dropped = torch.rand(size, generator=generator) < 0.1
        captions = ["" if d else c for c, d in zip(captions, dropped)]
        t = schedule.stratified(size, generator)
        z0, eps = latents[chosen], torch.randn(latents[chosen].shape, generator=generator)
        bare = (torch.rand(size, generator=generator) < config.bare) & ~dropped
        ids = tokenizer([*captions, ""], padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids.to(
            device
        )
        words = swap_padding(text(ids).last_hidden_state, ids == tokenizer.eos_token_id, bare.to(device))
        noisy = schedule.noise(z0, eps, t).to(device)
        answer = unet(noisy, t.to(device), words, return_dict=False)[0]
        return ((answer - eps.to(device)).square().mean((1, 2, 3)) * weight[t].to(device)).mean()

    parameters = {f"unet.{k}": p for k, p in unet.named_parameters()}
    parameters |= {f"text.{k}": p for k, p in text.named_parameters()}
    final = _fit("unet", parameters, loss, config.unet, config, accelerator, watch)
    return unet.eval(), text.eval(), final


def swap_padding(tokens: Tensor, ended: Tensor, swapped: Tensor) -> Tensor:
    """Give some prompts the end and padding of the prompt before them, so that only their words can be trusted.

    A causal text encoder's padding knows the whole prompt, and there is much of it: without this the model reads
    everything off the padding, and no word's own attention column means anything.

    Args:
        tokens: text tokens, (B + 1, L, width); the last row is the null text.
        ended: bool, (B + 1, L): end token and padding.
        swapped: bool, (B,): which prompts.

    Returns:
        (B, L, width).
    """
    # where the other prompt still has words, the null text's padding
    strange = torch.where(ended[:-1].roll(1, 0)[..., None], tokens[:-1].roll(1, 0), tokens[-1:])
    return torch.where((swapped[:, None] & ended[:-1])[..., None], strange, tokens[:-1])


# --- common ----------------------------------------------------------------------------------------------------------


def _fit(
    name: str,
    parameters: Mapping[str, Tensor],
    loss: loop.Loss,
    settings: loop.Settings,
    config: Config,
    accelerator: Any,
    watch: Watch | None,
) -> float:
    """Train one stage, leave its best weights in the parameters; returns the recent loss."""
    start = files.fingerprint(parameters) if config.init else ""
    identity = f"{start} {config.pictures} {config.vae_batch} {config.vae_crop} {config.unet_batch} {config.bare}"
    trainer = loop.Trainer(parameters, loss, settings, config.work / f"{name}.safetensors", identity, accelerator)
    best = trainer.run(watch and (lambda progress: watch(name, progress)))
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(best[key])
    return trainer.recent
