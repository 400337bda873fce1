"""Gradients from inside a node: the same as headless, weights left as found, LoRA in force."""

import torch
from common import conditioning, controlled, rel
from inprocess import load_nodes
from likeness_in_comfyui.core import checkpoint
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.nodes import demo_model, denoiser

import nodes

NAME = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
TWIN = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def gradient_in_comfyui(model, positive, latent):
    def work(native, z, prompts):
        tokens = prompts["positive"].tokens.detach().clone().requires_grad_(True)
        out = native(z, 500, prompts["positive"].with_tokens(tokens))[0]
        return torch.autograd.grad(out.square().mean(), tokens)[0]

    return denoiser.run(model, {"positive": positive}, latent, work, gradients=True)


def gradient_headless(base, z, tokens):
    tokens = tokens.clone().requires_grad_(True)
    text = base.text("a cat").with_tokens(tokens)
    return torch.autograd.grad(base.denoiser(z, 500, text)[0].square().mean(), tokens)[0]


def as_others_load_them(unet):
    """Weights as another pack's loader makes them: under inference mode."""
    for module in unet.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(weight.detach().clone(), False)


def main(pack):
    load_nodes()
    model, clip, _ = demo_model.load()
    unet = model.model.diffusion_model
    as_others_load_them(unet)
    before = dict(unet.named_parameters())
    positive = conditioning(clip, "a cat")
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    z = model.model.process_latent_in(latent)
    result = {"inference": all(v.is_inference() for v in before.values()) and positive[0][0].is_inference()}
    here = gradient_in_comfyui(model, positive, latent)
    after = dict(unet.named_parameters())
    result["weights_left"] = all(after[k] is v for k, v in before.items())
    result["no_grad_left"] = not any(v.requires_grad for v in after.values())
    with torch.inference_mode(False), torch.enable_grad():
        base = checkpoint.load(MODEL)
        plain = gradient_headless(base, z.clone(), positive[0][0])
        result["gradient"] = rel(here, plain)
        result["not_flat"] = float(here.abs().max())
    # a LoRA, by ComfyUI's own patching
    shape = before[NAME].shape
    g = torch.Generator().manual_seed(2)
    up, down = torch.randn(shape[0], 4, generator=g), torch.randn(4, shape[1], generator=g)
    patched = model.clone()
    import comfy.weight_adapter

    patched.add_patches(
        {f"diffusion_model.{NAME}": comfy.weight_adapter.LoRAAdapter(set(), (up, down, None, None, None, None))}, 0.5
    )
    with_lora = gradient_in_comfyui(patched, positive, latent)
    with torch.inference_mode(False), torch.enable_grad():
        base.denoiser.unet.get_parameter(TWIN).data += 0.5 * up.clone() @ down.clone()
        result["lora"] = rel(with_lora, gradient_headless(base, z.clone(), positive[0][0]))
    result["lora_differs"] = rel(with_lora, here)
    result["lora_gone"] = rel(gradient_in_comfyui(model, positive, latent), here)
    # an attention without a way back, as other packs put in
    one_way = model.clone()
    inner = one_way.model_options.setdefault("transformer_options", {})
    inner["optimized_attention_override"] = lambda function, *a, **k: function(*a, **k).detach()
    result["one_way"] = rel(gradient_in_comfyui(one_way, positive, latent), here)
    # weights that were moved outside of inference mode look like ordinary ones, and are not
    with torch.inference_mode(False):
        unet.to(torch.float64).to(torch.float32)
    result["moved"] = rel(gradient_in_comfyui(model, positive, latent), here)
    as_others_load_them(unet)
    # what other nodes do with the same MODEL afterwards
    empty = nodes.EmptyLatentImage().generate(128, 128, 1)[0]
    sampled = nodes.common_ksampler(model, 1, 2, 4.0, "euler", "normal", positive, positive, empty)[0]["samples"]
    result["still_samples"] = bool(sampled.isfinite().all())
    # a ControlNet that was loaded under inference mode too
    network, with_control, _ = controlled(positive, positive)
    own = dict(network.named_parameters())
    steered = gradient_in_comfyui(model, with_control, latent)
    result["controlled"] = rel(steered, here)
    result["controlnet_left"] = all(own[k] is v and v.is_inference() for k, v in network.named_parameters())
    # a sampling patch decides what the network is taken to predict
    advanced = nodes.NODE_CLASS_MAPPINGS["ModelSamplingDiscrete"]
    (velocity,) = advanced().patch(model, "v_prediction", True)
    result["patched"] = denoiser.run(
        velocity, {"positive": positive}, latent, lambda native, z, prompts: native.schedule.prediction
    )
    before = dict(unet.named_parameters())
    try:
        denoiser.run(model, {"positive": positive}, latent, lambda *a: 1 / 0, gradients=True)
    except ZeroDivisionError:
        result["left_after_error"] = all(before[k] is v for k, v in unet.named_parameters())
    return result
