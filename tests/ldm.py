"""Original (CompVis) names for diffusers weights, to make single-file checkpoints out of small random networks."""

import re

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
TOP = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
       "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}  # fmt: skip
VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(rest, names):
    for old, new in names.items():
        if rest.startswith(old + "."):
            return new + rest[len(old) :]
    return rest


def unet_name(name, levels=3, layers=2):
    """The original name of a diffusers U-Net weight."""
    if m := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        part, level, kind, index, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
        number = level * (layers + 1) + index + (part == "down")
        rest = "0." + renamed(rest, RESNET) if kind == "resnets" else "1." + rest
        return f"{'input' if part == 'down' else 'output'}_blocks.{number}.{rest}"
    if m := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.0.op.{m[2]}"
    if m := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
        attended = int(m[1]) > 0  # the first up block of SD1.x has no attention
        return f"output_blocks.{(int(m[1]) + 1) * (layers + 1) - 1}.{1 + attended}.conv.{m[2]}"
    if m := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        place, rest = (int(m[2]) * 2, renamed(m[3], RESNET)) if m[1] == "resnets" else (1, m[3])
        return f"middle_block.{place}.{rest}"
    return renamed(name, TOP)


def vae_name(name, levels=4):
    """The original name of a diffusers AutoencoderKL weight."""
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if m := re.match(r"(.*)mid_block\.attentions\.0\.(.*)", name):
        return f"{m[1]}mid.attn_1.{renamed(m[2], VAE_ATTENTION)}"
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def single_file(unet, vae, text_encoder):
    """An SD1.x checkpoint's state dict."""
    state = {f"model.diffusion_model.{unet_name(k)}": v for k, v in unet.state_dict().items()}
    for k, v in vae.state_dict().items():
        name = vae_name(k)
        # the original keeps attention projections as 1x1 convolutions
        state[f"first_stage_model.{name}"] = v[..., None, None] if "attn_1" in name and v.ndim == 2 else v
    prefix = "cond_stage_model.transformer."
    for k, v in text_encoder.state_dict().items():
        state[prefix + ("" if k.startswith("text_model.") else "text_model.") + k] = v
    return {k: v.contiguous() for k, v in state.items()}
