"""The nodes that segment and caption: the core's masks and captions, room made and given back, messages that help."""

import pytest
import torch
from vision_models import sam, save_blip2, save_grounding_dino, save_sam2, save_sam3


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small random models of every kind."""
    folder = tmp_path_factory.mktemp("models")
    torch.save(sam().state_dict(), folder / "sam.pth")
    save_sam2(folder / "sam2")
    save_sam3(folder / "sam3")
    save_grounding_dino(folder / "dino")
    save_blip2(folder / "blip2")
    return folder


@pytest.fixture(scope="module")
def seen(comfyui_path, models, tmp_path_factory):
    from .inside.parent import Inside

    run = Inside(comfyui_path, tmp_path_factory.mktemp("segmentation"))
    return run("segmentation.py", inference_mode=True, models=str(models))


def test_the_drop_downs_list_what_is_there(seen):
    download = "facebook/sam2.1-hiera-small (download)"
    assert seen["segmenters"] == ["demo (built in)", "sam.pth", "sam2", "sam3", download]
    assert seen["detectors"] == ["dino", "IDEA-Research/grounding-dino-tiny (download)"]
    assert seen["captioners"] == ["Salesforce/blip2", "Salesforce/blip2-opt-2.7b (download)"]
    paths, suffixes = seen["sams"]
    assert paths[0].endswith("sams") and suffixes == [".pth", ".safetensors"]


RUNS = ["demo", "text sam", "text sam2", "text sam3", "box sam", "points sam2", "all sam2"]


@pytest.mark.parametrize("name", RUNS)
def test_the_masks_are_the_core_s(seen, name):
    mask = seen[name]
    assert mask.shape == (2, 128, 128) and mask.dtype == torch.float32
    assert torch.equal(mask, seen[f"expected {name}"]) and 0.01 < mask.mean() < 0.99


def test_every_way_to_ask_gives_its_own_mask(seen):
    masks = [seen[name] for name in RUNS]
    assert not any(torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


def test_the_overlay_shows_the_mask(seen):
    mask, images, overlay = seen["demo"][..., None], seen["images"], seen["overlay"]
    assert overlay.shape == images.shape and torch.equal(overlay * (1 - mask), images * (1 - mask))
    tint = torch.tensor([1.0, 0.1, 0.4])
    torch.testing.assert_close(overlay * mask, (images + tint) / 2 * mask)


def test_captions_are_the_core_s_one_line_a_picture(seen):
    assert seen["captions"].split("\n") == seen["expected captions"] and len(seen["expected captions"]) == 2
    assert seen["shown"] == [[seen["captions"], "c"]]


def test_transparency_is_ignored(seen):
    assert seen["alpha"]


def test_room_is_made_and_given_back_one_model_after_the_other(seen):
    rooms = [float(each.pop(1)) for each in seen["asked"] if each[0] == "free_memory"]
    sam_size, dino_size = seen["sizes"]
    assert rooms[0] - rooms[1] == dino_size - sam_size and rooms[1] > sam_size > 1e5  # and room to work in
    assert seen["asked"] == [
        ["free_memory", "cpu"],
        ["grounding-dino", {"device": "cpu", "threshold": "0.2"}],
        ["soft_empty_cache"],
        ["free_memory", "cpu"],
        ["sam", {"device": "cpu"}],
        ["soft_empty_cache"],
    ]


def test_captions_are_made_in_the_precision_of_the_device(seen):
    assert seen["asked of captions"][1] == ["blip-2", {"device": "cpu", "length": "5", "dtype": "torch.float32"}]


def test_room_for_what_is_not_yet_downloaded_is_all_there_is(seen):
    assert seen["unknown size"] is None and seen["room for a download"] == ["free_memory", "1e+30", "cpu"]


def test_without_a_box_there_is_nothing_to_segment(seen):
    assert [each[0] for each in seen["asked of nothing found"]] == ["free_memory", "grounding-dino", "soft_empty_cache"]


def test_nothing_stays_in_memory(seen):
    assert seen["loaded"] == []
    assert seen["cancelled"] == [[1], []]
    assert seen["messages"]["file"].endswith("[]")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("found", "text: nothing that looks like 'a cat' was found in pictures 1, 2 of 2; lower the threshold"),
        ("found sam3", "text: nothing that looks like 'a red duck' was found in picture 1 of 1; lower the threshold"),
        ("demo", "image: no subject found in picture 2 of 2; the built-in segmenter knows the demo world only"),
        ("empty", "text: empty; say what to look for, as in 'a cat', or give a box"),
        ("empty sam3", "text: empty; say what to look for, as in 'a cat'"),
        ("no images", "image: the batch is empty"),
        ("demo box", "box: this segmenter takes none; clear it, or choose a SAM or SAM 2"),
        ("sam3 points", "points: this segmenter takes none; clear it"),
        ("gone", "segmenter: no gone.pth in models/sams or models/vision; press R"),
        ("gone detector", "detector: no gone in models/sams or models/vision; press R"),
        ("words", "box: 'left, top, 3, 4' is not left, top, right, bottom in pixels, 4 numbers each"),
        ("three", "box: '1, 2, 3' is not left, top, right, bottom in pixels, 4 numbers each"),
        ("points", "points: '1, 2, 3' is not x, y in pixels, 2 numbers each"),
        ("order", "box: give left, top, right, bottom, with left below right"),
        ("outside", "box: '10, 10, 500, 90' lies outside the pictures, which are 128 wide and 128 high"),
        ("nan", "points: 'nan, 3' lies outside the pictures"),
        ("negative", "negative_points: they need a point on the subject, or a box, beside them"),
        ("file", "damaged.pth can't be read as weights; the download may be incomplete"),
    ],
)
def test_messages_say_what_to_do(seen, name, message):
    assert seen["messages"][name].startswith(message)
