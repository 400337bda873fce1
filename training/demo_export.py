"""The trained demo model as a folder in diffusers' layout, with its card."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core import files
from ..core.demo import world


def save(config: Any, scheduler: dict, vae: nn.Module, unet: nn.Module, text: nn.Module, loss: float) -> Path:
    """Half-precision weights in diffusers' layout, with a model card."""
    from diffusers import DDIMScheduler

    quality = psnr(vae, range(HELD_OUT, HELD_OUT + 64))
    for name, model in (("vae", vae), ("unet", unet), ("text_encoder", text)):
        model.half().save_pretrained(config.out / name, safe_serialization=True)
    _drop(config.out / "vae" / "config.json", "block_out_channels", "_name_or_path")
    _drop(config.out / "unet" / "config.json", "_name_or_path")
    DDIMScheduler(**scheduler).save_pretrained(config.out / "scheduler")
    index = dict(
        _class_name="StableDiffusionPipeline",
        vae=["diffusers", "AutoencoderTiny"],
        unet=["diffusers", "UNet2DConditionModel"],
        text_encoder=["transformers", "CLIPTextModel"],
        tokenizer=["transformers", "CLIPTokenizer"],
        scheduler=["diffusers", "DDIMScheduler"],
        safety_checker=[None, None],
        feature_extractor=[None, None],
        requires_safety_checker=False,
    )
    files.write_atomically(config.out / "model_index.json", json.dumps(index, indent=2).encode())
    parts = {"U-Net": unet, "text": text, "VAE": vae}
    card = CARD.format(
        vae=f"{config.vae.steps} steps of {config.vae_batch} crops of {config.vae_crop} pixels, seed {config.vae.seed}",
        unet=f"{config.unet.steps} steps of {config.unet_batch}, seed {config.unet.seed}",
        psnr=quality,
        loss=loss,
        pictures=config.pictures,
        last=config.pictures - 1,
        start="; all parts went on from an earlier model" if config.init else "",
        parameters={name: sum(p.numel() for p in m.parameters()) for name, m in parts.items()},
        hashes=", ".join(f"{name} `{files.fingerprint(m.state_dict())}`" for name, m in parts.items()),
    )
    files.write_atomically(config.out / "README.md", card.encode())
    return config.out


CARD = """# The embedded demo model

A tiny Stable Diffusion, trained from scratch on the demo world by `likeness train demo-model`. It draws 128x128
pictures of that world and nothing else; it knows about 60 words.

| part | parameters | trained | result |
|---|---|---|---|
| autoencoder, TAESD architecture | {parameters[VAE]:,} | {vae} | {psnr:.1f} dB PSNR on 64 unseen pictures |
| U-Net, ten cross-attention layers | {parameters[U-Net]:,} | {unet} | recent SNR-weighted loss {loss:.4f} |
| CLIP text encoder | {parameters[text]:,} | together with the U-Net | |

Training set: {pictures} pictures of the world, seeds 0 to {last}{start}. Weights are running averages, stored in half
precision. Noise schedule and noise prediction are Stable Diffusion 1.5's.

Hashes of the weights: {hashes}.
"""
HELD_OUT = 10_000_000  # first seed of pictures that no training sees


@torch.no_grad()
def psnr(vae: nn.Module, seeds: Iterable[int]) -> float:
    """Mean PSNR in dB of the autoencoder's round trip over pictures of the world."""
    values = []
    for seed in seeds:
        x = world.sample(seed).image[None]
        y = vae.decode(vae.encode(x * 2 - 1).latents).sample / 2 + 0.5
        values.append(-10 * torch.log10((y.clamp(0, 1) - x).square().mean()))
    return float(torch.stack(values).mean())


def _drop(path: Path, *keys: str) -> None:
    """Remove what diffusers writes but warns about when it reads it back, or where the model came from."""
    settings = {k: v for k, v in json.loads(path.read_text()).items() if k not in keys}
    files.write_atomically(path, json.dumps(settings, indent=2).encode())
