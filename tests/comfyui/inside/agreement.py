"""One model in both runtimes: ordinary sampling, raw outputs, hooks, gradients."""

import comfy.samplers
import latent_preview
import numpy as np
import torch
from common import Everywhere, Recorder, conditioning, rel
from likeness_in_comfyui.core import checkpoint, diffusion
from likeness_in_comfyui.core.attention import MuteWord
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.core.denoiser import Hooks, guided
from likeness_in_comfyui.core.retrinet.control import TIMES
from likeness_in_comfyui.core.retrinet.free import FreeRetrieval
from likeness_in_comfyui.core.retrinet.reference import References
from likeness_in_comfyui.nodes import demo_model, denoiser
from likeness_in_comfyui.nodes.words import find_words, mark_words

PROMPT = "a photo of a (red:1.2) cat on the beach"
STEPS, GUIDANCE = 30, 5.0


def start(count=2):
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(11))


def euler(model, positive, negative, noise, sigmas):
    """Ordinary ComfyUI sampling, in the scale of the U-Net."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(GUIDANCE)
    out = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.ksampler("euler"), sigmas, disable_pbar=True)
    return model.model.process_latent_in(out)


def preview_error(model, latents, pixels):
    """Root mean square between ComfyUI's live preview of the first latents and their picture, in 0..1."""
    latent_preview.args.preview_method = latent_preview.LatentPreviewMethod.Latent2RGB
    shown = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    shown = np.asarray(shown.decode_latent_to_preview(latents)) / 255
    small = torch.nn.functional.adaptive_avg_pool2d(pixels[0], 16).movedim(0, -1).cpu().numpy()
    return float(np.sqrt(((shown - small) ** 2).mean()))


@torch.no_grad()
def with_diffusers(base, text, null, z, timesteps):
    """The same sampling by diffusers' own scheduler."""
    from diffusers import DDIMScheduler

    settings = dict(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    scheduler = DDIMScheduler(**settings, set_alpha_to_one=True)
    scheduler.set_timesteps(STEPS)
    assert scheduler.timesteps.tolist() == timesteps
    predict = guided(base.denoiser, text, null, GUIDANCE)
    for t in timesteps:
        z = scheduler.step(predict(z, t), t, z).prev_sample
    return z


def main(pack):
    model, clip, vae = demo_model.load()
    base = checkpoint.load(MODEL)
    # ComfyUI ends at sigma 0: the same end here
    schedule = diffusion.Schedule(base.denoiser.schedule.alphas, final_alpha=1.0)
    timesteps = schedule.timesteps(STEPS)
    positive, negative = conditioning(clip, PROMPT), conditioning(clip, "")
    text, null = base.text(PROMPT, ["cat"]), base.text("").unconditional()
    noise, result = start(), {}

    # --- sampling: euler on the model's own sigmas is DDIM
    sigmas = torch.cat([model.get_model_object("model_sampling").sigmas[timesteps], torch.zeros(1)])
    native = euler(model, positive, negative, noise, sigmas)
    z = noise * (1 - schedule.alpha(timesteps[0])).sqrt().float()
    with torch.no_grad():
        headless = diffusion.sample(schedule, guided(base.denoiser, text, null, GUIDANCE), z, timesteps)
    result["diffusers"] = rel(native, with_diffusers(base, text, null, z, timesteps))
    result["tokens"] = rel(positive[0][0], text.tokens)
    result["sampling"] = rel(native, headless)
    pixels = vae.decode(model.model.process_latent_out(headless)).movedim(-1, 1)
    result["decoding"] = rel(pixels, base.decode(headless))
    result["encoding"] = rel(model.model.process_latent_in(vae.encode(pixels.movedim(1, -1))), base.encode(pixels))

    result["preview"] = preview_error(model, headless, pixels)

    # --- the same run with hooks that change nothing, then with a muted word
    marked = mark_words(positive, find_words(clip, PROMPT, ["cat"]))
    watch = Everywhere()
    watched = denoiser.attach(model, Hooks(attention=watch, skips=watch, words=("cat",)))
    result["untouched"] = torch.equal(euler(watched, marked, negative, noise, sigmas), native)
    result["seen"] = len(watch.sites), len(watch.skips)
    mute = Hooks(attention=MuteWord("cat"), words=("cat",))
    muted = euler(denoiser.attach(model, mute), marked, negative, noise, sigmas)
    with torch.no_grad():
        predict = guided(base.denoiser, text, null, GUIDANCE, mute)
        result["muted"] = rel(muted, diffusion.sample(schedule, predict, z, timesteps))
    result["muted_differs"] = rel(muted, native)
    result["unmarked"] = torch.equal(euler(denoiser.attach(model, mute), positive, negative, noise, sigmas), native)
    twice = denoiser.attach(denoiser.attach(model, mute), Hooks(attention=watch, skips=watch))
    result["stacked"] = torch.equal(euler(twice, marked, negative, noise, sigmas), muted)
    result["clean_after"] = torch.equal(euler(model, marked, negative, noise, sigmas), native)

    # --- as a Denoiser
    def compare(native, latents, prompts):
        result["sites"] = [s.__dict__ for s in native.sites] == [s.__dict__ for s in base.denoiser.sites]
        result["skips"] = [s.__dict__ for s in native.skips] == [s.__dict__ for s in base.denoiser.skips]
        result["schedule"] = float((native.schedule.alphas / schedule.alphas - 1).abs().max())
        worst = {}
        for t in (1, 100, 500, 900):
            z = schedule.noise(latents, noise, t)
            here = native(z, t, prompts["negative"], prompts["positive"])
            there = base.denoiser(z, t, null, text)
            worst[t] = max(rel(a, b) for a, b in zip(here, there))
            watched = native(z, t, prompts["negative"], prompts["positive"], hooks=Hooks(watch, watch, words=("cat",)))
            result.setdefault("denoiser_untouched", True)
            result["denoiser_untouched"] &= all(torch.equal(a, b) for a, b in zip(here, watched))
        result["outputs"] = max(worst.values())
        here, there = Recorder(), Recorder()
        native(z, 900, prompts["negative"], prompts["positive"], hooks=Hooks(here, here, streams=2, words=("cat",)))
        base.denoiser(z, 900, null, text, hooks=Hooks(there, there, streams=2, words=("cat",)))
        result["rows"] = here.rows == there.rows
        result["features"] = max(rel(a, b) for a, b in zip(here.features, there.features))
        other = prompts["positive"].with_tokens(prompts["positive"].tokens * 0.5)
        result["with_tokens"] = rel(
            native(z, 900, other)[0], base.denoiser(z, 900, text.with_tokens(text.tokens * 0.5))[0]
        )
        read = References(noise.flip(0), base.text("face").tokens.repeat(len(noise), 1, 1))
        for mode in TIMES:
            free = [FreeRetrieval(read, schedule, d.sites, time=mode).hooks for d in (native, base.denoiser)]
            here = native(z, 500, prompts["negative"], prompts["positive"], hooks=free[0])
            there = base.denoiser(z, 500, null, text, hooks=free[1])
            result[f"free {mode}"] = max(rel(a, b) for a, b in zip(here, there))
            plain = native(z, 500, prompts["negative"], prompts["positive"])
            result[f"free {mode} differs"] = torch.equal(here[0], plain[0]), rel(here[1], plain[1])
        return "returned"

    latents = headless / model.model.latent_format.scale_factor
    conds = {"positive": marked, "negative": negative}
    with torch.no_grad():
        result["returned"] = denoiser.run(model, conds, latents, compare)
    return result
