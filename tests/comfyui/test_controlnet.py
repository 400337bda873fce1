"""Our Control-LoRAs in ComfyUI: its own nodes load them, and they guide as they do headless."""

import pytest


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("controlnet"))("controlnet.py", inference_mode=True)


def test_comfyuis_own_nodes_load_it(seen):
    assert seen["listed"] and seen["loaded"] == "ControlLora"


def test_it_guides_as_it_does_headless(seen):
    assert seen["call"] < 1e-5 and seen["changes"] > 0.05


def test_drawing_is_the_headless_drawing(seen):
    assert seen["drawn"] < 1e-4 and seen["again"] < 1e-4 and seen["drawn changes"] > 0.05


def test_nothing_learned_is_nothing_bit_for_bit(seen):
    assert seen["nothing"] and seen["still"]


def test_an_inpainting_model_is_guided_too(seen):
    assert seen["inpainting"] < 1e-4


def test_beside_another_and_without_a_trace(seen):
    assert seen["twice changes"] > 0.05 and seen["kept"]
