"""The pack inside ComfyUI against the pack headless, on the same weights."""

import pytest


@pytest.fixture(scope="module")
def agreement(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("agreement"))("agreement.py", inference_mode=True)


def test_euler_in_comfyui_is_ddim_headless(agreement):
    assert agreement["tokens"] < 1e-4
    assert agreement["sampling"] < 1e-3 and agreement["diffusers"] < 1e-3


def test_the_autoencoder_is_the_same(agreement):
    assert agreement["decoding"] < 1e-3 and agreement["encoding"] < 1e-3


def test_live_previews_have_the_pictures_colours(agreement):
    assert agreement["preview"] < 0.12  # 0.33 with Stable Diffusion 1.5's factors


def test_hooks_that_change_nothing_leave_every_bit(agreement):
    assert agreement["untouched"] and agreement["denoiser_untouched"] and agreement["clean_after"]
    assert agreement["seen"] == [20, 7]


def test_a_muted_word_is_muted_alike_and_only_where_it_stands(agreement):
    assert agreement["muted"] < 1e-3 < agreement["muted_differs"]
    assert agreement["unmarked"] and agreement["stacked"]


def test_the_denoisers_are_one_protocol(agreement):
    assert agreement["sites"] and agreement["skips"] and agreement["rows"]
    assert agreement["schedule"] < 1e-5 and agreement["outputs"] < 1e-3
    assert agreement["features"] < 1e-3 and agreement["with_tokens"] < 1e-3
    assert agreement["returned"] == "returned"


@pytest.mark.parametrize("mode", ["each", "cached"])
def test_retrieval_without_training_agrees(agreement, mode):
    assert agreement[f"free {mode}"] < 1e-3
    untouched, difference = agreement[f"free {mode} differs"]
    assert untouched and difference > 1e-3
