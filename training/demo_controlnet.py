"""A depth ControlNet for the embedded base model, as a Control-LoRA: `likeness train demo-controlnet`.

It learns from the demo world's own depth: the copied encoder at a low rank, what sees the hint and the zero
convolutions whole. The base stays as it is. All sizes here are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import checkpoint, control_lora, files, weights
from ..core.attention import base_of
from ..core.demo import MODEL, world
from . import loop
from .demo_lora import make_loss, weights_hash
from .demo_model import Pictures, encode, rendered
from .processes import accelerated


@dataclass(frozen=True)
class Config:
    """Train a depth ControlNet for the embedded model.

    Args:
        out: Control-LoRA to write, which ComfyUI reads.
        work: folder for rendered pictures, latents and the checkpoint; a second run resumes from it.
        model: folder of the base model.
        pictures: size of the training set.
        rank: of the change of each layer of the copied encoder.
        silent: share of the prompts that are dropped, so that depth learns to speak for itself.
        batch: latents a step.
        loop: steps and learning rate.
        threads: CPU threads; give it only cores that nothing else uses.
    """

    out: Path = Path("depth.safetensors")
    work: Path = Path("runs/demo-controlnet-work")
    model: Path = MODEL
    pictures: int = 3000
    rank: int = 16
    silent: float = 0.3
    batch: int = 16
    loop: loop.Settings = field(
        default_factory=lambda: loop.Settings(steps=1200, lr=1e-3, warmup=50, decay=0.5, ema=0.99, every=100)
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
        pictures, depth = render(config.pictures, config.work / f"depth-{config.pictures}.safetensors")
        known = files.fingerprint({**model.vae.encoder.state_dict(), "pictures": pictures.images, "depth": depth})
        latents = encode(model.vae, pictures, config.work / f"latents-{known}.safetensors")
        (tower,) = model.text.towers
        unet, text = weights_hash(model.denoiser.unet), weights_hash(tower.model)
        network, parameters = begin(model.denoiser.unet, config.rank, config.loop.seed)

        def predict(z: Tensor, t: Tensor, words: Tensor, chosen: Tensor) -> Tensor:
            return under(model.denoiser.unet, network, z, t, words, hints(depth[chosen]).to(z.device))

        trainer = loop.Trainer(
            parameters,
            make_loss(model, pictures, latents, config.batch, config.silent, predict),
            config.loop,
            config.work / "controlnet.safetensors",
            f"{unet} {text} {known} {config.rank} {config.silent} {config.batch}",
            accelerator,
        )
        learned = trainer.run(watch and (lambda progress: watch("controlnet", progress)))
        if accelerator.is_main_process:
            base, settings = base_of(model.denoiser.sites), settings_of(config, trainer)
            header = files.Header(control_lora.KIND, base, settings=settings, source=unet)
            files.save(config.out, control_lora.pack(learned, control_lora.ldm_names(network)), header)
    return config.out


def settings_of(config: Config, trainer: loop.Trainer) -> dict[str, Any]:
    """What the file says about its training."""
    own = {k: getattr(config, k) for k in ("pictures", "rank", "silent", "batch")}
    return {**own, **vars(config.loop), "steps": trainer.step, "loss": round(trainer.recent, 4)}


# --- pictures and their depth ----------------------------------------------------------------------------------------


def render(count: int, cache: Path) -> tuple[Pictures, Tensor]:
    """The world's pictures of seeds 0..count-1 and their depth, uint8 (N, 1, 128, 128), 255 nearest."""
    images, depth = rendered(count, cache, "depth", _drawn).split((3, 1), 1)
    return Pictures(images, [world.sample_scene(seed) for seed in range(count)]), depth


def _drawn(seed: int):
    """Picture and depth, (4, 128, 128); an array, since each tensor sent between processes would hold a file open."""
    picture = world.sample(seed)
    return (torch.cat([picture.image, picture.depth]) * 255).round().to(torch.uint8).numpy()


# --- ControlNet ------------------------------------------------------------------------------------------------------


def begin(unet: Any, rank: int, seed: int) -> tuple[Any, dict[str, Tensor]]:
    """A ControlNet that changes nothing yet, and what of it is trained, under `control_lora.pack`'s names."""
    from diffusers import ControlNetModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for the layers that see the hint, and the first factors
        network = ControlNetModel.from_unet(unet).eval().requires_grad_(False)
        _open_eyes(network.controlnet_cond_embedding)
        layers = weights.layers_of(network)
        whole = {name: layer for name, layer in layers.items() if name.startswith(control_lora.WHOLE)}
        low = weights.blank({name: layer for name, layer in layers.items() if name not in whole}, rank)
    for module in (network, low, unet):
        module.to(unet.device, memory_format=torch.channels_last)  # a seventh less time on a CPU
    for name in low.layers:
        layers[name].register_forward_hook(_changed(low, name))
    parameters = {f"{n}/{part}": p.requires_grad_() for n, m in whole.items() for part, p in m.named_parameters()}
    return network, {**parameters, **low.whole()}


def _open_eyes(embedding: nn.Module) -> None:
    """Start the layers that see the hint so that it arrives (He et al. 2015), also in the last one **[ours]**.

    As diffusers starts them a depth map's effect shrinks to a hundred-thousandth of the latent's. The zero convolutions
    alone make the ControlNet nothing at first.
    """
    for layer in weights.layers_of(embedding).values():
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


def _changed(low: weights.Delta, name: str) -> Callable[..., Tensor]:
    return lambda layer, args, output: output + low(name, layer, args[0])


def hints(depth: Tensor) -> Tensor:
    """Depth uint8 (B, 1, H, W) as a ControlNet sees it, (B, 3, H, W) in 0..1, 1 nearest."""
    return depth.expand(-1, 3, -1, -1) / 255


def under(unet: Any, network: Any, z: Tensor, t: Tensor, words: Tensor, hint: Tensor) -> Tensor:
    """The U-Net's answer under the ControlNet, with gradients."""
    down, middle = network(z, t, words, hint, return_dict=False)
    control = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return unet(z, t, words, **control, return_dict=False)[0]
