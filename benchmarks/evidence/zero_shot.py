"""Baselines that see a subject's photo without learning it: an IP-Adapter and InstructPix2Pix.

Networks are diffusers' own, weights lie in the layouts of the published ones, so those can take their place. For the
demo world both are trained here on the renderer's subjects, of which none is among those that are measured.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from grid import Case
from likeness.core import files
from likeness.core.demo import world
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from likeness.training import loop
from likeness.training.data.examples import Example, Load, rendered_pairs
from likeness.training.weighting import snr_weight
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from .bench import Bench
from .learned import Customised, plain

Watch = Callable[[loop.Progress], None]
IP_ADAPTER, PIX2PIX = "ip-adapter.safetensors", "instruct-pix2pix"
TOKENS = 4  # of an image prompt, as published
RESTYLED = 4  # every which edit of InstructPix2Pix's training changes the style, as among the prompts that are measured
DROP = 0.05  # of each condition alone, and of both, as in both papers' trainings


# --- IP-Adapter ------------------------------------------------------------------------------------------------------


def blank_ip_adapter(unet: UNet2DConditionModel, width: int, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Weights as h94/IP-Adapter lays them out: keys and values begin as the text's, the projection at random.

    Args:
        width: of the image embedding.
    """
    context = unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(TOKENS * context, width, generator=generator) * width**-0.5
    layers, number = {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            layer = unet.get_submodule(name.removesuffix(".processor"))
            layers[f"{number}.to_k_ip.weight"] = layer.to_k.weight.detach().clone()
            layers[f"{number}.to_v_ip.weight"] = layer.to_v.weight.detach().clone()
            number += 2
    image = {"proj.weight": projection, "proj.bias": torch.zeros(TOKENS * context)}
    image |= {"norm.weight": torch.ones(context), "norm.bias": torch.zeros(context)}
    return {"image_proj": image, "ip_adapter": layers}


def with_ip_adapter(bench: Bench, weights: Mapping[str, Mapping[str, Tensor]]) -> DiffusersDenoiser:
    """A copy of the model with an IP-Adapter, put in by diffusers."""
    unet = copy.deepcopy(bench.model.denoiser.unet)
    unet._load_ip_adapter_weights([weights], low_cpu_mem_usage=False)
    return DiffusersDenoiser(unet, bench.model.denoiser.schedule)


def read_ip_adapter(path: Path) -> dict[str, dict[str, Tensor]]:
    """A published or trained file."""
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(path).items():
        part, rest = name.split(".", 1)
        parts[part][rest] = tensor.float()
    return parts


def written_ip_adapter(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The weights of a U-Net's IP-Adapter under the names of the published files."""
    (projection,) = unet.encoder_hid_proj.image_projection_layers
    names = {"image_embeds.weight": "proj.weight", "image_embeds.bias": "proj.bias"}
    tensors = {f"image_proj.{names.get(k, k)}": v for k, v in projection.state_dict().items()}
    number = 1
    for processor in unet.attn_processors.values():
        if isinstance(processor, IPAdapterAttnProcessor2_0):
            tensors[f"ip_adapter.{number}.to_k_ip.weight"] = processor.to_k_ip[0].weight
            tensors[f"ip_adapter.{number}.to_v_ip.weight"] = processor.to_v_ip[0].weight
            number += 2
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}


def prompted(text: Text, embedding: Tensor) -> Text:
    """A prompt with an image prompt, (1 or B, width)."""
    return Text(
        text.tokens,
        text.words,
        text.conditional,
        {"added_cond_kwargs": {"image_embeds": [embedding[:, None].to(text.tokens)]}},
    )


@dataclass(frozen=True)
class Scale:
    """How much an image prompt counts beside the text."""

    scale: float = 1.0


def ip_adapter(bench: Bench, case: Case, path: Path, scale: float = 1.0) -> Customised:
    """The first photo as an image prompt beside the text; without image where the text is empty."""
    denoiser, embedding = with_ip_adapter(bench, read_ip_adapter(path)), embedder(bench)(case.images[:1])
    for processor in denoiser.unet.attn_processors.values():
        if isinstance(processor, IPAdapterAttnProcessor2_0):
            processor.scale = [scale]

    def read(prompt: str) -> Text:
        return prompted(bench.text(prompt), embedding if prompt else torch.zeros_like(embedding))

    size = sum(tensor.numel() for tensor in load_file(path).values())
    return plain(bench, denoiser, read, costs={"storage": 2.0 * size, "train_seconds": 0.0})


def embedder(bench: Bench) -> Callable[[Tensor], Tensor]:
    """Pictures to image embeddings: by weights/image_encoder in transformers' layout, else the CLIP that measures."""
    folder = bench.weights / "image_encoder"
    if not folder.is_dir():
        return bench.models.clip.images
    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    preprocess = bench.models.clip.preprocess
    return lambda images: model(pixel_values=preprocess(images)).image_embeds.detach()


def train_ip_adapter(bench: Bench, settings: loop.Settings, batch: int, pairs: int, watch: Watch | None = None) -> Path:
    """Train keys, values and projection on the renderer's pairs of a subject's photo and a picture of it elsewhere."""
    embed, loads = embedder(bench), rendered_pairs(pairs, "generation", settings.seed)
    width = embed(torch.zeros(1, 3, bench.size, bench.size)).shape[-1]
    denoiser = with_ip_adapter(bench, blank_ip_adapter(bench.model.denoiser.unet, width, settings.seed))
    parameters = {n: p for n, p in denoiser.unet.named_parameters() if "_ip." in n or n.startswith("encoder_hid_proj")}
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    @cache
    def seen(i: int) -> tuple[Tensor, Tensor, str]:
        pair = loads[i]()
        return embed(pair.subject[None])[0], bench.model.encode(pair.target[None])[0], pair.prompt

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(pairs, (batch,), generator=generator).tolist()
        embedded, z0, prompts = zip(*(seen(i) for i in chosen))
        no_image, no_text = dropped(batch, generator)
        tokens = texts(bench, ["" if drop else prompt for prompt, drop in zip(prompts, no_text)])
        text = prompted(Text(tokens), torch.stack(embedded) * ~no_image[:, None])
        return weighted(denoiser, text, torch.stack(z0), generator)

    path = bench.weights / IP_ADAPTER
    fit(parameters, loss, settings, path, f"{bench.base} {batch} {pairs}", watch)
    return files.write_atomically(path, save(written_ip_adapter(denoiser.unet)))


# --- InstructPix2Pix -------------------------------------------------------------------------------------------------


def eight_channels(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy that also takes a picture's latents, at first without effect."""
    unet = copy.deepcopy(unet)
    old, channels = unet.conv_in, unet.config.in_channels
    new = nn.Conv2d(2 * channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :channels] = old.weight
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=2 * channels)
    return unet


def scheduler_of(schedule: Schedule) -> DDIMScheduler:
    """diffusers' DDIM on a schedule of ours."""
    alphas = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alphas])
    return DDIMScheduler(
        trained_betas=(1 - alphas[1:] / alphas[:-1]).numpy(),
        clip_sample=False,
        set_alpha_to_one=schedule.final_alpha == 1,
        steps_offset=schedule.offset,
        prediction_type=schedule.prediction,
    )


def pix2pix(bench: Bench, case: Case, folder: Path, image_guidance: float) -> Customised:
    """The first photo edited by the prompt, by diffusers' own pipeline."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval().requires_grad_(False)
    (tower,) = bench.model.text.towers
    pipeline = StableDiffusionInstructPix2PixPipeline(
        bench.model.vae, tower.model, tower.tokenizer, unet, scheduler_of(bench.model.denoiser.schedule), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)

    def latents(prompt: str, noise: Tensor) -> Tensor:
        found = pipeline(
            [prompt] * len(noise),
            image=case.images[:1].expand(len(noise), -1, -1, -1),
            latents=noise,
            num_inference_steps=bench.steps,
            guidance_scale=bench.guidance,
            image_guidance_scale=image_guidance,
            output_type="latent",
        )
        return found.images

    size = sum(p.numel() for p in unet.parameters())
    return Customised(latents, costs={"storage": 2.0 * size, "train_seconds": 0.0})


def edits(count: int, seed: int = 0) -> list[Load]:
    """The renderer's edits of place, accessory and colour, and among them restyled pictures."""
    loads = rendered_pairs(count, "editing", seed)
    restyles = {i: lambda i=i: restyled(random.Random(f"style {seed} {i}")) for i in range(0, count, RESTYLED)}
    return [restyles.get(i, load) for i, load in enumerate(loads)]


def restyled(rng: random.Random) -> Example:
    """A photo, and the same in another style, every second time in another place too."""
    subject, scene = world.random_subject(rng), world.random_scene(rng, style="photo", accessory=None)
    place = rng.choice(world.BACKGROUNDS) if rng.random() < 0.5 else scene.background
    style = rng.choice([s for s in world.STYLES if s != "photo"])
    before, after = (world.draw(subject, s) for s in (scene, replace(scene, style=style, background=place)))
    return Example(before.image, after.image, after.caption)


def train_pix2pix(bench: Bench, settings: loop.Settings, batch: int, pairs: int, watch: Watch | None = None) -> Path:
    """Train the whole U-Net on the renderer's edits; the caption of the edited picture stands for the instruction."""
    loads, unet = edits(pairs, settings.seed), eight_channels(bench.model.denoiser.unet)
    unet.requires_grad_(True)
    denoiser, scale = DiffusersDenoiser(unet, bench.model.denoiser.schedule), bench.model.vae.config.scaling_factor

    @cache
    def seen(i: int) -> tuple[Tensor, Tensor, str]:
        pair: Example = loads[i]()
        before, after = bench.model.encode(torch.stack([pair.subject, pair.target]))
        return before / scale, after, pair.prompt  # the pipeline does not scale the picture's latents

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(pairs, (batch,), generator=generator).tolist()
        before, z0, prompts = zip(*(seen(i) for i in chosen))
        no_image, no_text = dropped(batch, generator)
        tokens = texts(bench, ["" if drop else prompt for prompt, drop in zip(prompts, no_text)])
        text = Text(tokens, channels=torch.stack(before) * ~no_image[:, None, None, None])
        return weighted(denoiser, text, torch.stack(z0), generator)

    folder = bench.weights / PIX2PIX
    identity = f"{bench.base} {batch} {pairs} {RESTYLED}"
    fit(dict(unet.named_parameters()), loss, settings, folder / "unet", identity, watch)
    unet.save_pretrained(folder / "unet")
    return folder


# --- what both share -------------------------------------------------------------------------------------------------


def dropped(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which pictures lose their image, and which their text: each alone and both together alike often."""
    chance = torch.rand(batch, generator=generator)
    both = chance < DROP
    return both | ((chance >= DROP) & (chance < 2 * DROP)), both | ((chance >= 2 * DROP) & (chance < 3 * DROP))


def texts(bench: Bench, prompts: list[str]) -> Tensor:
    return torch.cat([bench.text(prompt).tokens for prompt in prompts])


def weighted(denoiser: DiffusersDenoiser, text: Text, z0: Tensor, generator: torch.Generator) -> Tensor:
    """The error that the embedded model was trained with."""
    schedule = denoiser.schedule
    t, eps = schedule.stratified(len(z0), generator), torch.randn(z0.shape, generator=generator)
    answer = denoiser(schedule.noise(z0, eps, t), t, text)[0]
    wrong = (answer - schedule.target(z0, eps, t)).square().mean((1, 2, 3))
    return (wrong * snr_weight(schedule)[t]).mean()


def fit(
    parameters: dict[str, Tensor], loss: loop.Loss, settings: loop.Settings, path: Path, identity: str, watch,
    accelerator: Any = None,
) -> None:  # fmt: skip
    """Train, resumed where it stopped, and leave the averaged weights in the parameters."""
    kept = path.with_suffix(".checkpoint")
    learned = loop.Trainer(parameters, loss, settings, kept, identity, accelerator).run(watch)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(learned[name])
    kept.unlink(missing_ok=True)
