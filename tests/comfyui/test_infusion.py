"""Infusion's nodes: learning and drawing are the headless ones, Cancel loses nothing, messages help."""

import re

import pytest

from .graphs import CONCEPTS


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("infusion"))("infusion.py", inference_mode=True)


def test_learning_is_the_headless_learning(seen):
    assert seen["headless"] < 1e-2 and seen["headless, SNR and bins"] < 1e-2
    assert seen["SNR changes"] > 0.1
    assert seen["plot"] == [1, 256, 512, 3]


def test_drawing_is_the_headless_drawing(seen):
    assert seen["changes"] > 0.1
    assert max(seen[name] for name in ("exact", "untouched", "fast", "both", "bins")) < 1e-3
    assert seen["fast_differs"] > 1e-3
    assert seen["lcm_changes"] > 1e-3  # few noise levels, but the timesteps of all
    assert seen["chained"] == [2, 1]  # a chain adds to a clone
    assert seen["fast of one"] == [True, False]


def test_progress_previews_and_an_estimate(seen):
    assert [p[0] for p in seen["previews"] if p[2]] == [2, 4, 5]
    assert seen["previews"][-1][:2] == [5, 5]
    [[text, node, steps_done]] = seen["texts"]
    assert re.fullmatch(r"5 steps take about \d+ seconds and 0\.\d GiB of memory", text)
    assert (node, steps_done) == ("3", 0)  # before it starts


def test_cancel_keeps_the_concept_and_the_same_settings_go_on(seen):
    assert "execution_interrupted" in seen["interrupted"]
    assert seen["cancelled_file"] == ["cat cancelled at step 3.safetensors"] and seen["cancelled_steps"] == 3
    assert seen["resumed"]
    # checkpoints are not offered as concepts, those that come with the pack are
    networks = {name for name in seen["listed"] if name.startswith("demo ")} - {*CONCEPTS}  # RetriNet's and Toffee's
    assert set(seen["listed"]) - networks == {*seen["cancelled_file"], *CONCEPTS}
    assert seen["checkpoints"] == 1
    assert seen["fewer"] == [3, True]  # a longer training's checkpoint is no answer to fewer steps


def test_files(seen):
    assert seen["saved"] == ["sub/my cat.safetensors", ["my cat.jpg", "my cat.safetensors"]]
    assert seen["loaded"][0] == "cat" and seen["loaded"][1] < 1e-3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("word", "lacks the concept's word 'dog'; name the subject so"),
        ("size", "size is 33; it must be a multiple of 32"),
        ("mask", "mask: number 1 is empty"),
        ("name ", "can't be a file in models/likeness"),
        ("name ../x", "can't be a file in models/likeness"),
        ("name a:b", "can't be a file in models/likeness"),
        ("base", "learned on sdxl, but the model here is context-192"),
        ("twice", "two concepts share the word 'cat'"),
        ("run", "connect the model from before it"),
        ("broken", "broken.safetensors is damaged or incomplete"),
    ],
)
def test_messages(seen, name, message):
    assert message in seen["messages"][name]
