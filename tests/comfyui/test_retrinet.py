"""RetriNet inside ComfyUI: the third hook and the nodes are the headless ones, nothing is nothing, messages help."""

import re

import pytest

LAYOUTS = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    inside = Inside(comfyui_path, tmp_path_factory.mktemp("retrinet"))
    return inside("retrinet.py", inference_mode=True, timeout=600)


# --- layers of other weights, in every layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_runtimes_agree(seen, layout):
    s = seen["layouts"][layout]
    assert all(s["layers"])
    for rank in ("None", "2"):
        assert s[f"agree {rank}"] < 2e-5 and s[f"changes {rank}"] > 0.1
    assert s["controlled"] < 2e-5
    alone, stacked = s["rows"]
    assert alone < 1e-5 and stacked < 2e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_not_reached_is_the_base_bit_for_bit(seen, layout):
    s = seen["layouts"][layout]
    for rank in ("None", "2"):
        assert s[f"untouched {rank}"] and s[f"negative {rank}"] == 0
    assert s["raised"] and s["left"] == s["left after an error"] == 0 and s["still"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_beside_a_lora_on_the_same_layer(seen, layout):
    apart, differs = seen["layouts"][layout]["lora"]
    assert apart < 2e-5 and differs > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_begins_as_the_models_own_encoder_with_its_lora(seen, layout):
    apart, everywhere, without, keys, repeatable = seen["layouts"][layout]["beginning"]
    assert apart < 2e-5 and everywhere and without > 0.1
    assert keys and repeatable
    assert seen["layouts"][layout]["word"]


# --- drawing


@pytest.mark.parametrize("name", ["whole each", "whole cached", "low each", "low cached"])
def test_drawing_is_the_headless_drawing(seen, name):
    apart, changes = seen["drawing"][f"agree {name}"]
    assert apart < 1e-4 and changes > 0.1


def test_nothing_is_nothing_bit_for_bit(seen):
    assert all(seen["drawing"]["same"].values()) and all(seen["drawing"]["samplers"].values())


def test_order_batches_and_levels(seen):
    s = seen["drawing"]
    assert s["order"] < 1e-5 and s["batch"] < 1e-4
    assert s["levels differ"] > 1e-3
    assert s["rows"] == [1]  # the positive prompt's


@pytest.mark.parametrize("case", ["cfg 1", "areas"])
def test_prompts_of_any_kind(seen, case):
    same, changes, finite = seen["drawing"][case]
    assert same and changes > 0.1 and finite


def test_beside_a_lora_a_controlnet_a_concept_and_a_subject(seen):
    s = seen["beside"]
    assert s["same"] and s["others"] > 0.1 and s["changes"] > 0.1
    assert s["either order"] < 1e-4
    assert s["twice"] == [True, 2]


def test_comfyui_manages_its_memory(seen):
    loaded, left, base = seen["memory"]
    assert loaded == 1 and all(left) and base


# --- nodes


def test_only_what_changed_runs_again(seen):
    first, again, weaker, touched = seen["cache"]
    assert len(first) == 11 and again == []
    assert weaker == ["10", "11", "7"] and touched == ["10", "11", "6", "7"]


def test_references(seen):
    assert seen["shown"] == [["face", "clothes"], [2, 512, 512, 3], True]
    assert seen["without mask"] == ["hat", 1.0]


def test_a_demo_subjects_face_has_its_hair(seen):
    beyond, outside, over_clothes, lost = seen["face"]
    assert beyond > 100 and outside == over_clothes == lost == 0


def test_where_it_looks(seen):
    sheet, spread, image = seen["maps"]
    # two references, three steps each; the reference and seven levels
    assert sheet == [1, 6 * 100, 8 * 100, 3] and spread > 0.05 and image == [1, 64, 64, 3]


def test_files(seen):
    assert seen["saved"] == ["sub/mine.safetensors", ["mine.jpg", "mine.safetensors"]]
    assert seen["loaded"] < 1e-3  # half precision
    # concepts are not offered as RetriNets
    assert seen["listed"] == [
        "demo retrinet.safetensors",
        "retrinet cancelled at step 3.safetensors",
        "sub/mine.safetensors",
        "whole.safetensors",
    ]


# --- training


def test_learning_is_the_headless_learning(seen):
    s = seen["learning"]
    assert s["losses"] < 1e-4
    apart, moved = s["headless"]
    assert apart < 1e-2 and moved > 0.01
    assert s["base_left"] and s["plot"] == [1, 256, 512, 3]


def test_progress_previews_and_an_estimate(seen):
    s = seen["learning"]
    assert [p[0] for p in s["previews"] if p[2]] == [2, 4, 5]
    assert s["previews"][-1][:2] == [5, 5]
    [[text, node]] = s["texts"]
    assert re.fullmatch(r"5 steps take about \d+ seconds and 0\.\d GiB of memory", text) and node == "3"


def test_cancel_keeps_the_network_and_the_same_settings_go_on(seen):
    s = seen["learning"]
    assert "execution_interrupted" in s["interrupted"]
    assert s["cancelled_file"] == ["retrinet cancelled at step 3.safetensors"]
    assert s["cancelled"]["steps"] == 3 and s["cancelled"]["of"] == 5 and s["cancelled"]["size"] == 64
    assert s["resumed"] and s["checkpoints"] == 1
    assert s["fewer"] == 2  # a longer training's checkpoint is no answer to fewer steps


def test_data_sets(seen):
    s = seen["learning"]["data"]
    assert s["listed"] == ["demo world (built in)", "alone", "broken.tar", "people", "people.tar"]
    assert s["learned"] == [1, 1] and s["prompts"] == ["a man"]
    assert s["changed"]


# --- messages


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alone", "identities: no identity has two pictures; RetriNet learns from pairs of them"),
        ("broken", "identities: broken.tar is no shard of records"),
        ("gone", "../x"),  # refused by ComfyUI or by us, with its version
        ("path ../x", "identities: no ../x in ComfyUI's input folder; press R"),
        ("path empty", "identities: no empty in"),
        ("path people/person 0", "identities: no people/person 0 in"),
    ],
)
def test_messages_of_data_sets(seen, name, message):
    assert message in seen["learning"]["data"][name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty mask", "mask: number 1 is empty; paint what to take, or leave the mask out"),
        ("Load Image's mask", "mask: number 1, 2 is empty"),
        ("no picture", "image: the batch is empty; connect at least one picture"),
        ("small mask", "mask: 32 x 32 pixels, but the picture has 64 x 64; connect that picture's mask"),
        ("three masks", "mask: 3 masks for 2 pictures; connect one for each, or one"),
        ("other", "other: it is empty; say what to take from the picture"),
        ("family", "retrinet: it was trained on sdxl, but the model here is context-192"),
        ("sizes", "retrinet: the model's layer mid is not as in the one that it was trained on"),
        ("none", "references: there is none; connect at least one"),
        ("levels", "levels: 'skip.1, top' is not in this RetriNet; it has skip.0, skip.1,"),
        ("long", "other: a concept's name is longer than 75 tokens"),
        ("clip", "clip: its text has 768 numbers a token where the model wants 192; connect the model's own CLIP"),
        ("vae", "vae: its latents have 16 channels, not 4; connect the model's own VAE"),
        ("file", "gone.safetensors"),  # refused by ComfyUI or by us, with its version
        ("broken", "broken.safetensors is damaged or incomplete"),
        ("percent", "start_percent is 0.6 and end_percent 0.2"),
    ],
)
def test_messages(seen, name, message):
    assert message in seen["messages"][name]


@pytest.mark.parametrize(("name", "message"), [("size", "size: 33 is no multiple of 32; choose another one")])
def test_messages_of_training(seen, name, message):
    assert message in seen["learning"][name]
