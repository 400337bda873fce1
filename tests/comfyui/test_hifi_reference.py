"""The nodes that pick and align a reference: the core's numbers, colours that mean something, messages that help."""

import re

import pytest
import torch


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("hifi_reference"))("hifi_reference.py", inference_mode=True)


@pytest.mark.parametrize("name", ["plain", "alone"])
def test_the_pick_is_the_core_s(seen, name):
    index, similarities = seen[f"{name} expected"]
    found, similarity, text = seen[f"{name} found"]
    assert found == index and similarity == pytest.approx(max(similarities), abs=1e-5)
    assert len(set(similarities)) == 3 and seen[f"{name} reference"]
    lines = [f"{i}: {s:.3f}" + " (picked)" * (i == index) for i, s in enumerate(similarities)]
    assert text.splitlines() == lines


def test_a_source_finds_itself(seen):
    assert seen["own"] == [1, pytest.approx(1, abs=1e-4)]


def test_the_mask_is_the_picked_photo_s_or_everything(seen):
    assert seen["masks"] == [True, True, True]


def test_a_folder_may_hold_the_embedder(seen):
    assert seen["folder"] == seen["plain expected"][0]


def test_the_alignment_is_the_core_s(seen):
    assert max(seen["difference"]) < 1e-5
    scale, angle, x, y = seen["transform"]
    text = f"scale {scale:.2f}, rotated {angle:.1f} degrees, moved ({round(x)}, {round(y)}) px, IoU "
    assert seen["text"][0].startswith(text) and seen["text"][1] == seen["text"][0]
    both = (seen["align mask"] > 0.5) & (seen["generated mask"] > 0.5)
    either = (seen["align mask"] > 0.5) | (seen["generated mask"] > 0.5)
    assert float(both.sum() / either.sum()) == pytest.approx(float(seen["text"][0].split()[-1]), abs=0.006)
    assert both.sum() / either.sum() > 0.5


def test_the_overlap_is_red_green_and_yellow_over_the_picture(seen):
    wanted, moved = seen["generated mask"] > 0.99, seen["align mask"] > 0.99
    no_target, not_moved = seen["generated mask"] < 0.01, seen["align mask"] < 0.01
    for name, behind in (("align overlap", seen["generated"]), ("grey overlap", torch.full((1, 128, 128, 3), 0.5))):
        picture = seen[name]
        where = {
            (1.0, 0.0, 0.0): wanted & not_moved,
            (0.0, 1.0, 0.0): moved & no_target,
            (1.0, 1.0, 0.0): wanted & moved,
        }
        for colour, place in where.items():
            assert place.sum() > 50
            expected = 0.5 * behind[place] + 0.5 * torch.tensor(colour)
            assert (picture[place] - expected).abs().max() < 0.01
        nothing = no_target & not_moved
        assert nothing.sum() > 1000 and (picture[nothing] - behind[nothing]).abs().max() < 0.01


def test_batches_go_row_by_row(seen):
    shapes, lines = seen["batch"]
    assert shapes == [[3, 128, 128, 3], [3, 128, 128], [3, 128, 128, 3]] and seen["batch is its rows"]
    assert [line.split(":")[0] for line in lines] == ["0", "1", "2"] and len({line[3:] for line in lines}) == 3
    shape, first = seen["many targets"]
    assert shape == [3, 128, 128, 3]
    assert re.fullmatch(r"0: scale 1\.00, rotated -?0\.0 degrees, moved \(0, 0\) px, IoU 1\.00", first)


def test_the_result_has_the_target_s_size(seen):
    assert seen["other size"] == [[1, 256, 320, 3], [1, 256, 320], [1, 256, 320, 3]]


def test_rotation_is_limited(seen):
    free, limited = (float(re.search(r"rotated (\S+) degrees", text).group(1)) for text in seen["limits"])
    assert abs(free) > 170 and abs(limited) <= 20


def test_the_nodes_show_their_text(seen):
    for name, start in (("pick", "0: 0."), ("align", "scale ")):
        text, recorded, told = seen[f"shown {name}"]
        assert text == recorded and told == [text, "n"] and text.startswith(start)


def test_cancel_stops_it(seen):
    assert seen["cancelled"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two generated", "generated: 2 pictures; connect one"),
        ("one mask", "generated_mask: connected without source_masks; connect both"),
        ("mask size", "source_masks: 128 x 64 pixels, but sources has 128 x 128; connect the mask of that picture"),
        ("mask count", "source_masks: 2 masks for 3 pictures of sources; connect one for each, or one"),
        ("empty source", "source_masks: nothing is marked in mask 2; it must show the subject"),
        ("no folder", "no DINO model at /no/such/dino"),
        ("reference mask size", "reference_mask: 64 x 128 pixels, but reference has 128 x 128"),
        ("target size", "target_mask: 128 x 128 pixels, but target has 128 x 64"),
        ("empty reference", "reference_mask: nothing is marked in mask 2"),
        ("empty target", "target_mask: nothing is marked in mask 0"),
        ("counts", "target_mask: 2 in the batch where another input has 3; connect as many, or 1"),
    ],
)
def test_messages(seen, name, message):
    assert seen["messages"][name].startswith(message)
