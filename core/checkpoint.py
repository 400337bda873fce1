"""Real checkpoints, headless: folders in diffusers' layout, hub names, single safetensors files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .diffusers import DiffusersDenoiser
from .diffusion import Schedule
from .text import TextEncoder, Tower


@dataclass(frozen=True)
class Checkpoint:
    """A model ready for every method: U-Net, text and pictures."""

    denoiser: DiffusersDenoiser
    text: TextEncoder
    vae: Any

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to latents (B, C, H/8, W/8) in the scale that the U-Net knows; no sampling noise."""
        out = self.vae.encode((images * 2 - 1).to(self.vae.dtype))
        latents = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (latents.float() - shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures (B, 3, H, W) in 0..1."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        images = self.vae.decode((latents / self.vae.config.scaling_factor + shift).to(self.vae.dtype)).sample
        return (images.float() / 2 + 0.5).clamp(0, 1)


def load(name: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", config: str | None = None) -> Checkpoint:
    """Load SD1.x, SD2.x or SDXL.

    Args:
        name: a folder in diffusers' layout, a .safetensors checkpoint, or a hub name.
        config: for a single file, the folder or hub name of its architecture, if diffusers can't tell.

    Raises:
        FileNotFoundError: a path that doesn't exist.
        ValueError: a file that is not safetensors, or a model without a U-Net.
    """
    from diffusers import DiffusionPipeline

    path = Path(name)
    looks_local = path.suffix or path.is_absolute() or str(name).startswith(".")
    if looks_local and not path.exists():
        raise FileNotFoundError(f"no checkpoint at {name}; give a diffusers folder, a .safetensors file or a hub name")
    if path.is_file():
        pipe = _single_file(path, dtype, config)
    else:
        pipe = DiffusionPipeline.from_pretrained(str(name), torch_dtype=dtype, use_safetensors=True)
    return from_pipeline(pipe, device)


def _single_file(path: Path, dtype: torch.dtype, config: str | None) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is not a .safetensors file; other formats can run code when opened, convert it first")
    try:
        with safe_open(path, "pt") as f:
            is_xl = any(k.startswith("conditioner.embedders.1.") for k in f.keys())
    except SafetensorError as e:
        raise ValueError(f"{path.name} can't be read as safetensors ({e}); the download may be incomplete") from e
    pipeline = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    return pipeline.from_single_file(str(path), torch_dtype=dtype, config=config)


def from_pipeline(pipe: Any, device: str = "cpu") -> Checkpoint:
    """The parts of a diffusers text-to-image pipeline, frozen and in evaluation mode."""
    if getattr(pipe, "unet", None) is None:
        raise ValueError(f"{type(pipe).__name__} has no U-Net; Likeness works on SD1.x, SD2.x and SDXL")
    second = getattr(pipe, "text_encoder_2", None)
    towers = [Tower(pipe.tokenizer, pipe.text_encoder, -1 if second is None else -2)]
    if second is not None:
        towers.append(Tower(pipe.tokenizer_2, second, -2))
    for module in (pipe.unet, pipe.vae, *(tower.model for tower in towers)):
        module.to(device).eval().requires_grad_(False)
    schedule = Schedule.from_scheduler(pipe.scheduler)
    return Checkpoint(DiffusersDenoiser(pipe.unet, schedule), TextEncoder(tuple(towers)), pipe.vae)
