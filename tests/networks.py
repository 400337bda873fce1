"""Small random networks in the shapes of the real ones, and prompts for them."""

from __future__ import annotations

import torch

LAYOUTS = ("sd1", "sd2", "sdxl")
# Stable Diffusion's, as a diffusers configuration
SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)


def random_unet(layout: str, seed: int = 0, channels: int = 4):
    """A diffusers U-Net with SD1.x's, SD2.x's or SDXL's structure, few channels and random weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    sizes = dict(
        sample_size=16,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        cross_attention_dim=32,
    )
    down = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    if layout == "sd1":
        extra = dict(attention_head_dim=4)
    elif layout == "sd2":
        extra = dict(attention_head_dim=(2, 4, 4), use_linear_projection=True)
    else:
        down, up = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), up[::-1]
        extra = dict(
            attention_head_dim=(2, 4, 4),
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2, 3),
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=256 * 6 + 16,
        )
    unet = UNet2DConditionModel(**sizes, **extra, down_block_types=down, up_block_types=up)
    return unet.eval().requires_grad_(False)


def random_prompt(layout: str, seed: int = 0, tokens: int = 77, rows: int = 1, **fields):
    """Arguments of a `core.diffusers.Text` of random tokens, with the pooled vector and sizes that SDXL wants."""
    g = torch.Generator().manual_seed(seed)
    extra = {}
    if layout == "sdxl":
        ids = torch.tensor([[128.0, 128, 0, 0, 128, 128]])
        extra = {
            "added_cond_kwargs": {"text_embeds": torch.randn(rows, 16, generator=g), "time_ids": ids.repeat(rows, 1)}
        }
    return {"tokens": torch.randn(rows, tokens, 32, generator=g), "extra": extra, **fields}
