"""Two streams inside ordinary sampling: exact pairing, unchanged pictures, the user's own batch back."""

import pytest

UNPAIRED = {"dpm_adaptive"}  # its step size looks at the whole batch


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("streams"))("streams.py", inference_mode=True)


def wrong(cases, rows):
    """Cases where the streams part, the picture is not the plain one, or the network sees other rows than it should."""
    return {
        name: case
        for name, case in cases.items()
        if not case["paired"] or case["apart"] > 1e-3 or case["rows"] != rows(name) or not case["shape"]
    }


def test_every_sampler_keeps_the_streams_together(seen):
    samplers = {k: v for k, v in seen["samplers"].items() if k not in UNPAIRED}
    assert len(samplers) >= 35
    assert not wrong(samplers, lambda name: 2)


def test_beside_everything_else(seen):
    assert len(seen["cases"]) == 19
    assert not wrong(seen["cases"], lambda name: 1.5 if "fast" in name and "cfg 1" not in name else 2)


@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_every_layout(seen, layout):
    assert not wrong(seen["layouts"][layout], lambda name: 1.5 if name == "fast" else 2)


def test_a_concept_is_seen_where_its_word_is(seen):
    assert seen["changes"] > 0.01 and seen["control_changes"] > 0.01
    assert seen["again"] and seen["clean_after"]


def test_without_the_word_there_is_no_second_stream(seen):
    assert seen["absent"] and seen["unmarked"]
    assert seen["absent_rows"] == 4  # two steps, two prompts


def test_the_user_gets_their_own_batch(seen):
    assert seen["previews"] == [[[2, 4, 16, 16]] * 2] * 3 and seen["guider_shape"] == [2, 4, 16, 16]


def test_attachments_live_side_by_side_or_replace_each_other(seen):
    assert seen["beside_another_method"] and seen["replaced"] and seen["shared_sampler_kept"]
    assert "another method draws it in several streams" in seen["refused"]


def test_fast_mode_is_another_picture(seen):
    assert 1e-5 < seen["fast_differs"] < 1


@pytest.mark.parametrize("kind", ["blank", "learned"])
def test_a_lora_before_and_after_the_concept(seen, kind):
    case = seen["lora"][kind]
    assert seen["lora"]["lora"] > 0.1 and seen["lora"]["bare"] > 0.1
    assert case["foundation"] == [True, True] and case["one order is the other"]
    assert case["rows"] == [2, 2] and case["paired"] == [kind == "blank"] * 2
    assert case["picture"] == [kind == "blank"] * 2
    assert kind == "blank" or min(case["apart"]) > 0.01
