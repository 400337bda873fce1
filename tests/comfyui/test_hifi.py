"""HiFi Tuner's subject nodes: learning and drawing are the headless ones, Cancel loses nothing, messages help."""

import re

import pytest


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("hifi"))("hifi.py", inference_mode=True)


def test_learning_is_the_headless_learning(seen):
    assert seen["headless"][0] < 1e-3 and seen["headless"][1]
    assert seen["plot"] == [1, 256, 512, 3]


def test_drawing_is_the_headless_drawing(seen):
    assert seen["changes"] > 0.1
    assert max(seen["drawn 1.0"], seen["drawn 0.4"]) < 1e-3
    assert seen["beside"]


def test_nothing_is_nothing_bit_for_bit(seen):
    assert seen["strength 0"] and seen["rests"]


def test_the_right_rows_in_every_sampler_and_scheduler(seen):
    wrong, calls, schedules = seen["rows"]
    assert not wrong and schedules > 40 and calls > 3 * schedules


def test_progress_previews_and_an_estimate(seen):
    assert [p[0] for p in seen["previews"] if p[2]] == [2, 5, 7]  # the second stage stops between timesteps
    assert seen["previews"][-1][:2] == [7, 7]
    [[text, node]] = seen["texts"]
    assert re.fullmatch(r"7 steps take about \d+ seconds and 0\.\d GiB of memory", text) and node == "3"


def test_cancel_in_the_second_stage_keeps_the_subject_and_the_same_settings_go_on(seen):
    assert seen["checkpoints"] == [".checkpoint", ".timesteps"]
    assert "execution_interrupted" in seen["interrupted"]
    assert seen["cancelled_file"] == ["cat cancelled at step 5.safetensors"]
    assert seen["cancelled"] == [[1, 5, 192], 5]
    assert seen["resumed"]
    ours, every = seen["listed"]
    assert ours == seen["cancelled_file"] and set(ours) < set(every)  # concepts are not offered as subjects


def test_where_tokens_look(seen):
    shape, spread, image = seen["maps"]
    assert shape == [1, 300, 500, 3] and spread > 0.05 and image == [1, 128, 128, 3]


def test_files(seen):
    assert seen["saved"] == ["sub/my cat.safetensors", ["my cat.jpg", "my cat.safetensors"]]
    assert seen["loaded"][0] == "cat" and seen["loaded"][1] < 1e-3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("size", "size is 33; it must be a multiple of 32"),
        ("word", "lacks the word 'dog'; both must name the subject alike"),
        ("long", "its words fill 73 of 77 text tokens, but the subject takes the last 5; shorten the prompt"),
        ("apply long", "its words fill 73 of 77 text tokens"),
        ("base", "learned on sdxl, but the model here is context-192"),
        ("another", "conditioning: it names another HiFi subject, whose places these are; a prompt takes one"),
        ("multigpu", "model: MultiGPU draws with copies that this method can't reach"),
        ("short", "conditioning: it has 77 tokens where the prompt has 154"),
    ],
)
def test_messages(seen, name, message):
    assert message in seen["messages"][name]
