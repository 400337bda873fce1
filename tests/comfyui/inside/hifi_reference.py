"""The nodes of HiFi Tuner's reference: whole graphs against the core, what is shown, and bad inputs."""

from types import SimpleNamespace

import comfy.model_management
import server
import torch
from inprocess import load_nodes, run_prompt
from likeness_in_comfyui.core.demo import judges, world
from likeness_in_comfyui.core.hifi.align import align
from likeness_in_comfyui.core.hifi.reference import pick
from likeness_in_comfyui.nodes import hifi_reference as under_test
from likeness_in_comfyui.nodes import hifi_reference_model as model_of

COUNT = 3


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def subject(seed, count=COUNT, view="front"):
    widgets = dict(identity=0, background="any", style="photo", view=view, size=128)
    return node("LikenessDemoSubject", kind="cat", count=count, seed=seed, **widgets)


def graph():
    masks = dict(source_masks=["sources", 1], generated_mask=["generated", 1])
    pictures = dict(generated=["generated", 0], sources=["sources", 0], embedder="demo (built in)")
    aligned = dict(reference=["alone", 0], reference_mask=["alone", 1], target_mask=["generated", 1])
    return {
        "sources": subject(0),
        "generated": subject(1, 1, "left"),
        "second": node("ImageFromBatch", image=["sources", 0], batch_index=1, length=1),
        "plain": node("LikenessPickReference", **pictures),
        "alone": node("LikenessPickReference", **pictures, **masks),
        "own": node("LikenessPickReference", **{**pictures, "generated": ["second", 0]}, source_masks=["sources", 1]),
        "align": node("LikenessAlignReference", **aligned, target=["generated", 0]),
        "grey": node("LikenessAlignReference", **aligned),
    }


PICKED = ("reference", "mask", "index", "similarity", "text")
ALIGNED = ("image", "mask", "overlap", "text")


def run():
    """Every output of every node, by node and name."""
    names = {"plain": PICKED, "alone": PICKED, "own": PICKED, "align": ALIGNED, "grey": ALIGNED}
    links = {(name, output): [name, i] for name, outputs in names.items() for i, output in enumerate(outputs)}
    links |= {(name, i): [name, i] for name in ("sources", "generated") for i in (0, 1)}
    kept = run_prompt(graph(), keep={f"{name} {output}": link for (name, output), link in links.items()})
    return lambda name, output: kept[f"{name} {output}"]


def shown(cls, **inputs):
    """What a node records and what it tells the front end."""
    told = []
    server.PromptServer.instance.send_progress_text = lambda text, node_id: told.append([text, node_id])
    cls.hidden = SimpleNamespace(unique_id="n")
    output = cls.execute(**inputs)
    return [output.args[-1], *output.ui.as_dict()["text"], *told]


def message(work):
    try:
        return str(work())
    except (ValueError, FileNotFoundError) as e:
        return str(e)


def cancelled(work):
    comfy.model_management.interrupt_current_processing()
    try:
        work()
    except comfy.model_management.InterruptProcessingException:
        return True
    return False


def main(pack):
    load_nodes()
    value, result = run(), {}
    sources, source_masks, generated, generated_mask = (
        value(name, i) for name in ("sources", "generated") for i in (0, 1)
    )

    # --- picking
    pictures = [images.movedim(-1, 1) for images in (generated, sources)]
    for name, masks in {"plain": (), "alone": (generated_mask, source_masks)}.items():
        index, similarities = pick(judges.dino(), *pictures, *masks)
        result[f"{name} expected"] = [index, similarities.tolist()]
        result[f"{name} found"] = [value(name, "index"), value(name, "similarity"), value(name, "text")]
        result[f"{name} reference"] = bool(torch.equal(value(name, "reference"), sources[index : index + 1]))
    index = value("alone", "index")
    result["masks"] = [
        bool(torch.equal(value("alone", "mask"), source_masks[index : index + 1])),
        bool(torch.equal(value("plain", "mask"), torch.ones(1, 128, 128))),
        bool(torch.equal(value("own", "mask"), source_masks[1:2])),
    ]
    result["own"] = [value("own", "index"), value("own", "similarity")]

    # --- aligning
    expected = align(source_masks[index], generated_mask[0], max_angle=30)
    result["transform"] = [expected.scale, expected.angle, *expected.shift]
    result["text"] = [value("align", "text"), value("grey", "text")]
    size, reference = (128, 128), value("alone", "reference").movedim(-1, 1)
    moved = expected.apply(source_masks[index][None], size)
    result["difference"] = [
        float((value("align", "image").movedim(-1, 1) - expected.apply(reference, size)).abs().max()),
        float((value("align", "mask") - moved).abs().max()),
    ]
    for name in ("image", "mask", "overlap"):
        result[f"align {name}"] = value("align", name).contiguous()
    result |= {"grey overlap": value("grey", "overlap").contiguous()}
    result |= {"generated": generated.contiguous(), "generated mask": generated_mask.contiguous()}

    # --- batches, sizes, without a graph
    aligned, picked = model_of.aligned, model_of.picked
    batch = aligned(sources, source_masks, generated_mask, generated)
    result["batch"] = [[list(part.shape) for part in batch[:3]], batch[3].splitlines()]
    singles = [aligned(sources[i : i + 1], source_masks[i : i + 1], generated_mask) for i in range(COUNT)]
    result["batch is its rows"] = bool(torch.equal(batch[0], torch.cat([single[0] for single in singles])))
    targets = aligned(sources[:1], source_masks[:1], source_masks, sources)
    result["many targets"] = [list(targets[0].shape), targets[3].splitlines()[0]]
    large = world.draw(world.held_out_subjects(1, "cat")[0], world.sample_scene(0)[1], size=256)
    wide = torch.nn.functional.pad(large.mask, (0, 64))
    result["other size"] = [list(part.shape) for part in aligned(sources[:1], source_masks[:1], wide)[:3]]
    upside_down = source_masks[:1].flip(1, 2)
    result["limits"] = [aligned(sources[:1], source_masks[:1], upside_down, max_rotation=m)[3] for m in (180, 20)]
    result["folder"] = picked(generated, sources, under_test.DEMO, other_embedder=f" {judges.JUDGES / 'dino'} ")[2]

    # --- shown, cancelled, refused
    demo = under_test.DEMO
    inputs = dict(generated=generated, sources=sources, embedder=demo)
    result["shown pick"] = shown(under_test.PickReference, **inputs)
    both = dict(reference=sources[:1], reference_mask=source_masks[:1], target_mask=generated_mask)
    result["shown align"] = shown(under_test.AlignReference, **both)
    result["cancelled"] = cancelled(lambda: aligned(**both))
    empty = torch.cat([source_masks[:2], 0 * source_masks[:1]])
    bad = {
        "two generated": lambda: picked(sources[:2], sources, demo),
        "one mask": lambda: picked(generated, sources, demo, None, generated_mask),
        "mask size": lambda: picked(generated, sources, demo, source_masks[:, :64]),
        "mask count": lambda: picked(generated, sources, demo, source_masks[:2]),
        "empty source": lambda: picked(generated, sources, demo, empty, generated_mask),
        "no folder": lambda: picked(generated, sources, demo, other_embedder="/no/such/dino"),
        "reference mask size": lambda: aligned(sources, source_masks[:, :, :64], generated_mask),
        "target size": lambda: aligned(sources, source_masks, generated_mask, generated[:, :64]),
        "empty reference": lambda: aligned(sources, empty, generated_mask),
        "empty target": lambda: aligned(sources, source_masks, 0 * generated_mask),
        "counts": lambda: aligned(sources, source_masks, source_masks[:2]),
    }
    result["messages"] = {name: message(work) for name, work in bad.items()}
    return result
