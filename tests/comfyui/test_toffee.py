"""Toffee's nodes inside ComfyUI: both runtimes agree, beside what others patch in, files, messages, nothing left."""

import pytest

LAYOUTS = ("sd1", "sd2", "sdxl")
WHAT = ("adapter", "low-rank", "whole")


@pytest.fixture(scope="module")
def layouts(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("toffee_layouts"))("toffee_layouts.py")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("what", WHAT)
def test_both_runtimes_agree_on_every_layout(layouts, layout, what):
    s = layouts[layout]
    for way in ("merged", "beside"):
        assert s[f"{what} {way}"] < 1e-4 and s[f"{what} {way} changes"] > 1e-2
    assert s[f"{what} controlled"] < 1e-4
    assert s[f"{what} away"] and s[f"{what} off"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_difference_finds_its_weight_and_nothing_stays(layouts, layout):
    s = layouts[layout]
    assert s["merged keys"] and s["left"] == 0 and s["still"]


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("toffee"))("toffee.py", inference_mode=True)


# --- tokens


def test_tokens_are_the_core_s(seen):
    assert seen["tokens"] == [[2, 65, 160], [8, 8], "the embedded judge", True] and seen["tokens are the core's"]


def test_a_mask_leaves_the_subject_alone(seen):
    assert seen["alone"] == ["dino", True] and seen["patches"]
    assert seen["seen"] == [[2, 128, 128, 3], 0.0]


def test_blending_is_the_core_s_for_each_picture(seen):
    assert seen["blended"] and seen["blended within"] and seen["within differs"] and seen["known"]
    assert seen["matches"] == seen["matches shown"] == [2, 128, 256, 3]


# --- drawing


@pytest.mark.parametrize("what", [*WHAT, "nine", "for a while"])
def test_both_runtimes_draw_the_same(seen, what):
    assert seen[f"agree {what}"] < 1e-4 and seen[f"changes {what}"] > 0.1


def test_at_rest_every_bit_is_the_untouched_model_s(seen):
    assert seen["idle"] == [True, True]


def test_zero_tokens_are_the_branch_left_out(seen):
    assert seen["dropped"]


def test_every_picture_of_a_batch_has_its_own_subject(seen):
    same, other = seen["batch"]
    assert same < 1e-4 and other > 0.05


def test_two_of_them_add_up(seen):
    assert seen["twice"] < 1e-4
    assert seen["twice whole"] < 1e-4 and seen["twice for a while"] < 1e-4 and seen["one for a while"] < 1e-4


# --- nine channels


def test_the_network_reads_what_toffeenet_was_trained_on(seen):
    calls, apart = seen["channels"]
    assert calls == 3 and apart < 1e-5 and seen["mask counts"] > 0.05


def test_comfyui_s_own_inputs_are_grey(seen):
    """What the node is for; the demo model's inpainting variant takes either."""
    latents, _, picture = seen["grey"]
    assert latents > 0.1 and picture < 1e-5


def test_the_inpainting_variant_draws_what_the_standard_one_draws(seen):
    apart, recognised = seen["variant"]
    assert apart < 1e-5 and recognised


def test_odd_sizes_lose_their_border_and_no_mask_is_everywhere(seen):
    assert seen["everywhere"] == [["samples"], [2, 4, 15, 15], 0.0]
    assert seen["edit"] == [[2, 1, 120, 120], [2, 1, 15, 15]] and seen["edit latents"] < 1e-5


# --- beside others


@pytest.mark.parametrize("other", ["infusion", "lora"])
def test_the_order_of_methods_makes_no_difference(seen, other):
    orders, without_us, without_it = seen[other]
    assert orders < 1e-4 and without_us > 0.05 and without_it > 0.05


def test_a_controlnet_stays(seen):
    controls, dropped, injects = seen["controlnet"]
    assert controls > 1e-3 and dropped and injects > 0.05


# --- chains, files, what stays


def test_the_refiner_starts_from_the_picture(seen):
    shape, finite, changed = seen["refined"]
    assert shape == [2, 4, 16, 16] and finite and changed > 0.1


def test_queued_twice_it_runs_once_and_anew_it_is_the_same(seen):
    assert seen["cached"] == [0, 14] and not seen["ran again"] and seen["the same again"]


def test_nothing_stays(seen):
    assert seen["left"] == [0, []] and seen["still"]


def test_the_drop_downs_list_what_is_there(seen):
    shipped, own = ([f for f in seen["files"] if f.startswith("demo ") is demo] for demo in (True, False))
    assert shipped == [f"demo {name}.safetensors" for name in ("refiner", "toffeenet", "view-generator")]
    assert own == [
        "adapter.safetensors",
        "broken.safetensors",
        "low-rank.safetensors",
        "nine.safetensors",
        "whole.safetensors",
        "z other dino.safetensors",
        "z other family.safetensors",
    ]
    downloads = [f"facebook/{name} (download)" for name in ("dinov2-base", "dinov2-giant", "dino-vits16")]
    assert seen["dinos"] == ["demo (built in)", "mine/dino", *downloads]
    assert seen["written again"]


def test_the_loader_says_what_it_loaded(seen):
    lines = next(text.splitlines() for text in seen["told"] if "nine.safetensors" in text)
    assert lines[:3] == [
        "model: toffeenet",
        "base: context-192, 9 input channels",
        "DINO: the embedded judge, 160 numbers a token",
    ]
    assert lines[3].endswith("million numbers, 231 layers changed") and lines[-1].startswith("file: nine.safetensors, ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("family", "the toffeenet was trained on sd1, but the model here is context-192"),
        (
            "width",
            "dino: tokens of shape (2, 65, 160), but the refiner takes tokens of 32 numbers; encode with the DINO",
        ),
        ("four channels", "model: it has 4 input channels, the toffeenet needs 9; connect an inpainting model"),
        ("nine channels", "model: it has 9 input channels, the refiner needs 4; connect the ordinary model"),
        ("order", "start_percent is 0.8 and end_percent 0.2; both within 0..1, the start first"),
        ("count", "dino: tokens of 3 pictures for 2 that are drawn; encode one picture for all, or one for each"),
        ("mask size", "mask: 128 x 64 pixels, but the picture has 128 x 128; connect that picture's mask"),
        ("mask count", "mask: 4 masks for 2 pictures; connect one for each, or one"),
        ("mask empty", "mask: number 1, 2 is empty; paint the subject, or leave the mask out"),
        ("other dino", "subject: encoded with mine, generated with the embedded judge; encode both with one DINO"),
        ("subjects", "subject: 3 pictures for 2 generated ones; give one, or one for each"),
        ("blend mask", "mask: 2 of 128 x 64 pixels for 2 pictures of 128 x 128; give each picture's own"),
        ("inputs mask", "mask: 4 masks for 2 pictures; connect one for each, or one"),
        ("inputs empty", "mask: it is empty; paint what may change"),
        ("gone", "file: no gone.safetensors in models/likeness"),
        ("broken", "broken.safetensors is damaged or incomplete"),
    ],
)
def test_messages_name_the_input_and_what_to_do(seen, name, text):
    assert seen["messages"][name].startswith(text)
