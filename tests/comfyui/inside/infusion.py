"""Infusion's nodes in one process: train, preview, cancel, resume, save, load, apply; against the headless runtime."""

import dataclasses
from pathlib import Path

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import server
import torch
from common import conditioning, rel
from inprocess import load_nodes, run_prompt
from likeness_in_comfyui.core import checkpoint, diffusion
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.core.infusion import concept as concepts
from likeness_in_comfyui.core.infusion.control import Infusion, Use
from likeness_in_comfyui.core.infusion.sampling import draw
from likeness_in_comfyui.nodes import demo_model, denoiser, infusion_model, learned
from likeness_in_comfyui.training import infusion as training
from likeness_in_comfyui.training import loop
from likeness_in_comfyui.training.data import photos

PROMPT = "a photo of a (cat:1.2) on the beach, a cat"
STEPS, KEY = 10, "mid.2.0.0.cross"


def graph(steps=5, **widgets):
    return {
        "1": {"class_type": "LikenessLoadDemoModel", "inputs": {}},
        "2": {
            "class_type": "LikenessDemoSubject",
            "inputs": dict(
                kind="cat", identity=0, count=3, seed=0, background="any", style="photo", view="front", size=128
            ),
        },
        "3": {
            "class_type": "LikenessTrainInfusion",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "vae": ["1", 2],
                "images": ["2", 0],
                "prompt": "a photo of a cat",
                "word": "cat",
                "steps": steps,
                "seed": 3,
                "batch_size": 2,
                "preview_every": 2,
                **widgets,
            },
        },
    }


def cancelled_exactly(folder):
    """A residual after three steps, as the checkpoint of the cancelled training had it: saved in half precision."""
    return concepts.load(folder / "cat cancelled at step 3.safetensors").residuals[KEY]


def fails(**widgets):
    try:
        run_prompt(graph(**widgets), keep={"c": ["3", 0]})
    except (RuntimeError, ValueError) as e:
        return short(e)


def short(e):
    """What the user reads: ComfyUI's report holds the traceback too."""
    return next((part[:300] for part in str(e).split("'exception_message': ")[1:]), str(e)[:300])


def main(pack):
    load_nodes()
    previews, texts = [], []
    server.PromptServer.instance.send_progress_text = lambda text, node_id, sid=None: texts.append(
        [text, node_id, len(previews)]
    )
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: previews.append([value, total, preview is not None])
    )
    unbroken = run_prompt(graph(seed=3), keep={"c": ["3", 0], "plot": ["3", 1]})
    result = {"previews": previews[:], "texts": texts[:], "plot": list(unbroken["plot"].shape)}
    folder = learned.folder()
    checkpoints = sorted((folder / ".training").iterdir())
    result["checkpoints"] = len(checkpoints)
    for file in checkpoints:
        file.unlink()

    # --- cancelled in the middle, then queued again
    def interrupt(value, total, preview, node_id=None):
        if value == 3 and preview is None:
            comfy.model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt)
    result["interrupted"] = fails()
    comfy.utils.set_progress_bar_global_hook(None)
    result["cancelled_file"] = [p.name for p in folder.glob("*.safetensors")]
    cancelled = concepts.load(folder / result["cancelled_file"][0])
    result["cancelled_steps"] = cancelled.settings["steps"]
    resumed = run_prompt(graph(), keep={"c": ["3", 0]})["c"]
    a, b = (c.residuals for c in (resumed, unbroken["c"]))
    result["resumed"] = all(torch.equal(a[k], b[k]) for k in b)
    again = run_prompt(graph(steps=3), keep={"c": ["3", 0], "plot": ["3", 1]})
    result["fewer"] = (
        again["c"].settings["steps"],
        torch.equal(again["c"].residuals[KEY].half().float(), cancelled_exactly(folder)),
    )
    result["listed"] = folder_paths.get_filename_list("likeness")

    # --- the same learning headless
    model, clip, _ = demo_model.load()
    with torch.inference_mode(False):
        base = checkpoint.load(MODEL)
    pictures = run_prompt(graph(), keep={"images": ["2", 0]})["images"].movedim(-1, 1)
    learn = training.Learn(batch=2, loop=loop.Settings(steps=5, lr=0.01, clip=0.0, seed=3))
    with torch.inference_mode(False):
        latents = photos.encode(photos.prepare(list(pictures.clone()), 128), base.encode)
        text = base.text("a photo of a cat", ["cat"])
        headless, other = (
            training.Training(base.denoiser, text, latents, "cat", each).run()
            for each in (learn, dataclasses.replace(learn, bins=2, snr=True))
        )
    result["headless"] = max(rel(b[k], r) for k, r in headless.residuals.items())
    binned = run_prompt(graph(bins=2, snr_weighting=True), keep={"c": ["3", 0]})["c"]
    result["headless, SNR and bins"] = max(rel(binned.residuals[k], r) for k, r in other.residuals.items())
    unweighted = run_prompt(graph(bins=2), keep={"c": ["3", 0]})["c"]
    result["SNR changes"] = rel(unweighted.residuals[KEY], binned.residuals[KEY])

    # --- drawing, both runtimes
    strong = concepts.Concept(resumed.words, {k: 300 * r for k, r in resumed.residuals.items()}, "text", resumed.base)
    patched = infusion_model.apply(model, Use(strong))
    positive, negative = infusion_model.encode(clip, PROMPT, strong), conditioning(clip, "")
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(11))
    schedule = diffusion.Schedule(base.denoiser.schedule.alphas, final_alpha=1.0)
    timesteps = schedule.timesteps(STEPS)
    sigmas = torch.cat([model.get_model_object("model_sampling").sigmas[timesteps], torch.zeros(1)])

    def native(model):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(5.0)
        out = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.ksampler("euler"), sigmas, disable_pbar=True)
        return model.model.process_latent_in(out)

    z = noise * (1 - schedule.alpha(timesteps[0])).sqrt().float()
    text, null = base.text(PROMPT, ["cat"]), base.text("")
    base.denoiser.schedule = schedule
    infusion = Infusion([Use(strong)])
    with torch.no_grad():
        exact = draw(base.denoiser, text, null, infusion, z, timesteps, guidance=5.0)
        fast = draw(base.denoiser, text, null, infusion, z, timesteps, guidance=5.0, fast=True)[1]
    result["changes"] = rel(exact[1], exact[0])
    result["exact"] = rel(native(patched), exact[1])
    result["untouched"] = rel(native(model), exact[0])
    result["fast"] = rel(native(infusion_model.apply(model, Use(strong), fast=True)), fast)
    result["fast_differs"] = rel(fast, exact[1])
    halves = dataclasses.replace(binned, residuals={k: 300 * r for k, r in binned.residuals.items()})
    with torch.no_grad():
        ours = draw(base.denoiser, text, null, Infusion([Use(halves)]), z, timesteps, guidance=5.0)[1]
    result["bins"] = rel(native(infusion_model.apply(model, Use(halves))), ours)
    dog = concepts.Concept(("beach",), strong.residuals, "text", strong.base)
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    lcm = ModelSamplingDiscrete().patch(model, "lcm", False)[0]
    result["lcm_changes"] = rel(native(infusion_model.apply(lcm, Use(strong))), native(lcm))
    chained = infusion_model.apply(patched, Use(dog, strength=0.5))
    quick = infusion_model.apply(infusion_model.apply(model, Use(strong), fast=True), Use(dog, strength=0.5))
    result["fast of one"] = [m.get_attachment(infusion_model.FAST) for m in (quick, chained)]
    result["chained"] = len(infusion_model.uses_of(chained)), len(infusion_model.uses_of(patched))
    text = base.text(PROMPT, ["cat", "beach"])
    positive = infusion_model.encode(clip, PROMPT, dog, positive)
    with torch.no_grad():
        both = draw(base.denoiser, text, null, Infusion([Use(strong), Use(dog, 0.5)]), z, timesteps, guidance=5.0)[1]
    result["both"] = rel(native(chained), both)

    # --- files and messages
    saved = run_prompt(
        {
            **graph(),
            "4": {
                "class_type": "LikenessSaveConcept",
                "inputs": {"concept": ["3", 0], "name": "sub/my cat", "thumbnail": ["2", 0]},
            },
        },
        keep={"file": ["4", 0]},
    )
    result["saved"] = saved["file"], sorted(p.name for p in (folder / "sub").iterdir())
    loaded = run_prompt(
        {"1": {"class_type": "LikenessLoadConcept", "inputs": {"file": str(Path("sub") / "my cat.safetensors")}}},
        keep={"c": ["1", 0], "word": ["1", 1]},
    )
    result["loaded"] = loaded["word"], rel(loaded["c"].residuals["mid.2.0.0.cross"], b["mid.2.0.0.cross"])
    result["messages"] = {
        "size": fails(size=33),
        "word": fails(word="dog"),
        "mask": fails(mask=["2", 3]),
    }
    for name in ("", "../x", "a:b"):
        try:
            result["messages"][f"name {name}"] = str(learned.free_path(name))
        except ValueError as e:
            result["messages"][f"name {name}"] = str(e)
    try:
        infusion_model.apply(model, Use(concepts.Concept(("cat",), strong.residuals, "text", "sdxl")))
    except ValueError as e:
        result["messages"]["base"] = str(e)
    try:
        infusion_model.apply(patched, Use(strong))
    except ValueError as e:
        result["messages"]["twice"] = str(e)
    try:
        denoiser.run(patched, {"positive": positive}, torch.zeros(2, 4, 16, 16), lambda *args: None)
    except ValueError as e:
        result["messages"]["run"] = str(e)
    (folder / "broken.safetensors").write_bytes(b"nothing")
    try:
        run_prompt(
            {"1": {"class_type": "LikenessLoadConcept", "inputs": {"file": "broken.safetensors"}}}, keep={"c": ["1", 0]}
        )
    except RuntimeError as e:
        result["messages"]["broken"] = short(e)
    return result
