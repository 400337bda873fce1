"""HiFi Tuner's subject nodes in one process: train, preview, cancel, resume, save, load, apply; against headless."""

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
from likeness_in_comfyui.core.denoiser import Hooks, guided
from likeness_in_comfyui.core.hifi import subject as subjects
from likeness_in_comfyui.core.hifi.subject import Subject, SubjectText
from likeness_in_comfyui.nodes import demo_model, denoiser, hifi_model, learned
from likeness_in_comfyui.training import hifi as training
from likeness_in_comfyui.training import loop
from likeness_in_comfyui.training.data import photos

PROMPT = "a photo of a (cat:1.2) on the beach"
STEPS = 8


def graph(steps=3, timesteps=2, **widgets):
    return {
        "1": {"class_type": "LikenessLoadDemoModel", "inputs": {}},
        "2": {
            "class_type": "LikenessDemoSubject",
            "inputs": dict(
                kind="cat", identity=0, count=3, seed=0, background="any", style="photo", view="front", size=128
            ),
        },
        "3": {
            "class_type": "LikenessTrainHiFi",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "vae": ["1", 2],
                "images": ["2", 0],
                "mask": ["2", 1],
                "prompt": "a photo of a cat",
                "word": "cat",
                "steps": steps,
                "timesteps": timesteps,
                "steps_each": 2,
                "seed": 3,
                "batch_size": 2,
                "preview_every": 2,
                **widgets,
            },
        },
    }


def fails(**widgets):
    try:
        run_prompt(graph(**widgets), keep={"s": ["3", 0]})
    except (RuntimeError, ValueError) as e:
        return short(e)


def short(e):
    """What the user reads: ComfyUI's report holds the traceback too."""
    return next((part[:300] for part in str(e).split("'exception_message': ")[1:]), str(e)[:300])


def said(work):
    try:
        work()
    except (ValueError, FileNotFoundError) as e:
        return str(e)


def rows_used(model, clip):
    """For every sampler and scheduler: the rows in each network call, whose trained timestep is its nearest."""
    steps = tuple(range(981, 0, -20))  # rows that hold their own number
    subject = Subject(torch.arange(50.0)[:, None, None].expand(50, 5, 192).clone(), steps, "cat", "context-192")

    class Reading(SubjectText):
        seen = []

        def __call__(self, tokens, rows):
            out = super().__call__(tokens, rows)
            for token, t in zip(out[rows.conditional], rows.timestep[rows.conditional]):
                self.seen.append((token[-5:].float().unique().tolist(), float(t)))
            return out

    reading = Reading(subject)
    patched = denoiser.attach(model, reading.hooks)
    positive, negative = hifi_model.encode(clip, PROMPT, subject), conditioning(clip, "")
    sampling = model.get_model_object("model_sampling")
    wrong, calls = [], 0
    schedules = [("euler", s) for s in comfy.samplers.SCHEDULER_NAMES] + [
        (s, "normal") for s in comfy.samplers.SAMPLER_NAMES
    ]
    for sampler, scheduler in schedules:
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(positive, negative)
        guider.set_cfg(5.0)
        sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, 4)
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        reading.seen.clear()
        guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object(sampler), sigmas, disable_pbar=True, seed=1
        )
        for values, t in reading.seen:
            nearest = min(range(50), key=lambda i: abs(steps[i] - t))
            if len(values) != 1 or abs(steps[int(values[0])] - t) > abs(steps[nearest] - t) + 1e-3:
                wrong.append((sampler, scheduler, values, t))
        calls += len(reading.seen)
    return wrong, calls, len(schedules)


def main(pack):
    load_nodes()
    previews, texts = [], []
    server.PromptServer.instance.send_progress_text = lambda text, node_id, sid=None: texts.append([text, node_id])
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: previews.append([value, total, preview is not None])
    )
    unbroken = run_prompt(graph(), keep={"s": ["3", 0], "plot": ["3", 1]})
    result = {"previews": previews[:], "texts": texts[:], "plot": list(unbroken["plot"].shape)}
    folder = learned.folder()
    result["checkpoints"] = sorted(p.suffix for p in (folder / ".training").iterdir())
    for file in (folder / ".training").iterdir():
        file.unlink()

    # --- cancelled in the second stage, then queued again
    def interrupt(value, total, preview, node_id=None):
        if value == 6 and preview is None:
            comfy.model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt)
    result["interrupted"] = fails()
    comfy.utils.set_progress_bar_global_hook(None)
    result["cancelled_file"] = [p.name for p in folder.glob("*.safetensors")]
    cancelled = subjects.load(folder / result["cancelled_file"][0])
    result["cancelled"] = list(cancelled.rows.shape), cancelled.settings["steps"]
    resumed = run_prompt(graph(), keep={"s": ["3", 0]})["s"]
    result["resumed"] = torch.equal(resumed.rows, unbroken["s"].rows)
    result["listed"] = learned.files_of(subjects.KIND), folder_paths.get_filename_list("likeness")

    # --- the same learning headless
    model, clip, _ = demo_model.load()
    pictures = run_prompt(graph(), keep={"images": ["2", 0], "mask": ["2", 1]})
    with torch.inference_mode(False):
        base = checkpoint.load(MODEL)
        shots, masks = list(pictures["images"].movedim(-1, 1).clone()), list(pictures["mask"][:, None].clone())
        latents = photos.encode(photos.prepare(shots, 128, masks=masks), base.encode)
        settings = loop.Settings(steps=3, lr=5e-3, clip=0.0, seed=3)
        learn = training.Learn(timesteps=2, each=2, batch=2, loop=settings)
        text, null = base.text("a photo of a cat", ["cat"]), base.text("")
        headless = training.Training(base.denoiser, text, null, latents, "cat", learn).run()
    result["headless"] = rel(resumed.rows, headless.rows), resumed.timesteps == headless.timesteps

    # --- drawing, both runtimes
    g = torch.Generator().manual_seed(5)
    strong = Subject(3 * torch.randn(4, 5, 192, generator=g), (901, 601, 301, 1), "cat", "context-192")
    noise = torch.randn(2, 4, 16, 16, generator=g)
    schedule = diffusion.Schedule(base.denoiser.schedule.alphas, final_alpha=1.0)
    timesteps = schedule.timesteps(STEPS)
    sigmas = torch.cat([model.get_model_object("model_sampling").sigmas[timesteps], torch.zeros(1)])
    negative = conditioning(clip, "")

    def native(model, positive):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(5.0)
        out = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.ksampler("euler"), sigmas, disable_pbar=True)
        return model.model.process_latent_in(out)

    positive = hifi_model.encode(clip, PROMPT, strong)
    carried = subjects.carry(base.text(PROMPT, ["cat"]), PROMPT, base.text.tokenize, strong)
    z = noise * (1 - schedule.alpha(timesteps[0])).sqrt().float()
    with torch.no_grad():
        for strength in (0.4, 1.0):
            predict = guided(base.denoiser, carried, null, 5.0, SubjectText(strong, strength).hooks)
            expected = diffusion.sample(schedule, predict, z, timesteps)
            result[f"drawn {strength}"] = rel(native(hifi_model.apply(model, strong, strength), positive), expected)
    plain = native(model, conditioning(clip, PROMPT))
    result["changes"] = rel(expected, plain)
    result["strength 0"] = torch.equal(native(hifi_model.apply(model, strong, 0.0), positive), plain)
    result["rests"] = torch.equal(native(hifi_model.apply(model, strong), conditioning(clip, PROMPT)), plain)
    both = denoiser.attach(hifi_model.apply(model, strong), Hooks(text=lambda tokens, rows: tokens))
    result["beside"] = torch.equal(native(both, positive), native(hifi_model.apply(model, strong), positive))
    result["rows"] = rows_used(model, clip)

    # --- figure 3
    maps = run_prompt(
        {
            **graph(),
            "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
            "5": {
                "class_type": "LikenessSubjectAttention",
                "inputs": {
                    **{name: graph()["3"]["inputs"][name] for name in ("model", "clip", "vae")},
                    "subject": ["3", 0],
                    "prompt": PROMPT,
                    "latent": ["4", 0],
                    "seed": 0,
                    "steps": 6,
                    "guidance": 5.0,
                    "shown": 3,
                },
            },
        },
        keep={"maps": ["5", 0], "image": ["5", 1]},
    )
    result["maps"] = list(maps["maps"].shape), float(maps["maps"].std()), list(maps["image"].shape)

    # --- files and messages
    saved = run_prompt(
        {
            **graph(),
            "4": {
                "class_type": "LikenessSaveSubject",
                "inputs": {"subject": ["3", 0], "name": "sub/my cat", "thumbnail": ["2", 0]},
            },
        },
        keep={"file": ["4", 0]},
    )
    result["saved"] = saved["file"], sorted(p.name for p in (folder / "sub").iterdir())
    loaded = run_prompt(
        {"1": {"class_type": "LikenessLoadSubject", "inputs": {"file": saved["file"]}}},
        keep={"s": ["1", 0], "word": ["1", 1]},
    )
    result["loaded"] = loaded["word"], rel(loaded["s"].rows, resumed.rows)
    long = "a photo of a cat " + "on the beach " * 22 + "now"
    about = (strong.timesteps, "cat", strong.base)
    split = model.clone()
    split.set_additional_models("multigpu", [model.clone()])
    result["messages"] = {
        "size": fails(size=33),
        "word": fails(word="dog"),
        "long": fails(prompt=long),
        "apply long": said(lambda: hifi_model.encode(clip, long, strong)),
        "another": said(lambda: hifi_model.encode(clip, PROMPT, Subject(-strong.rows, *about), positive)),
        "multigpu": said(lambda: native(hifi_model.apply(split, strong), positive)),
        "base": said(lambda: hifi_model.apply(model, Subject(strong.rows, strong.timesteps, "cat", "sdxl"))),
        "short": said(lambda: hifi_model.encode(clip, PROMPT + " and a cup" * 30, strong, conditioning(clip, "a cat"))),
    }
    return result
