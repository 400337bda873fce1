"""The node that measures pictures, whole graphs and bad inputs; against the headless command's code."""

import server
import torch
from inprocess import load_nodes, run_prompt
from likeness_in_comfyui.nodes import pictures_model
from likeness_in_comfyui.training import evaluate

NAMES = ("clip_i", "clip_t", "dino", "seg_clip_i", "seg_dino", "vqa", "swd", "text")
PROMPT = "a photo of a person on the beach"


def subject(seed, count):
    widgets = dict(kind="person", identity=0, background="any", style="photo", view="any", size=128)
    return {"class_type": "LikenessDemoSubject", "inputs": {**widgets, "count": count, "seed": seed}}


def measured(**inputs):
    links = {"images": ["a", 0], "references": ["b", 0]}
    settings = dict(prompts=PROMPT, clip="demo (built in)", dino="demo (built in)", vqa="demo (built in)")
    node = {"class_type": "LikenessMeasurePictures", "inputs": {**links, **settings, "pair": "vqa x clip_i", **inputs}}
    kept = run_prompt(
        {"a": subject(5, 3), "b": subject(1, 2), "m": node},
        keep={name: ["m", i] for i, name in enumerate(NAMES)}
        | {"images": ["a", 0], "shown": ["b", 0], "mask": ["a", 1], "shown_mask": ["b", 1]},
    )
    return kept


def message(**inputs):
    try:
        pictures_model.measure(**inputs)
    except (ValueError, FileNotFoundError) as e:
        return str(e)


def main(pack):
    load_nodes()
    server.PromptServer.instance.send_progress_text = lambda text, node_id, sid=None: None
    whole = measured(mask=["a", 1], reference_mask=["b", 1])
    images, shown = (whole.pop(name) for name in ("images", "shown"))
    masks = [whole.pop(name) for name in ("mask", "shown_mask")]
    sides = [x.movedim(-1, 1) for x in (images, shown)]
    expected = evaluate.score(evaluate.embedded(), *sides, [PROMPT] * 3, tuple(m[:, None] for m in masks)).summary()
    bare = measured(prompts="", vqa="none", pair="clip_i x clip_t")
    same = measured(images=["b", 0], vqa="none")
    picture = torch.rand(2, 32, 32, 3)
    given = {"images": picture, "references": picture}
    return {
        "whole": whole,
        "expected": expected,
        "bare": {name: bare[name] for name in NAMES},
        "same": same["dino"],
        "messages": {
            "prompts": message(**given, prompts="a\nb\nc"),
            "mask": message(**given, mask=torch.ones(2, 32, 32)),
            "size": message(**given, mask=torch.ones(2, 32, 32), reference_mask=torch.ones(2, 16, 16)),
            "none": message(**given, mask=torch.ones(2, 32, 32), reference_mask=torch.zeros(2, 32, 32)),
            "clip": message(**given, clip="gone"),
        },
    }
