"""What a method is told about the rows of ComfyUI's batches, and that it disturbs nobody beside it."""

import pytest


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("rows"))("rows.py", inference_mode=True)


def test_every_row_knows_its_role_and_its_words(seen):
    assert len(seen["cases"]) == 8
    assert not [case for case in seen["cases"] if case["wrong"] or case["unseen"]]


def test_streams_that_do_not_fit_are_refused(seen):
    assert seen["refused"] == "a batch of 2 latents can't hold 3 equal streams"


PATCHES = [
    ("FreeU", "FreeU_V2", {}),
    ("PAG", "PerturbedAttentionGuidance", {}),
    ("SAG", "SelfAttentionGuidance", {}),
    ("HyperTile", "HyperTile", {"tile_size": 64, "swap_size": 1}),
    ("ToMe", "TomePatchModel", {}),
    ("DeepShrink", "PatchModelAddDownscale", {"block_number": 2, "downscale_after_skip": True}),
    ("DeepShrink before the skip", "PatchModelAddDownscale", {"block_number": 2, "downscale_after_skip": False}),
]


def test_beside_other_nodes_patches(inside):
    result = inside("beside.py", inference_mode=True, patches=PATCHES)
    assert all(r["works"] for r in result.values()), f"a patch without effect shows nothing: {result}"
    assert all(r["same"] for r in result.values()), result
