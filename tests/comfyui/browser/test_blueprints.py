"""The blueprints in a real browser: found in the node library, placed, connected, and run as a user would."""

import json

import numpy as np
import pytest

from ..blueprints import BLUEPRINTS
from ..graphs import five_photos, node
from ..hifi_graphs import WORD, train
from ..launch import REPOSITORY
from ..toffee_graphs import INPAINTING, load, photo
from .chromium import browse, what_is_missing
from .test_browser import WORKFLOW_SECONDS, shortened

LED, REPLACED = "Draw Subject Led by a Photo (HiFi Tuner)", "Replace Subject in a Photo (HiFi Tuner)"
PUT = "Put Subject into a Photo (Toffee)"
MODEL = {"model": (1, 0), "clip": (1, 1), "vae": (1, 2)}


@pytest.fixture(autouse=True)
def browser():
    reason = what_is_missing()
    if reason:
        pytest.skip(reason)


def around():
    """What a user has on the canvas: a model, photos, and what shall be saved."""
    return {
        "1": node("LikenessLoadDemoModel"),
        "2": node("SaveImage", filename_prefix="blueprint"),
        "3": node("SaveImage", filename_prefix="blueprint"),
        "4": five_photos(WORD),
    }


def placed(server, folder, name, graph, inputs, outputs, widgets):
    """The prompt that the front end makes of a graph and a blueprint from its library."""
    if not server.get("/global_subgraphs").ok:
        pytest.skip("this ComfyUI offers no subgraph blueprints")
    api, links, back = (folder / f"{what}.json" for what in ("graph", "links", "api"))
    api.write_text(json.dumps(graph))
    links.write_text(json.dumps({"inputs": inputs, "outputs": outputs, "widgets": widgets}))
    browse(server, workflow=api, place=name, connect=links, png=folder / "page.png", to_api=back)
    return json.loads(back.read_text())


def test_a_subject_led_by_a_photo(server, tmp_path):
    graph = around() | {"5": train(6, 2), "6": node("PreviewImage")}
    inputs = {**MODEL, "subject": (5, 0), "photos": (4, 0), "photo masks": (4, 1)}
    outputs = {"image": (2, "images"), "without the photo": (3, "images"), "overlap": (6, "images")}
    prompt = placed(
        server, tmp_path, LED, graph, inputs, outputs, {"steps": 5, "prompt": f"a photo of a {WORD} at night"}
    )
    inner = {entry["class_type"]: entry["inputs"] for entry in prompt.values()}
    assert inner["BasicScheduler"]["steps"] == 5 and inner["LikenessApplyHiFi"]["prompt"].endswith("at night")
    assert inner["LikenessReferenceGuidance"]["steps"] == 10 and inner["CFGGuider"]["cfg"] == 5
    led, plain, overlap = server.images(server.run(shortened(prompt), WORKFLOW_SECONDS))
    assert led.size == plain.size == overlap.size == (128, 128) and led.tobytes() != plain.tobytes()


@pytest.mark.parametrize("learned", [False, True])
def test_another_subject_in_a_photo(server, tmp_path, learned):
    graph, inputs = around(), {**MODEL, "photo": (6, 0)}
    graph["6"] = node("ImageFromBatch", image=["4", 0], batch_index=0, length=1)
    if learned:
        graph["5"] = train(6, 2)
        inputs["subject (optional)"] = (5, 0)
    caption, new = "a photo of a duck in the kitchen", WORD if learned else "house"
    widgets = {"what the photo shows": caption, "old word": "duck", "new word": new, "steps": 5}
    outputs = {"image": (2, "images"), "the photo again": (3, "images")}
    prompt = placed(server, tmp_path, REPLACED, graph, inputs, outputs, widgets)
    inner = {entry["class_type"]: entry["inputs"] for entry in prompt.values()}
    assert inner["LikenessReplaceSubject"]["caption"] == caption and inner["LikenessNullText"]["guidance"] == 5
    assert caption in [entry["inputs"].get("text") for entry in prompt.values()]
    assert ("subject" in inner["LikenessReplaceSubject"]) is learned
    replaced, again = server.images(server.run(shortened(prompt), WORKFLOW_SECONDS))
    assert replaced.size == again.size == (128, 128) and replaced.tobytes() != again.tobytes()


def test_a_subject_put_into_a_photo(server, tmp_path):
    """At the photo's edges, far from the mask, the picture is the photo."""
    graph = around() | {
        "1": node("LikenessLoadDemoModel", variant=INPAINTING),
        "3": node("SaveImage", filename_prefix="blueprint", images=["6", 0]),
        "5": load("toffeenet"),
        "6": photo("The photo", identity=3),
        "7": node("ControlNetLoader", control_net_name="depth.safetensors"),
        "8": node("EmptyImage", width=128, height=128, batch_size=1, color=0x808080),
    }
    graph["4"]["inputs"]["count"] = 1
    inputs = {**MODEL, "adapter": (5, 0), "subject": (4, 0), "photo": (6, 0), "photo mask": (6, 1)}
    inputs |= {"depth ControlNet": (7, 0), "depth": (8, 0)}
    prompt = placed(
        server, tmp_path, PUT, graph, inputs, {"image": (2, "images")}, {"steps": 5, "prompt": "a photo of a cat"}
    )
    inner = {entry["class_type"]: entry["inputs"] for entry in prompt.values()}
    assert inner["KSampler"]["steps"] == 5 and "mask" not in inner["LikenessEncodeDINO"]
    made, before = (np.asarray(image, int) for image in server.images(server.run(shortened(prompt), WORKFLOW_SECONDS)))
    changed = (abs(made - before) > 1).any(-1)
    assert 0.05 < changed.mean() < 0.8 and not changed[:4].any() and not changed[:, :4].any()


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_the_file_opens_as_a_workflow_too(server, tmp_path, name):
    """ComfyUI without a library of blueprints still opens the files."""
    shown = browse(server, workflow=REPOSITORY / "subgraphs" / f"{name}.json", png=tmp_path / "page.png")
    assert shown["nodes"] == 1
