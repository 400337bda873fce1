"""The node that measures pictures: the headless numbers, -1 for what isn't measured, and messages that help."""

import pytest


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("pictures"))("pictures.py", inference_mode=True)


def test_the_numbers_are_the_headless_ones(seen):
    whole, expected = seen["whole"], seen["expected"]
    for name in ("clip_i", "clip_t", "dino", "seg_clip_i", "seg_dino", "vqa"):
        assert whole[name] == pytest.approx(expected[name], abs=1e-5)
    assert whole["swd"] == pytest.approx(expected["swd vqa x clip_i"], abs=1e-5)
    assert whole["text"].startswith(f"clip_i: {expected['clip_i']:.3f}\n") and "picture 3: clip_i" in whole["text"]


def test_what_is_not_measured_is_minus_one(seen):
    bare = seen["bare"]
    assert [bare[name] for name in ("clip_t", "seg_clip_i", "seg_dino", "vqa", "swd")] == [-1.0] * 5
    assert -1 < bare["dino"] < 1 and bare["dino"] == pytest.approx(seen["whole"]["dino"], abs=1e-6)


def test_photos_are_more_like_themselves(seen):
    assert seen["same"] > seen["whole"]["dino"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("prompts", "prompts: 3 lines for 2 pictures; write one for all, or one for each"),
        ("mask", "reference_mask: connect it too, or neither;"),
        ("size", "reference_mask: 16 x 16 pixels, but the picture has 32 x 32; connect that picture's mask"),
        ("none", "references: no subject is found in any of them; the segmented metrics need one"),
        ("clip", "clip: no gone in models/sams or models/vision; press R to see what is there"),
    ],
)
def test_messages(seen, name, message):
    assert seen["messages"][name].startswith(message)
