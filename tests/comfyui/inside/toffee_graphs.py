"""Toffee's test files and graphs."""

import shutil
from pathlib import Path

import folder_paths
import torch
from likeness_in_comfyui.core import weights
from likeness_in_comfyui.core.demo import judges
from likeness_in_comfyui.core.toffee import adapter as adapters
from likeness_in_comfyui.nodes import learned as files
from likeness_in_comfyui.nodes import toffee_model

PROMPT, GUIDANCE = "a photo of a cat on the beach", 5.0
LONG, SHORT = 10, 3  # steps
WHAT = {"adapter": 0, "low-rank": 2, "whole": None, "nine": None}
OURS = [f"{what}.safetensors" for what in WHAT]


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


# --- files -----------------------------------------------------------------------------------------------------------


def learned(base, what, seed=0):
    """An adapter whose every tensor is random, small enough for a trained model to bear."""
    torch.manual_seed(seed)
    rank = WHAT[what]
    delta = None if rank == 0 else weights.blank(weights.layers_of(base.unet), rank)
    model = "toffeenet" if what == "nine" else "refiner"
    adapter = adapters.blank(model, base.sites, 160, delta, dino=toffee_model.EMBEDDED)
    for name, p in adapter.named_parameters():
        p.requires_grad_(False).add_((0.004 if "delta" in name else 0.05) * torch.randn(p.shape))
    return adapter.eval()


def save_files(base, wide):
    """Each adapter as a file; returns them as they come back from it."""
    folder, back = files.folder(), {}
    folder.mkdir(parents=True, exist_ok=True)
    for what in WHAT:
        path = adapters.save(folder / f"{what}.safetensors", learned(wide if what == "nine" else base, what))
        back[what] = adapters.load(path)
    narrow = adapters.Adapter("refiner", 32, back["adapter"].sites, None, back["adapter"].base, "some/dino")
    adapters.save(folder / "z other dino.safetensors", narrow)
    other = adapters.Adapter("toffeenet", 160, {"mid.2.0.0.cross": (768, 64)}, None, "sd1", "some/dino")
    adapters.save(folder / "z other family.safetensors", other)
    shutil.copytree(judges.JUDGES / "dino", Path(folder_paths.models_dir) / "vision" / "mine" / "dino")
    return back


def graph():
    load = {what: node("LikenessLoadDINOAdapter", file=f"{what}.safetensors") for what in WHAT}
    apply = {
        f"{what} model": node(
            "LikenessApplyDINO",
            model=["wide" if what == "nine" else "demo", 0],
            adapter=[what, 0],
            dino=["tokens", 0],
            strength=0.8,
            start_percent=0.0,
            end_percent=1.0,
        )
        for what in WHAT
    }
    subject = dict(identity=0, count=2, seed=0, background="any", style="photo", view="front", size=128)
    return {
        "demo": node("LikenessLoadDemoModel"),
        "wide": node("LikenessLoadDemoModel", variant="inpainting (nine channels)"),
        "subject": node("LikenessDemoSubject", kind="cat", **subject),
        "drawn": node("LikenessDemoSubject", kind="cat", **{**subject, "seed": 5}),
        "tokens": node("LikenessEncodeDINO", image=["subject", 0], dino="demo (built in)"),
        "alone": node("LikenessEncodeDINO", image=["subject", 0], dino="mine/dino", mask=["subject", 1]),
        "known": node("LikenessEncodeDINO", image=["subject", 0], dino="demo (built in)", mask=["subject", 1]),
        "generated": node("LikenessEncodeDINO", image=["drawn", 0], dino="demo (built in)"),
        "positive": node("CLIPTextEncode", clip=["demo", 1], text=PROMPT),
        "empty": node("CLIPTextEncode", clip=["demo", 1], text=""),
        "inputs": node(
            "LikenessToffeeInputs",
            positive=["positive", 0],
            negative=["empty", 0],
            vae=["demo", 2],
            pixels=["drawn", 0],
            mask=["drawn", 1],
            noise_mask=False,
        ),
        **load,
        **apply,
    }


def refining():
    """The Refiner's whole chain."""
    sampled = dict(seed=1, steps=4, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=0.6)
    applied = graph()["low-rank model"]
    return {
        **{name: graph()[name] for name in ("demo", "subject", "drawn", "tokens", "generated", "empty", "low-rank")},
        "blended": node(
            "LikenessBlendDINO", generated=["generated", 0], subject=["tokens", 0], threshold=0.4, share=0.7
        ),
        "refiner": {**applied, "inputs": {**applied["inputs"], "dino": ["blended", 0]}},
        "start": node("VAEEncode", pixels=["drawn", 0], vae=["demo", 2]),
        "refined": node(
            "KSampler",
            model=["refiner", 0],
            positive=["empty", 0],
            negative=["empty", 0],
            latent_image=["start", 0],
            **sampled,
        ),
        "keep": node("InsideKeep", name="refined", value=["refined", 0]),
        "matches": node("InsideKeep", name="matches", value=["blended", 1]),
        "tokens kept": node("InsideKeep", name="blended", value=["blended", 0]),
    }
