"""LoRA files in the wild's naming styles, and the one that ships, through ComfyUI's own loaders."""

from pathlib import Path

import comfy.samplers
import folder_paths
import torch
from common import conditioning, rel
from inprocess import load_nodes
from likeness_in_comfyui.nodes import demo_model, folders
from safetensors.torch import save_file

import nodes

BLOCK = "input_blocks_1_1_transformer_blocks_0_attn2_to_k"
TWIN = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TEXT = "text_model_encoder_layers_0_self_attn_q_proj"
WEIGHT = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
STYLES = {
    "kohya": (f"lora_unet_{BLOCK}", f"lora_te_{TEXT}", "lora_up", "lora_down"),
    "kohya_diffusers": (f"lora_unet_{TWIN}", f"lora_te_{TEXT}", "lora_up", "lora_down"),
}


def factors(out, into, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(out, 4, generator=g) * 0.3, torch.randn(4, into, generator=g) * 0.3


def sample(model, clip):
    positive, negative = conditioning(clip, "a red cat"), conditioning(clip, "")
    empty = nodes.EmptyLatentImage().generate(128, 128, 1)[0]
    return nodes.common_ksampler(model, 1, 3, 4.0, "euler", "normal", positive, negative, empty)[0]["samples"]


def main(pack, noise, timesteps):
    """The styles against weights changed by hand; the shipped LoRA's latents from `noise`, for the test to compare."""
    load_nodes()
    model, clip, _ = demo_model.load()
    return {**styles(model, clip), **shipped(model, clip, torch.tensor(noise), timesteps), **registered()}


def shipped(model, clip, noise, timesteps):
    """Euler on the given timesteps with the LoRA that ships, in the scale of the U-Net."""
    listed = nodes.LoraLoader.INPUT_TYPES()["required"]["lora_name"][0]
    sigmas = torch.cat([model.get_model_object("model_sampling").sigmas[timesteps], torch.zeros(1)])

    def draw(strength):
        styled = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "duotone.safetensors", strength)[0]
        guider = comfy.samplers.CFGGuider(styled)
        guider.set_conds(conditioning(clip, "a photo of a red cat on the beach"), conditioning(clip, ""))
        guider.set_cfg(5.0)
        euler = comfy.samplers.ksampler("euler")
        return model.model.process_latent_in(guider.sample(noise, torch.zeros_like(noise), euler, sigmas))

    return {"listed": listed, "shipped": draw(1.0), "half": draw(0.5), "plain": draw(0.0)}


def registered():
    """Where the pack's folders stand among the user's, and that one which is not there is not added."""
    before = {kind: folder_paths.get_folder_paths(kind) for kind in folders.SHIPPED}
    home = Path(folder_paths.base_path) / "elsewhere"
    for name in ("loras", "concepts"):
        (home / name).mkdir(parents=True)
        (home / name / "mine.safetensors").touch()
    folders.MODEL = home / "model"
    folders.register()
    folders.register()
    after = {kind: folder_paths.get_folder_paths(kind) for kind in folders.SHIPPED}
    return {
        "first": {
            kind: Path(paths[0]).relative_to(folder_paths.models_dir).as_posix() for kind, paths in after.items()
        },
        "added": {k: [str(Path(p).relative_to(home)) for p in after[k][len(before[k]) :]] for k in after},
        "kept": all(after[k][: len(before[k])] == before[k] for k in after),
        "concept": "mine.safetensors" in folder_paths.get_filename_list("likeness"),
    }


def styles(model, clip):
    unet = model.model.diffusion_model
    on_unet, on_text = factors(*unet.get_parameter(WEIGHT).shape, 1), factors(192, 192, 2)
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    plain, result = sample(model, clip), {}
    for style, (unet_key, text_key, up, down) in STYLES.items():
        tensors = {}
        for key, (a, b) in ((unet_key, on_unet), (text_key, on_text)):
            tensors |= {f"{key}.{up}.weight": a, f"{key}.{down}.weight": b, f"{key}.alpha": torch.tensor(4.0)}
        save_file(tensors, folder / f"{style}.safetensors")
        result[style] = sample(*nodes.LoraLoader().load_lora(model, clip, f"{style}.safetensors", 0.7, 0.7))
    result["untouched"] = torch.equal(sample(model, clip), plain)
    by_hand, text, _ = demo_model.load()
    with torch.no_grad():
        by_hand.model.diffusion_model.get_parameter(WEIGHT).add_(0.7 * on_unet[0] @ on_unet[1])
        layer = text.cond_stage_model.clip_l.transformer.text_model.encoder.layers[0].self_attn.q_proj.weight
        layer.add_(0.7 * on_text[0] @ on_text[1])
    expected = sample(by_hand, text)
    out = {style: rel(result[style], expected) for style in STYLES}
    return {"untouched": result["untouched"], "changed": rel(expected, plain), **out}
