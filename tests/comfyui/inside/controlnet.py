"""A random Control-LoRA of ours through ComfyUI's own loader, against the headless ControlNet."""

from pathlib import Path

import folder_paths
import torch
from agreement import euler
from common import conditioning, rel
from likeness_in_comfyui.core import checkpoint, control_lora, controlnet, diffusion, files, weights
from likeness_in_comfyui.core.controlnet import Controlled
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.core.denoiser import guided
from likeness_in_comfyui.nodes import demo_model, denoiser

import nodes

PROMPT, STEPS, GUIDANCE, STRENGTH = "a photo of a red cat on the beach", 5, 5.0, 0.7


def written(unet, name, scale):
    """A file in ComfyUI's folder: random changes of rank 4, nothing at scale 0."""
    from diffusers import ControlNetModel

    network, g, tensors = ControlNetModel.from_unet(unet), torch.Generator().manual_seed(5), {}
    for layer, module in weights.layers_of(network).items():
        if layer == "conv_in":
            tensors |= {f"{layer}/{part}": p for part, p in module.named_parameters()}
        elif layer.startswith(control_lora.WHOLE):
            tensors |= {f"{layer}/{part}": noise(p.shape, g, scale) for part, p in module.named_parameters()}
        elif not isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
            out, *rest = module.weight.shape
            tensors[f"{layer}/up"] = noise((out, 4, *[1] * (len(rest) - 1)), g, scale)
            tensors[f"{layer}/down"] = noise((4, *rest), g, scale)
    path = Path(folder_paths.get_folder_paths("controlnet")[0]) / f"{name}.safetensors"
    header = files.Header(control_lora.KIND, settings={"steps": 0}, source="nothing")
    return files.save(path, control_lora.pack(tensors, control_lora.ldm_names(network)), header)


def noise(shape, g, scale):
    return torch.randn(shape, generator=g) * scale


def under(name, positive, negative, hint, strength=STRENGTH):
    """Both conditionings under a file that ComfyUI's own nodes load and apply."""
    (network,) = nodes.ControlNetLoader().load_controlnet(f"{name}.safetensors")
    shown = hint.movedim(1, -1)
    return nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, network, shown, strength, 0.0, 1.0)


@torch.no_grad()
def main(pack):
    base, (model, clip, _) = checkpoint.load(MODEL), demo_model.load()
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    paths = {name: written(base.denoiser.unet, name, scale) for name, scale in (("some", 0.08), ("nothing", 0))}
    network = controlnet.load(paths["some"], base.denoiser.unet)
    conds = conditioning(clip, PROMPT), conditioning(clip, "")
    led, still = under("some", *conds, hint), under("nothing", *conds, hint)
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(11))
    text, null = base.text(PROMPT), base.text("").unconditional()
    wanted = Controlled(base.denoiser, network, hint, STRENGTH)
    result = {
        "listed": "some.safetensors" in nodes.ControlNetLoader.INPUT_TYPES()["required"]["control_net_name"][0],
        "loaded": type(nodes.ControlNetLoader().load_controlnet("some.safetensors")[0]).__name__,
    }

    def one_call(native, _, prompts):
        plain, with_control = (native(z, 400, prompts[name], prompts[f"{name} negative"]) for name in ("plain", "led"))
        theirs = wanted(z, 400, text, null)
        result["call"] = max(rel(a, b) for a, b in zip(with_control, theirs))
        result["changes"] = rel(with_control[0], plain[0])
        result["nothing"] = torch.equal(native(z, 400, prompts["still"])[0], native(z, 400, prompts["plain"])[0])

    prompts = {"plain": conds, "led": led, "still": still}
    every = {f"{k}{end}": c for k, both in prompts.items() for end, c in zip(("", " negative"), both)}
    denoiser.run(model, every, torch.zeros(2, 4, 16, 16), one_call)

    # --- ordinary sampling, also of an inpainting model, whose first convolution takes nine channels
    schedule = diffusion.Schedule(base.denoiser.schedule.alphas, final_alpha=1.0)
    timesteps = schedule.timesteps(STEPS)
    sigmas = torch.cat([model.get_model_object("model_sampling").sigmas[timesteps], torch.zeros(1)])
    start = z * (1 - schedule.alpha(timesteps[0])).sqrt().float()
    headless = diffusion.sample(schedule, guided(wanted, text, null, GUIDANCE), start, timesteps)
    plain = euler(model, *conds, z, sigmas)
    result["drawn"], result["drawn changes"] = rel(euler(model, *led, z, sigmas), headless), rel(headless, plain)
    result["again"] = rel(euler(model, *led, z, sigmas), headless)
    result["still"] = torch.equal(euler(model, *still, z, sigmas), plain)
    result["inpainting"] = rel(euler(demo_model.load(inpainting=True)[0], *led, z, sigmas), headless)
    twice = under("some", *led, hint.flip(-1), 0.5)
    result["twice changes"] = rel(euler(model, *twice, z, sigmas), headless)
    unet = model.model.diffusion_model.state_dict()
    result["kept"] = all(
        torch.equal(v, unet[k]) for k, v in demo_model.load()[0].model.diffusion_model.state_dict().items()
    )
    return result
