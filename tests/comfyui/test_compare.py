"""Compare: the numbers of Measure Pictures in a table and a plot, and messages that help."""

import pytest


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("compare"))("compare.py", inference_mode=True)


def test_the_numbers_are_those_of_measure_pictures(seen):
    for name, own in seen["alone"].items():
        for metric in ("clip_i", "clip_t", "dino"):
            assert f"{metric} {own[metric]:.3f}" in seen["lines"][name]


def test_plot_and_table(seen):
    assert seen["plot"] == [1, 900, 1500, 3] and seen["table"][3] == 3
    # both methods' colours are to be seen
    assert min(seen["inked"]) > 20


@pytest.mark.parametrize(
    "name, message",
    [
        ("names", "names: 1 lines for 2 methods; write one for each that is connected"),
        ("twice", "names: two methods are called alike; give each its own name"),
        ("prompts", "prompts: 3 lines for 2 pictures of images_1; write one for all, or one for each"),
        ("vqa", "up: vqa was not measured; write prompts, or choose a vqa model"),
    ],
)
def test_messages(seen, name, message):
    assert seen["messages"][name] == message
