"""Inversion, null texts, reference guidance and replacement as nodes in one process, against the headless runtime."""

import comfy.samplers
import comfy.utils
import torch
from common import conditioning, rel
from inprocess import load_nodes, run_prompt
from likeness_in_comfyui.core import checkpoint, diffusion, prompts
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.core.denoiser import guided
from likeness_in_comfyui.core.hifi import guidance, inversion, replacement
from likeness_in_comfyui.core.hifi import subject as subjects
from likeness_in_comfyui.core.hifi.subject import Subject, SubjectText
from likeness_in_comfyui.nodes import demo_model, hifi_loops, hifi_model

CAPTION, PROMPT, STEPS = "a photo of a red dog on the beach", "a photo of a cat in the city", 10


def graph(**more):
    """The demo model, a photo of a dog and its mask, its latents, its caption, an empty prompt, a schedule."""
    clip = {"clip": ["1", 1]}
    return {
        "1": {"class_type": "LikenessLoadDemoModel", "inputs": {}},
        "2": {
            "class_type": "LikenessDemoSubject",
            "inputs": dict(
                kind="dog", identity=0, count=1, seed=0, background="beach", style="photo", view="front", size=128
            ),
        },
        "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["1", 2]}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {**clip, "text": CAPTION}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {**clip, "text": ""}},
        "6": {
            "class_type": "BasicScheduler",
            "inputs": {"model": ["1", 0], "scheduler": "ddim_uniform", "steps": STEPS, "denoise": 1.0},
        },
        "7": {
            "class_type": "LikenessInvert",
            "inputs": {"model": ["1", 0], "positive": ["4", 0], "latent": ["3", 0], "sigmas": ["6", 0]},
        },
        **more,
    }


def null_text(steps=2):
    links = {"model": ["1", 0], "positive": ["4", 0], "negative": ["5", 0], "trajectory": ["7", 0]}
    return {"class_type": "LikenessNullText", "inputs": {**links, "guidance": 5.0, "steps": steps}}


def led(seed=4, sampler=None, positive=("10", 0), negative=("5", 0), guider=None, sigmas=("6", 0), **settings):
    """A second pass with SamplerCustomAdvanced; `sampler` names another than ours."""
    ours = {
        "class_type": "LikenessReferenceGuidance",
        "inputs": {"trajectory": ["7", 0], "mask": ["2", 1], "start": 40, "end": 10, "steps": 2, **settings},
    }
    return {
        "10": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": PROMPT}},
        "11": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "12": {"class_type": "RandomNoise", "inputs": {"noise_seed": seed}},
        "13": guider
        or {
            "class_type": "CFGGuider",
            "inputs": {"model": ["1", 0], "positive": list(positive), "negative": list(negative), "cfg": 5.0},
        },
        "14": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": sampler}} if sampler else ours,
        "15": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["12", 0],
                "guider": ["13", 0],
                "sampler": ["14", 0],
                "sigmas": list(sigmas),
                "latent_image": ["11", 0],
            },
        },
    }


def replaced(**widgets):
    links = {"model": ["1", 0], "clip": ["1", 1], "trajectory": ["8", 0]}
    words = {"caption": CAPTION, "old_word": "red dog", "new_word": "cat", **widgets}
    return {"class_type": "LikenessReplaceSubject", "inputs": {**links, **words}}


def drawn(**kwargs):
    return run_prompt(graph(**led(**kwargs)), keep={"x": ["15", 0]})["x"]["samples"]


def fails(workflow, link):
    try:
        run_prompt(workflow, keep={"x": link})
    except (RuntimeError, ValueError) as e:
        return next((part[:300] for part in str(e).split("'exception_message': ")[1:]), str(e)[:300])


def main(pack):
    load_nodes()
    model, clip, _ = demo_model.load()
    with torch.inference_mode(False):
        base = checkpoint.load(MODEL)
        base.denoiser.schedule = schedule = diffusion.Schedule(base.denoiser.schedule.alphas, final_alpha=1.0)
    result = {}

    # --- inversion and null texts
    made = run_prompt(
        graph(**{"8": null_text()}),
        keep={"path": ["7", 0], "noise": ["7", 1], "nulls": ["8", 0], "back": ["8", 1], "z": ["3", 0], "m": ["2", 1]},
    )
    path, timesteps = made["path"], list(made["path"].timesteps)
    result["timesteps"] = timesteps
    with torch.inference_mode(False):
        z = model.model.process_latent_in(made["z"]["samples"].clone())
        caption, null = base.text(CAPTION), base.text("")
        ours = inversion.invert(base.denoiser, caption, z, timesteps)
        result["inverted"] = rel(path.latents, ours.latents)
        nulls = inversion.null_text(base.denoiser, caption, null, ours, 5.0, steps=2)
    result["nulls"] = rel(made["nulls"].nulls, nulls.nulls), rel(made["nulls"].drawn, nulls.drawn)
    result["back"] = rel(model.model.process_latent_in(made["back"]["samples"]), made["nulls"].drawn[0])
    # the noise, drawn by an ordinary sampler without guidance, gives nearly the picture back
    sigmas = torch.cat([model.get_model_object("model_sampling").sigmas[timesteps], torch.zeros(1)])
    again = comfy.samplers.sample(
        model,
        torch.zeros_like(made["noise"]["samples"]),
        conditioning(clip, CAPTION),
        conditioning(clip, ""),
        1.0,
        torch.device("cpu"),
        comfy.samplers.ksampler("euler"),
        sigmas,
        latent_image=made["noise"]["samples"],
        disable_pbar=True,
    )
    predict = guided(base.denoiser, caption, caption, 1.0)
    with torch.no_grad():
        expected = diffusion.sample(schedule, predict, ours.noise, timesteps)
    result["noise"] = rel(model.model.process_latent_in(again), expected)

    # --- guidance by a reference
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    at = float(model.get_model_object("model_sampling").sigmas[timesteps[0]])
    near_one = at >= float(model.get_model_object("model_sampling").sigma_max) - 1e-5
    start = x * at / (1 + at**2) ** 0.5 if not near_one else x
    mask = guidance.at_latent_size(made["m"].clone(), (16, 16))
    args = (base.denoiser, base.text(PROMPT), null, start, timesteps, ours, mask, 5.0)
    with torch.inference_mode(False):
        for name, settings in {
            "led": dict(steps=2),
            "fast": dict(fast=0.4),
            "substituted": dict(steps=0),
        }.items():
            expected = guidance.reference_guided(*args, guidance.Guidance(**settings))
            result[name] = rel(model.model.process_latent_in(drawn(**settings)), expected)
    plain = drawn(sampler="euler")
    faint = {"class_type": "SolidMask", "inputs": {"value": 0.1, "width": 128, "height": 128}}
    unled = run_prompt(graph(**led(mask=["16", 0]), **{"16": faint}), keep={"x": ["15", 0]})["x"]["samples"]
    result["plain"] = rel(unled, plain)
    result["changes"] = rel(drawn(), plain)
    result["twice"] = torch.equal(drawn(), drawn())
    previews = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: previews.append(value))
    drawn()
    comfy.utils.set_progress_bar_global_hook(None)
    result["progress"] = max(previews)

    # --- with a subject in the model, as Apply HiFi Subject puts it there
    g = torch.Generator().manual_seed(5)
    strong = Subject(3 * torch.randn(4, 5, 192, generator=g), (901, 601, 301, 1), "cat", "context-192")
    sampler = hifi_loops.ReferenceSampler(path, made["m"], guidance.Guidance(steps=2))
    guider = comfy.samplers.CFGGuider(hifi_model.apply(model, strong))
    guider.set_conds(hifi_model.encode(clip, PROMPT, strong), conditioning(clip, ""))
    guider.set_cfg(5.0)
    shown = []
    native = guider.sample(
        x, torch.zeros_like(x), sampler, sigmas, callback=lambda i, x0, x, n: shown.append(x0), disable_pbar=True
    )
    result["shown"] = [float((x0.cpu() - model.model.process_latent_in(native)).square().mean().sqrt()) for x0 in shown]
    carried = subjects.carry(base.text(PROMPT), PROMPT, base.text.tokenize, strong)
    with torch.inference_mode(False):
        expected = guidance.reference_guided(
            args[0], carried, *args[2:], guidance.Guidance(steps=2), hooks=SubjectText(strong).hooks
        )
    result["with a subject"] = rel(model.model.process_latent_in(native), expected)

    # --- replacement
    swapped = run_prompt(graph(**{"8": null_text(), "9": replaced()}), keep={"x": ["9", 0]})["x"]["samples"]
    target = "a photo of a cat on the beach"
    words = {"cat": prompts.positions(target, "cat", base.text.tokenize)}
    mapper = prompts.align(CAPTION, target, base.text.tokenize)
    with torch.inference_mode(False):
        text = base.text(target, ["cat"])
        expected = replacement.replace_subject(base.denoiser, caption, text, null, nulls, mapper, "cat")
        result["words"] = bool(torch.equal(text.words["cat"], words["cat"]))
    result["replaced"] = rel(model.model.process_latent_in(swapped), expected)
    result["replaced changes"] = rel(expected, nulls.drawn[0])
    native, said = hifi_loops.replace_subject(model, clip, made["nulls"], CAPTION, "red dog", "cat", strong)
    with torch.inference_mode(False):
        carried = subjects.carry(text, target, base.text.tokenize, strong)
        hooks = SubjectText(strong).hooks
        expected = replacement.replace_subject(base.denoiser, caption, carried, null, nulls, mapper, "cat", hooks=hooks)
    result["replaced by a subject"] = rel(model.model.process_latent_in(native["samples"]), expected)
    result["said"] = said

    # --- messages
    one = {"class_type": "CFGGuider", "inputs": {**led()["13"]["inputs"], "cfg": 1.0}}
    basic = {"class_type": "BasicGuider", "inputs": {"model": ["1", 0], "conditioning": ["4", 0]}}
    other = {"class_type": "BasicScheduler", "inputs": {**graph()["6"]["inputs"], "steps": 5}}
    small = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    empty = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 128, "height": 128}}
    noise_mask = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["20", 0], "mask": ["2", 1]}}
    wide = led()["11"]
    two = {"class_type": "RepeatImageBatch", "inputs": {"image": ["22", 0], "amount": 2}}
    twice = {"21": {"class_type": "ImageToMask", "inputs": {"image": ["23", 0], "channel": "red"}}, "23": two}
    twice["22"] = {"class_type": "MaskToImage", "inputs": {"mask": ["2", 1]}}
    part = {"class_type": "SplitSigmas", "inputs": {"sigmas": ["6", 0], "step": 4}}
    result["messages"] = {
        "guidance": fails(graph(**led(guider=one)), ["15", 0]),
        "guider": fails(graph(**led(guider=basic)), ["15", 0]),
        "steps": fails(graph(**led(sigmas=("16", 0)), **{"16": other}), ["15", 0]),
        "size": fails(graph(**{**led(), "11": small}), ["15", 0]),
        "mask": fails(graph(**led(mask=["16", 0]), **{"16": empty}), ["15", 0]),
        "masks": fails(graph(**led(mask=["21", 0]), **twice), ["15", 0]),
        "span": fails(graph(**led(start=5, end=20)), ["15", 0]),
        "sigmas": fails(graph(**led(sigmas=("16", 0)), **{"16": part}), ["15", 0]),
        "noise mask": fails(graph(**{**led(), "11": noise_mask, "20": wide}), ["15", 0]),
        "word": fails(graph(**{"8": null_text(), "9": replaced(old_word="cow")}), ["9", 0]),
        "nulls": fails(graph(**{"9": replaced(trajectory=["7", 0])}), ["9", 0]),
    }
    return result
