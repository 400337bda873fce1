"""A RetriNet inside a MODEL; and the MODEL's encoder as a RetriNet's beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ..core.reach import Reach
from ..core.retrinet import free as training_free
from ..core.retrinet import network as networks
from ..core.retrinet.control import Retrieval, Watch
from ..core.retrinet.free import FreeRetrieval
from ..core.retrinet.network import RetriNet
from ..core.retrinet.reference import Reference, References
from ..core.weights import DECODER
from . import denoiser
from .hooks import layers_of, sites, skips, unet_of
from .managed import Managed
from .progress import latents_of, native_size

KEY = "likeness_retrinet"
ADDED = 256  # numbers that SDXL describes each of a picture's sizes by


# --- inside a MODEL --------------------------------------------------------------------------------------------------


def apply(
    model: Any,
    clip: Any,
    vae: Any,
    retrinet: Managed,
    references: Sequence[Reference],
    reach: Reach,
    levels: str = "all",
    time: str = "each",
    watch: Watch | None = None,
) -> Any:
    """A clone of MODEL that retrieves from references, in any sampler and beside other methods.

    Args:
        levels: see `network.levels_of`.
        time, watch: see `Retrieval`.

    Raises:
        ValueError: a model, text encoder or autoencoder of another family, unknown levels, or no reference.
    """
    network, unet = retrinet.model, unet_of(model)
    network.check(tuple(sites(unet)), skips(unet), layers_of(model))
    chosen = networks.levels_of(levels, skips(unet), network)
    steps = denoiser.timesteps_of(model)
    read = read_in(model, clip, vae, references, network.settings.get("size") or native_size(model))
    if not reach.strength:
        return model.clone()
    retrieval = Retrieval(network, read, steps, reach, chosen, time, watch)
    return attach(model, retrinet, retrieval)


def attach(model: Any, retrinet: Managed, retrieval: Retrieval) -> Any:
    """A clone of MODEL with a retrieval, whose network ComfyUI loads with it."""
    key = f"{KEY}_{id(retrieval)}"
    patched = denoiser.attach(model, retrieval.hooks)
    patched.set_additional_models(key, [retrinet])
    # features of references are large, and of no use when the picture is done
    patched.add_callback_with_key(CallbacksMP.ON_CLEANUP, key, lambda patcher: retrieval.forget())
    return patched


def free(
    model: Any,
    clip: Any,
    vae: Any,
    references: Sequence[Reference],
    reach: Reach,
    levels: str = "all",
    time: str = "cached",
    seed: int = 0,
) -> Any:
    """A clone of MODEL whose own decoder looks at references, in any sampler and beside other methods.

    Args:
        levels: see `core.retrinet.free.levels_of`.
        time, seed: see `FreeRetrieval`.

    Raises:
        ValueError: a model, text encoder or autoencoder of another family, or no reference.
    """
    unet, size = unet_of(model), native_size(model)
    if (channels := model.model.model_config.unet_config["in_channels"]) != 4:
        raise ValueError(f"model: its input has {channels} channels, not 4; connect a model that is not for inpainting")
    read = read_in(model, clip, vae, references, size)
    if not reach.strength:
        return model.clone()
    layers = tuple(sites(unet))
    if "text_embeds" in read.extra:  # the network describes sizes in its own way
        pooled = read.extra["text_embeds"]
        given = model.model.encode_adm(device=pooled.device, pooled_output=pooled, width=size, height=size)
        read = replace(read, extra={"y": given})
    chosen = training_free.levels_of(levels, layers)
    schedule = denoiser.schedule_of(model.get_model_object("model_sampling"))
    steps = denoiser.timesteps_of(model)
    if time == "each" and steps != len(schedule):
        raise ValueError("mode: this model samples at few timesteps of its own; choose cached")
    retrieval = FreeRetrieval(read, schedule, layers, reach, chosen, time, seed, steps)
    patched = denoiser.attach(model, retrieval.hooks)
    # what was read is large, and of another network where a LoRA comes after this
    key = f"{KEY}_{id(retrieval)}"
    patched.add_callback_with_key(CallbacksMP.ON_CLEANUP, key, lambda patcher: retrieval.forget())
    return patched


def read_in(model: Any, clip: Any, vae: Any, references: Sequence[Reference], size: int) -> References:
    """References as latents, text and masks.

    Args:
        size: pixels of the square that each fills.

    Raises:
        ValueError: none, or a text encoder or autoencoder of another family.
    """
    if not references:
        raise ValueError("references: there is none; connect at least one")
    squares, masks = zip(*(reference.cut(size) for reference in references))
    latents = torch.cat([latents_of(model, vae, square[None]) for square in squares])
    if latents.shape[1] != 4:
        raise ValueError(f"vae: its latents have {latents.shape[1]} channels, not 4; connect the model's own VAE")
    texts = {word: read_word(model, clip, word, size) for word in {reference.word for reference in references}}
    tokens, extra = zip(*(texts[reference.word] for reference in references))
    if len({text.shape[1] for text in tokens}) > 1:
        raise ValueError("other: a concept's name is longer than 75 tokens; give it in a few words")
    return References(
        latents, torch.cat(tokens), torch.cat(masks), {k: torch.cat([each[k] for each in extra]) for k in extra[0]}
    )


def read_word(model: Any, clip: Any, word: str, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A concept's text tokens (1, L, width), and what SDXL's encoder wants besides."""
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(word))
    tokens = conditioning[0][0]
    width = next(site.context for site in sites(unet_of(model)) if site.kind == "cross")
    if tokens.shape[-1] != width:
        raise ValueError(
            f"clip: its text has {tokens.shape[-1]} numbers a token where the model wants {width}; "
            "connect the model's own CLIP"
        )
    return tokens, beside_text(model, conditioning, size)


def beside_text(model: Any, conditioning: list, size: int) -> dict[str, Tensor]:
    """What SDXL's encoder wants besides a concept's text, from its CONDITIONING; nothing for other models."""
    if not isinstance(model.model, comfy.model_base.SDXL):
        return {}
    return {
        "text_embeds": conditioning[0][1]["pooled_output"],
        "time_ids": torch.tensor([[float(x) for x in (size, size, 0, 0, size, size)]]),
    }


# --- the beginning of a RetriNet -------------------------------------------------------------------------------------


def beginning(model: Any, rank: int | None, seed: int, source: str) -> Callable[[], RetriNet]:
    """What makes a RetriNet that changes nothing yet, on the CPU and always the same, from a MODEL with its LoRAs.

    Args:
        rank, source: see `network.blank`.
        seed: of what is random in it.

    Raises:
        ValueError: a layout that the retrieval encoder can't have.
    """
    unet, config, weights = unet_of(model), encoder_config(model), encoder_weights(model)

    def make() -> RetriNet:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            layers = layers_of(model, DECODER)
            return networks.copied(tuple(sites(unet)), skips(unet), config, weights, layers, rank, None, source)

    return make


def encoder_config(model: Any) -> dict[str, Any]:
    """A MODEL's encoder in diffusers' words.

    Raises:
        ValueError: a layout that diffusers has no words for.
    """
    c, unet = model.model.model_config.unet_config, unet_of(model)
    blocks, depths, middle = c["num_res_blocks"], iter(c["transformer_depth"]), c["transformer_depth_middle"]
    levels = [set(islice(depths, count)) for count in blocks]
    added = isinstance(model.model, comfy.model_base.SDXL)
    alike = len(set(blocks)) == 1 and all(len(level) == 1 for level in levels)
    each = [level.pop() for level in levels]
    if not alike or middle < 1 or each[-1] not in (0, middle) or (c.get("adm_in_channels") and not added):
        raise ValueError("model: its encoder is unlike SD1.x's, SD2.x's and SDXL's; connect a model of these families")
    heads = {site.level: site.heads for site in sites(unet)}
    some = next(iter(heads.values()))  # for levels without attention
    config = {
        "in_channels": c["in_channels"],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in each],
        "block_out_channels": [c["model_channels"] * factor for factor in c["channel_mult"]],
        "layers_per_block": blocks[0],
        "cross_attention_dim": c["context_dim"],
        "attention_head_dim": [heads.get(level, some) for level in range(len(each))],
        "transformer_layers_per_block": [depth or middle for depth in each],
        "use_linear_projection": bool(c.get("use_linear_in_transformer")),
    }
    if added:
        sizes = {"addition_time_embed_dim": ADDED, "projection_class_embeddings_input_dim": c["adm_in_channels"]}
        config |= {"addition_embed_type": "text_time", **sizes}
    return config


def encoder_weights(model: Any) -> dict[str, Tensor]:
    """A MODEL's encoder with its LoRAs, by diffusers' names, float32 on the CPU."""
    if hasattr(model, "is_dynamic") and model.is_dynamic():
        model = model.get_non_dynamic_delegate()
    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    weights, names = unet_of(model).state_dict(), comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    wanted = {name: own for name, own in names.items() if own in weights and not name.startswith(DECODER)}
    return {name: weights[own].detach().to("cpu", torch.float32, copy=True) for name, own in wanted.items()}
