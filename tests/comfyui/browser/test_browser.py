"""Every shipped workflow in a real browser: it opens, converts to a prompt there, and that prompt makes pictures."""

import json
import re

import pytest

from ..graphs import node
from ..launch import REPOSITORY
from .chromium import browse, what_is_missing

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
WORKFLOW_SECONDS = 600


@pytest.fixture(autouse=True)
def browser():
    reason = what_is_missing()
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_opens_and_runs(server, tmp_path, path):
    browse(server, workflow=path, png=tmp_path / "page.png", to_api=tmp_path / "api.json")
    entry = server.run(shortened(json.loads((tmp_path / "api.json").read_text())), WORKFLOW_SECONDS)
    assert server.images(entry)


def shortened(graph, most=6):
    """Trainings of a few steps, so that a suite can run them all; the shipped numbers run when workflows are built."""
    trainers = [entry["inputs"] for entry in graph.values() if entry["class_type"].startswith("LikenessTrain")]
    lengths = sorted({inputs["steps"] for inputs in trainers})
    for inputs in trainers:
        inputs["steps"] = min(inputs["steps"], most + lengths.index(inputs["steps"]))
        if "timesteps" in inputs:
            inputs["timesteps"], inputs["steps_each"] = 2, 1
    for entry in graph.values():
        if entry["class_type"] in ("LikenessNullText", "LikenessReferenceGuidance"):
            entry["inputs"]["steps"] = 1
    return graph


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_template_opens_from_its_address(server, path):
    version = re.search(r"frontend(?:-package)? version: (\d+)\.(\d+)", server.log())
    if version and tuple(map(int, version.groups())) <= (1, 27):
        pytest.skip("this front end opens templates from its dialog only")
    shown = browse(server, template=path.stem)
    assert shown["nodes"] == len(json.loads(path.read_text())["nodes"])


def two_pictures():
    return {
        "1": node("EmptyImage", "Red", width=64, height=64, batch_size=1, color=0xFF0000),
        "2": node("EmptyImage", "Blue", width=64, height=64, batch_size=1, color=0x0000FF),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="browser"),
    }


def test_conversion_there_and_back(server, tmp_path):
    api, ui, back = tmp_path / "api.json", tmp_path / "ui.json", tmp_path / "back.json"
    api.write_text(json.dumps(two_pictures()))
    browse(server, workflow=api, to_ui=ui)
    browse(server, workflow=ui, to_api=back)
    assert {i: n["inputs"] for i, n in json.loads(back.read_text()).items()} == {
        i: n["inputs"] for i, n in two_pictures().items()
    }
    assert not overlapping(json.loads(ui.read_text())["nodes"])


def overlapping(nodes):
    """Pairs of titles whose boxes, titles included, meet."""
    boxes = [(n["type"], *n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1] + 30) for n in nodes]
    return [
        (a[0], b[0])
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]


def test_a_missing_node_is_trouble(server, tmp_path):
    graph = {**two_pictures(), "5": node("NoSuchNode", images=["3", 0])}
    (tmp_path / "api.json").write_text(json.dumps(graph))
    with pytest.raises(RuntimeError, match="NoSuchNode"):
        browse(server, workflow=tmp_path / "api.json")
