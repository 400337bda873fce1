"""The node that measures overfitting: the headless numbers, exact zeros, Cancel, and messages that help."""

import pytest


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("metrics"))("metrics.py", inference_mode=True)


ONE_AFTER_THE_OTHER, BESIDE = [12, 12], [6, 6]  # latents of both models, or of one batch that holds both


def test_a_model_has_not_drifted_from_itself(seen):
    for name in ("plain", "both applied"):
        assert seen[name]["fisher"] == seen[name]["error"] == 0 and seen[name]["progress"] == ONE_AFTER_THE_OTHER


@pytest.mark.parametrize("name", ["lora", "lines", "word", "lora on concept, word"])
def test_the_number_is_the_headless_number(seen, name):
    mean, error = seen["expected"][name]
    assert mean > 1e-3 and error > 1e-4
    assert seen[name]["fisher"] == pytest.approx(mean, rel=1e-3)
    assert seen[name]["error"] == pytest.approx(error, rel=1e-3)


def test_merged_weights_are_a_lora(seen):
    assert seen["lora"]["progress"] == ONE_AFTER_THE_OTHER
    assert seen["merged"][:2] == pytest.approx([seen["lora"]["fisher"], seen["lora"]["error"]], rel=1e-4)


def test_the_seed_decides_and_the_batch_does_not(seen):
    fisher = seen["lora"]["fisher"]
    assert seen["small batches"]["fisher"] == pytest.approx(fisher, rel=1e-4)
    assert seen["other seed"]["fisher"] != pytest.approx(fisher, rel=1e-2)


@pytest.mark.parametrize("name", ["concept", "concept on lora", "both freeu"])
def test_a_concept_leaves_other_captions_exactly_alone(seen, name):
    assert seen[name]["fisher"] == seen[name]["error"] == 0
    assert seen[name]["progress"] == BESIDE


def test_a_concept_changes_what_its_word_draws(seen):
    assert seen["word"]["fisher"] > 0.01 and seen["word"]["progress"] == BESIDE
    assert "of 3 the caption names cat: there the concept is at work" in seen["word"]["text"]
    # one picture of three
    assert 0 < seen["one word"]["fisher"] < seen["word"]["fisher"]
    assert "of 1 the caption names cat" in seen["one word"]["text"]
    assert "names" not in seen["concept"]["text"]


def test_what_stands_beside_the_concept_is_measured(seen):
    assert seen["lora on concept"]["fisher"] == pytest.approx(seen["lora"]["fisher"], rel=1e-4)
    assert seen["freeu"]["fisher"] > 0.01
    assert seen["concept on freeu"]["fisher"] == pytest.approx(seen["freeu"]["fisher"], rel=1e-4)
    assert seen["concept on freeu"]["progress"] == seen["lora on concept"]["progress"] == ONE_AFTER_THE_OTHER


def test_the_distance_of_samples_is_the_core_s(seen):
    assert seen["samples"]["w2"] == pytest.approx(seen["expected w2"], rel=1e-6) and seen["expected w2"] > 1
    assert f"2-Wasserstein distance: {seen['expected w2']:.4g} (3 and 3 samples)" in seen["samples"]["text"]


def test_what_was_not_measured_is_minus_one_and_said(seen):
    assert seen["lora"]["w2"] == -1 and "not measured, no samples connected" in seen["lora"]["text"]
    fisher, error, _, text = seen["one picture"]
    assert fisher > 0 and error == -1
    assert "±" in seen["lora"]["text"] and "±" not in text and "pictures: 1, draws of each: 2" in text


def test_the_node_shows_its_text(seen):
    assert seen["shown"] == [seen["lora"]["text"], [seen["lora"]["text"], "m"]]


def test_cancel_stops_it(seen):
    assert seen["cancelled"] == [1]


def test_the_models_are_left_as_they_were(seen):
    assert seen["left"] and seen["still refused by others"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lines", "captions: 2 lines for 3 pictures; write one line for all of them, or a line for each"),
        ("no caption", "captions: 0 lines for 3 pictures; write one line"),
        ("no images", "images: the batch is empty; connect at least one"),
        ("base only", "custom_samples: not connected, but the other model's samples are; connect both or neither"),
        ("custom only", "base_samples: not connected"),
        ("one sample", "base_samples: one sample has no spread; draw at least two"),
        ("sizes", "custom_samples: latents of (4, 16, 24), base_samples of (4, 16, 16); draw both in one size"),
        ("schedules", "custom: its noise schedule is not that of model; give both the same sampling patch"),
        ("sampling", "custom: its sampling is"),
        ("base sampling", "model: its sampling is"),
        ("built", "custom: its U-Net is built unlike that of model; connect the model that it was made from"),
        ("broken", "custom: its predictions or those of model are not finite"),
    ],
)
def test_messages(seen, name, message):
    assert seen["messages"][name].startswith(message)
