"""The embedded model as native ComfyUI objects, so that every node of ComfyUI and of other packs works on it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from ..core.demo import MODEL
from ..core.toffee.inpainting import CHANNELS


def load(folder: Path = MODEL, inpainting: bool = False) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE from a folder in diffusers' layout.

    Weights are made outside inference mode, so that trainers (ours and ComfyUI's own) can differentiate through them.

    Args:
        inpainting: see `load_model`.

    Raises:
        FileNotFoundError: the folder lacks a part.
    """
    with torch.inference_mode(False):
        return load_model(folder, inpainting), load_clip(folder), load_vae(folder)


def _part(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    part = folder / name
    weights = next(iter(sorted(part.glob("*.safetensors"))), None)
    if weights is None:
        raise FileNotFoundError(f"the demo model's {name} is missing from {folder}; install the pack again")
    return json.loads((part / "config.json").read_text()), {k: v.float() for k, v in load_file(weights).items()}


# --- MODEL -----------------------------------------------------------------------------------------------------------


class DemoLatents(comfy.latent_formats.SD15):
    """SD1.5's scale, and the colours of live previews: least squares over pictures of the demo world."""

    def __init__(self):
        super().__init__()
        self.latent_rgb_factors = [
            [0.4198, 0.0849, -0.0562],
            [0.1169, 0.2528, 0.0313],
            [0.0427, 0.0615, 0.3694],
            [-0.0040, 0.1554, 0.1468],
        ]
        self.latent_rgb_factors_bias = [0.2582, 0.2234, 0.1234]
        self.taesd_decoder_name = None


class DemoModel(comfy.supported_models.SD15):
    """SD1.5's family with the embedded model's sizes."""

    latent_format = DemoLatents
    unet_config = {}
    unet_extra_config = {"num_head_channels": -1}


def load_model(folder: Path, inpainting: bool = False, disable_dynamic: bool = False) -> Any:
    """The U-Net as a MODEL.

    Args:
        inpainting: whether it has an inpainting model's nine input channels, the five new ones without effect.
        disable_dynamic: asked for by ComfyUI when it trains; the plain patcher used here always obeys.
    """
    config, weights = _part(folder, "unet")
    layers, channels = config["layers_per_block"], config["block_out_channels"]
    levels, inputs = len(channels), CHANNELS if inpainting else config["in_channels"]
    # as core.toffee.inpainting.widened does it
    weights["conv_in.weight"] = F.pad(weights["conv_in.weight"], (0, 0, 0, 0, 0, inputs - config["in_channels"]))
    sizes = dict(
        image_size=32,
        in_channels=inputs,
        out_channels=config["out_channels"],
        model_channels=channels[0],
        num_res_blocks=[layers] * levels,
        channel_mult=[c // channels[0] for c in channels],
        transformer_depth=[1] * layers * levels,
        transformer_depth_output=[1] * (layers + 1) * levels,
        transformer_depth_middle=1,
        context_dim=config["cross_attention_dim"],
        use_spatial_transformer=True,
        use_linear_in_transformer=False,
        adm_in_channels=None,
        use_temporal_attention=False,
        legacy=False,
    )
    # diffusers' Stable Diffusion configurations keep the number of heads under this name
    family = DemoModel({**sizes, "num_heads": config["attention_head_dim"]})
    device = comfy.model_management.get_torch_device()
    offload = comfy.model_management.unet_offload_device()
    family.set_inference_dtype(torch.float32, None)
    model = family.get_model({}, "", offload)
    names = comfy.utils.unet_to_diffusers(sizes)
    model.diffusion_model.load_state_dict({names[k]: v for k, v in weights.items()})
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    # ComfyUI's own LoRA trainer clones a MODEL by making it anew
    patcher.cached_patcher_init = (load_model, (folder, inpainting))
    return patcher


# --- CLIP ------------------------------------------------------------------------------------------------------------


def load_clip(folder: Path) -> Any:
    """The text encoder and its tokenizer as a CLIP."""
    config, weights = _part(folder, "text_encoder")
    path, width = str(folder / "tokenizer"), config["hidden_size"]
    specials = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}
    sizes = {
        k: config[k]
        for k in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "hidden_act",
            "eos_token_id",
            "vocab_size",
        )
    }

    class Tokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None, **kwargs: Any):
            super().__init__(
                path,
                embedding_directory=embedding_directory,
                embedding_size=width,
                embedding_key="clip_l",
                pad_token=specials["pad"],
                tokenizer_data=tokenizer_data or {},
            )

    class Transformer(comfy.clip_model.CLIPTextModel):
        def __init__(self, config_dict: dict, dtype: Any, device: Any, operations: Any):
            super().__init__(config_dict, dtype, device, operations)
            # ComfyUI's own table has CLIP's 49408 rows whatever the configuration says
            table = operations.Embedding(config_dict["vocab_size"], width, dtype=dtype, device=device)
            self.set_input_embeddings(table)

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None, **kwargs: Any):
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=copy.deepcopy(sizes),
                model_class=Transformer,
                special_tokens=specials,
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    weights = {"text_model." + k.removeprefix("text_model."): v for k, v in weights.items()}
    weights = {f"clip_l.transformer.{k}": v for k, v in weights.items()}
    weights["clip_l.transformer.text_projection.weight"] = torch.eye(width)
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(
        target,
        tokenizer_data={"clip_l_tokenizer_class": Tokenizer},
        model_options={"clip_l_class": Encoder, "dtype": torch.float32},
    )
    missing, unexpected = clip.cond_stage_model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"clip_l.logit_scale"}:
        raise ValueError(f"the demo model's text encoder doesn't fit: {missing or unexpected}")
    return clip


# --- VAE -------------------------------------------------------------------------------------------------------------


def load_vae(folder: Path) -> Any:
    """The autoencoder as a VAE: ComfyUI's TAESD, whose decoder counts a clamp as its first layer."""
    _, weights = _part(folder, "vae")
    state = {}
    for name, tensor in weights.items():
        side, _, number, rest = name.split(".", 3)
        state[f"taesd_{side}.{int(number) + (side == 'decoder')}.{rest}"] = tensor
    # ComfyUI scales latents by the family's factor on their way into the model; the autoencoder undoes it
    state["vae_scale"] = torch.tensor(comfy.supported_models.SD15.latent_format().scale_factor)
    state["vae_shift"] = torch.tensor(0.0)
    return comfy.sd.VAE(sd=state)
