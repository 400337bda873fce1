"""Inversion, null texts, reference guidance and replacement: the nodes do what the headless loops do."""

import pytest


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("hifi_loops"))("hifi_loops.py", inference_mode=True)


def test_inversion_and_its_noise(seen):
    assert len(seen["timesteps"]) == 10 and seen["timesteps"] == sorted(seen["timesteps"], reverse=True)
    assert seen["inverted"] < 1e-4
    assert seen["noise"] < 1e-3  # an ordinary sampler goes on from it


def test_null_texts(seen):
    assert max(seen["nulls"]) < 5e-3
    assert seen["back"] < 1e-5


@pytest.mark.parametrize("how", ["led", "fast", "substituted", "plain", "with a subject"])
def test_guidance_by_a_reference(seen, how):
    assert seen[how] < 5e-3


def test_previews_come_closer_to_the_picture(seen):
    assert len(seen["shown"]) == 10 and seen["shown"][-1] < 1e-5 < 5 * seen["shown"][-2] < seen["shown"][0]


def test_it_changes_the_picture_shows_progress_and_can_be_queued_twice(seen):
    assert seen["changes"] > 0.1 and seen["progress"] == 10 and seen["twice"]


def test_replacement(seen):
    assert seen["words"] and seen["replaced changes"] > 0.1
    assert seen["replaced"] < 5e-3 and seen["replaced by a subject"] < 5e-3
    assert seen["said"].startswith("attention maps: ") and seen["said"].endswith(" MiB a step")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("guidance", "guidance is 1, where the null text has no effect"),
        ("guider", "needs a positive and a negative prompt; use CFGGuider"),
        ("steps", "trajectory: it has 10 steps"),
        ("size", "trajectory: its latents are (1, 4, 16, 16), the run's (1, 4, 8, 8)"),
        ("mask", "mask: it is empty"),
        ("masks", "mask: it has 2 pictures, the latents 1"),
        ("span", "start is 5 and end 20: steps count down from 50"),
        ("sigmas", "sigmas: guidance by a reference draws to the end"),
        ("noise mask", "latent: it has a noise mask"),
        ("word", "old_word: 'cow' is not in the caption"),
        ("nulls", "trajectory: it has no null texts"),
    ],
)
def test_messages(seen, name, message):
    assert message in seen["messages"][name]
