"""Real checkpoints, headless: folders in diffusers' layout, hub names, single safetensors files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .diffusers import DiffusersDenoiser
from .diffusion import Schedule
from .text import TextEncoder, Tower

WEIGHTS = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}
PARTS = ("unet", "vae", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")


@dataclass(frozen=True)
class Checkpoint:
    """A model ready for every method: U-Net, text and pictures."""

    denoiser: DiffusersDenoiser
    text: TextEncoder
    vae: Any

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to latents (B, C, H/8, W/8) in the U-Net's scale; the mean, not a sample."""
        out = self.vae.encode((images * 2 - 1).to(self.vae.device, self.vae.dtype))
        latents = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (latents.float() - shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures (B, 3, H, W) in 0..1."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        latents = (latents / self.vae.config.scaling_factor + shift).to(self.vae.device, self.vae.dtype)
        images = self.vae.decode(latents).sample
        return (images.float() / 2 + 0.5).clamp(0, 1)


def load(
    name: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", config: str | None = None
) -> Checkpoint:
    """Load SD1.x, SD2.x or SDXL.

    Args:
        name: a folder in diffusers' layout, a .safetensors checkpoint, or a hub name.
        config: for a single file, the folder or hub name of its architecture, if diffusers can't tell.

    Raises:
        FileNotFoundError: a path that doesn't exist, or a folder that is no model.
        ValueError: a file that is not safetensors, or a model without a U-Net.
    """
    path = Path(name)
    looks_local = path.suffix in WEIGHTS or path.is_absolute() or str(name).startswith(".")
    if looks_local and not path.exists():
        raise FileNotFoundError(f"no checkpoint at {name}; give a diffusers folder, a .safetensors file or a hub name")
    if path.is_file():
        return _from_parts(_single_file(path, config), dtype, device)
    if not path.is_dir():
        from diffusers import DiffusionPipeline

        path = Path(DiffusionPipeline.download(path.as_posix(), use_safetensors=True))
    return _from_parts(_folder(path), dtype, device)


def _folder(path: Path) -> dict[str, Any]:
    """The parts of a diffusers folder. Loaded one by one: a pipeline brings image processors that nobody here needs."""
    import diffusers
    import transformers

    if not (path / "model_index.json").is_file():
        raise FileNotFoundError(f"{path} is no model in diffusers' layout: it has no model_index.json")
    index = json.loads((path / "model_index.json").read_text())
    libraries = {"diffusers": diffusers, "transformers": transformers}
    return {
        part: getattr(libraries[index[part][0]], index[part][1]).from_pretrained(path / part)
        for part in PARTS
        if index.get(part, [None])[0] in libraries
    }


def _single_file(path: Path, config: str | None) -> dict[str, Any]:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is not a .safetensors file; other formats can run code when opened: convert it")
    try:
        with safe_open(path, "pt") as f:
            is_xl = any(k.startswith("conditioner.embedders.1.") for k in f.keys())  # noqa: SIM118 (not a mapping)
    except SafetensorError as e:
        raise ValueError(f"{path.name} can't be read as safetensors ({e}); the download may be incomplete") from e
    pipeline = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    return pipeline.from_single_file(str(path), config=config).components


def _from_parts(parts: dict[str, Any], dtype: torch.dtype, device: str) -> Checkpoint:
    if parts.get("unet") is None:
        raise ValueError("this checkpoint has no U-Net; Likeness works on SD1.x, SD2.x and SDXL")
    second = parts.get("text_encoder_2")
    towers = [Tower(parts["tokenizer"], parts["text_encoder"], -1 if second is None else -2)]
    if second is not None:
        towers.append(Tower(parts["tokenizer_2"], second, -2))
    for module in (parts["unet"], parts["vae"], *(tower.model for tower in towers)):
        module.to(device).eval().requires_grad_(False)
        # SDXL's autoencoder says that it overflows in half precision
        keep = dtype == torch.float16 and getattr(module.config, "force_upcast", False)
        if module.dtype != dtype and not keep:
            module.to(dtype)
    schedule = Schedule.from_scheduler(parts["scheduler"])
    return Checkpoint(DiffusersDenoiser(parts["unet"], schedule), TextEncoder(tuple(towers)), parts["vae"])
