"""The harness itself, with ComfyUI's own nodes only: where these fail, the pack is not to blame."""

import pytest

from .client import BadPrompt, ComfyError
from .graphs import node


def flat_picture(color=0xFF0000, batch=2):
    return {
        "1": node("EmptyImage", width=64, height=32, batch_size=batch, color=color),
        "2": node("SaveImage", images=["1", 0], filename_prefix="harness"),
    }


def test_pictures_come_back(server):
    images = server.images(server.run(flat_picture()))
    assert [image.size for image in images] == [(64, 32)] * 2
    assert images[0].getpixel((5, 5)) == (255, 0, 0)


def test_an_upload_can_be_loaded(server):
    picture = server.images(server.run(flat_picture(0x00FF00, 1)))[0]
    name = server.upload(picture, "green.png")
    graph = {"1": node("LoadImage", image=name), "2": node("PreviewImage", images=["1", 0])}
    assert server.images(server.run(graph))[0].getpixel((5, 5)) == (0, 255, 0)


def test_a_refused_prompt_names_its_nodes(server):
    with pytest.raises(BadPrompt) as caught:
        server.queue(flat_picture(batch=0))
    assert list(caught.value.node_errors) == ["1"]


def test_a_failing_node_raises_its_own_message(server):
    graph = {
        "1": node("EmptyImage", width=64, height=32, batch_size=1, color=0),
        "2": node("ImageCrop", image=["1", 0], width=64, height=32, x=0, y=0),
        "3": node("SaveImage", images=["2", 0], filename_prefix="no/../../where"),
    }
    with pytest.raises(ComfyError, match="SaveImage"):
        server.run(graph)


def test_events_tell_what_ran(server):
    with server.events() as events:
        prompt_id = server.queue(flat_picture(0x0000FF))
        events.wait_for("executed", accept=lambda data: data["prompt_id"] == prompt_id)
    assert {data["node"] for data in events.of("executed")} == {"2"}


def test_inside_returns_json_and_tensors(inside):
    result = inside(
        """
import sys
import torch
import comfy.model_management
import nodes

def main(pack, numbers):
    return {
        "device": str(comfy.model_management.get_torch_device()),
        "version": pack.__version__,
        "nodes": nodes.__file__,
        "inference": torch.is_inference_mode_enabled(),
        "doubled": torch.tensor(numbers) * 2,
    }
""",
        inference_mode=True,
        numbers=[1, 2],
    )
    assert result["device"] == "cpu" and result["inference"] and result["version"]
    assert result["nodes"].endswith("nodes.py")
    assert result["doubled"].tolist() == [2, 4]


def test_inside_runs_a_prompt(inside):
    result = inside("run_prompt.py", workflow=flat_picture(0xFF0000, 1), keep={"image": ["1", 0]})
    assert result["image"].shape == (1, 32, 64, 3)
    assert result["image"][0, 0, 0].tolist() == [1, 0, 0]


def test_inside_fails_loudly(inside):
    with pytest.raises(AssertionError, match="on purpose"):
        inside("def main(pack):\n    raise ValueError('on purpose')\n")
