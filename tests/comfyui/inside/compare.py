"""The node that compares methods: a graph of it, and bad inputs."""

import server
import torch
from inprocess import load_nodes, run_prompt
from likeness_in_comfyui.nodes import compare_model, pictures_model
from likeness_in_comfyui.training import charts

PROMPT, DEMO = "a photo of a cat on the beach", "demo (built in)"


def subject(kind, seed, count=2):
    widgets = dict(kind=kind, identity=0, background="any", style="photo", view="any", size=128)
    return {"class_type": "LikenessDemoSubject", "inputs": {**widgets, "count": count, "seed": seed}}


def message(**inputs):
    try:
        compare_model.compare(**inputs)
    except ValueError as e:
        return str(e)


def main(pack):
    load_nodes()
    server.PromptServer.instance.send_progress_text = lambda text, node_id, sid=None: None
    settings = dict(prompts=PROMPT, names="cats\ncars", clip=DEMO, dino=DEMO, vqa="none", across="clip_t", up="dino")
    links = {"references": ["r", 0], "images_1": ["a", 0], "images_2": ["b", 0]}
    graph = {"r": subject("cat", 1), "a": subject("cat", 5), "b": subject("car", 7)}
    graph["c"] = {"class_type": "LikenessCompare", "inputs": {**links, **settings}}
    names = {name: ["c", i] for i, name in enumerate(("plot", "table", "text"))}
    kept = run_prompt(graph, keep=names | {"r": ["r", 0], "a": ["a", 0], "b": ["b", 0]})
    alone = {
        name: dict(zip(pictures_model.NAMES, pictures_model.measure(kept[key], kept["r"], PROMPT)))
        for name, key in (("cats", "a"), ("cars", "b"))
    }
    pixels = (kept["plot"][0] * 255).round()
    inked = [int((pixels == torch.tensor(colour)).all(-1).sum()) for colour in charts.COLOURS[:2]]
    given = dict(references=kept["r"], images_1=kept["a"], images_2=kept["b"], prompts=PROMPT)
    return {
        "lines": {line.split(",")[0].removeprefix("method "): line for line in kept["text"].splitlines()},
        "alone": alone,
        "plot": list(kept["plot"].shape),
        "table": list(kept["table"].shape),
        "inked": inked,
        "messages": {
            "names": message(**given, names="one"),
            "twice": message(**given, names="one\none"),
            "prompts": message(**{**given, "prompts": "a\nb\nc"}, names="one\ntwo"),
            "vqa": message(**given, names="one\ntwo", up="vqa"),
        },
    }
