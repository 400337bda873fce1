"""Sampling and gradients on ComfyUI's own device and memory settings, against the headless runtime on the CPU."""

import comfy.model_management
import torch
from agreement import GUIDANCE, PROMPT, STEPS, euler, start
from common import Everywhere, conditioning, rel
from likeness_in_comfyui.core import checkpoint, diffusion
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.core.denoiser import Hooks, guided
from likeness_in_comfyui.nodes import demo_model, denoiser


def main(pack):
    model, clip, _ = demo_model.load()
    base = checkpoint.load(MODEL)
    schedule = diffusion.Schedule(base.denoiser.schedule.alphas, final_alpha=1.0)
    timesteps, noise = schedule.timesteps(STEPS), start()
    positive, negative = conditioning(clip, PROMPT), conditioning(clip, "")
    text, null = base.text(PROMPT), base.text("")
    sigmas = torch.cat([model.get_model_object("model_sampling").sigmas[timesteps].cpu(), torch.zeros(1)])
    native = euler(model, positive, negative, noise, sigmas)
    watched = denoiser.attach(model, Hooks(Everywhere(), Everywhere()))
    result = {"device": str(comfy.model_management.get_torch_device())}
    result["untouched"] = torch.equal(euler(watched, positive, negative, noise, sigmas), native)
    z = noise * (1 - schedule.alpha(timesteps[0])).sqrt().float()
    with torch.no_grad():
        headless = diffusion.sample(schedule, guided(base.denoiser, text, null, GUIDANCE), z, timesteps)
    result["sampling"] = rel(native.cpu(), headless)

    def gradient(runtime, z, prompt):
        tokens = prompt.tokens.detach().clone().requires_grad_(True)
        out = runtime(z, 500, prompt.with_tokens(tokens))[0]
        return torch.autograd.grad(out.square().mean(), tokens)[0].cpu()

    before = {k: v.cpu().clone() for k, v in model.model.diffusion_model.named_parameters()}
    here = denoiser.run(
        model,
        {"positive": positive},
        noise,
        lambda runtime, z, prompts: gradient(runtime, z, prompts["positive"]),
        gradients=True,
    )
    after = dict(model.model.diffusion_model.named_parameters())
    result["weights_left"] = all(torch.equal(v, after[k].cpu()) for k, v in before.items())
    with torch.inference_mode(False), torch.enable_grad():
        base = checkpoint.load(MODEL)
        there = gradient(base.denoiser, model.model.process_latent_in(noise).clone(), base.text(PROMPT))
    result["gradient"] = rel(here, there)
    return result
