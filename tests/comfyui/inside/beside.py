"""A method that changes nothing changes nothing beside other nodes' patches, however late those patch."""

import torch
from common import Everywhere, conditioning, controlled
from inprocess import run_prompt
from likeness_in_comfyui.core.denoiser import Hooks
from likeness_in_comfyui.nodes import demo_model, denoiser

import nodes


def defaults(class_type):
    """A node's own default widgets, for either kind of node."""
    out = {}
    for name, declared in nodes.NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES()["required"].items():
        kind, options = declared[0], declared[1] if len(declared) > 1 else {}
        choices = kind if isinstance(kind, list) else options.get("options")
        if options.get("default") is not None or choices:
            out[name] = options.get("default", choices[0] if choices else None)
    return out


def main(pack, patches):
    from inprocess import load_nodes

    load_nodes()
    _, clip, _ = demo_model.load()
    positive, negative = conditioning(clip, "a red cat"), conditioning(clip, "")
    empty = nodes.EmptyLatentImage().generate(128, 128, 1)[0]

    def sample(model):
        torch.manual_seed(3)  # token merging draws from the global generator
        return nodes.common_ksampler(model, 1, 4, 4.0, "euler", "normal", positive, negative, empty)[0]["samples"]

    plain, result = sample(demo_model.load()[0]), {}
    for name, class_type, widgets in patches:
        graph = {"1": {"class_type": "LikenessLoadDemoModel", "inputs": {}}}
        inputs = {**defaults(class_type), **widgets, "model": ["1", 0]}
        graph["p"] = {"class_type": class_type, "inputs": inputs}
        patched = run_prompt(graph, keep={"model": ["p", 0]})["model"]
        alone = sample(patched)
        beside = sample(denoiser.attach(patched, Hooks(Everywhere(), Everywhere())))
        twice = denoiser.attach(denoiser.attach(patched, Hooks(Everywhere(), Everywhere())), Hooks(Everywhere()))
        result[name] = {
            "works": not torch.equal(alone, plain),
            "same": torch.equal(alone, beside) and torch.equal(alone, sample(twice)),
        }
    model = demo_model.load()[0]
    _, positive, negative = controlled(positive, negative)
    alone, beside = sample(model), sample(denoiser.attach(model, Hooks(Everywhere(), Everywhere())))
    result["ControlNet"] = {"works": not torch.equal(alone, plain), "same": torch.equal(alone, beside)}
    return result
