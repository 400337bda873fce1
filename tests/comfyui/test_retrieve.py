"""Retrieval without training inside ComfyUI: the headless one, nothing is nothing, messages help."""

import pytest


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("retrieve"))("retrieve.py", inference_mode=True, timeout=600)


@pytest.mark.parametrize("mode", ["each", "cached"])
def test_drawing_is_the_headless_drawing(seen, mode):
    apart, changes = seen["drawing"][mode]
    assert apart < 1e-4 and changes > 0.05


@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_every_family(seen, layout):
    apart, changes = seen["layouts"][layout]
    assert apart < 2e-5 and changes > 1e-3


def test_nothing_is_nothing_bit_for_bit(seen):
    assert seen["drawing"]["same"] == [True] * 3


def test_order_batches_and_settings(seen):
    s = seen["drawing"]
    assert s["order"] < 1e-5 and s["batch"] < 1e-4 and s["differ"] > 1e-3


def test_distilled_samplings_count_the_timesteps_of_all(seen):
    assert seen["drawing"]["few timesteps"] > 0.05
    wanted = "mode: this model samples at few timesteps of its own; choose cached"
    assert seen["messages"]["few timesteps"] == wanted


@pytest.mark.parametrize("case", ["cfg 1", "areas"])
def test_prompts_of_any_kind(seen, case):
    changes, finite = seen["drawing"][case]
    assert changes > 0.01 and finite


def test_beside_a_lora_and_a_concept(seen):
    s = seen["beside"]
    assert s["orders"] < 1e-4 and s["changes"] > 0.01 and s["twice"]
    assert s["fresh"] == [True, True]


def test_nothing_of_a_picture_is_kept(seen):
    assert seen["memory"] == [[True], True]


def test_messages(seen):
    m = seen["messages"]
    assert m["none"] == "references: there is none; connect at least one"
    assert m["levels"] == "levels: 'own' is none of all, deep, shallow"
    assert m["inpainting"].startswith("model: its input has 9 channels, not 4;")
