"""Words and chunks, against the tokenizer's own offsets and against what ComfyUI documents."""

import pytest
import torch
from likeness.core import prompts
from likeness.core.demo import MODEL
from transformers import CLIPTokenizerFast


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizerFast.from_pretrained(MODEL / "tokenizer")


@pytest.fixture(scope="module")
def tokenize(tokenizer):
    return prompts.tokenize_with(tokenizer)


PROMPTS = [
    ("a photo of a cat", "cat"),
    ("a cat, a CAT and cats", "cat"),
    ("photo of my zebracorn in the snow", "zebracorn"),
    ("a red panda; the red panda! not a redpanda", "red panda"),
    ("the café's cat", "café"),
    ("cat", "cat"),
    ("a dog", "cat"),
]


@pytest.mark.parametrize("prompt, word", PROMPTS)
def test_positions_are_the_tokenizers_offsets(tokenizer, tokenize, prompt, word):
    import re

    found = prompts.positions(prompt, word, tokenize)
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    spans = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", prompt, re.IGNORECASE)]
    expected = [i for i, (s, e) in enumerate(offsets) if e > s and any(a <= s and e <= b for a, b in spans)]
    assert found.nonzero().flatten().tolist() == expected
    assert found.shape == (77,)


def test_weights_and_escapes_do_not_move_words(tokenize):
    plain = prompts.positions("a photo of a cat in the snow", "cat", tokenize)
    for prompt in (
        "a photo of a (cat:1.3) in the snow",
        "a ((photo)) of a cat in the (snow:0.5)",
        "(a photo of a cat) in the snow",
    ):
        assert torch.equal(prompts.positions(prompt, "cat", tokenize), plain)
    escaped = prompts.positions(r"a \(cat\)", "cat", tokenize)
    assert escaped.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (cat)", [("a ", 1.0), ("cat", 1.1)]),
        ("a (red (cat:1.5) big:0.5) x", [("a ", 1.0), ("red ", 0.5), ("cat", 1.5), (" big", 0.5), (" x", 1.0)]),
        ("((cat))", [("cat", 1.1 * 1.1)]),
        ("(cat: very nice)", [("cat: very nice", 1.1)]),
        (r"\(cat:2\)", [("(cat:2)", 1.0)]),
        ("a (cat", [("a ", 1.0), ("(cat", 1.0)]),
        ("a cat) (dog:2)", [("a cat) (dog:2)", 1.0)]),
        ("", []),
        ("a (:3) cat", [("a ", 1.0), (":3", 1.1), (" cat", 1.0)]),
    ],
)
def test_weights_parse_as_in_comfyui(prompt, expected):
    parsed = prompts.parse_weights(prompt)
    assert [t for t, _ in parsed] == [t for t, _ in expected]
    assert [w for _, w in parsed] == pytest.approx([w for _, w in expected])


def test_long_prompts_fill_several_chunks(tokenize):
    prompt = "a red cat in the snow " * 20 + "with a zebracorn"
    found = prompts.positions(prompt, "zebracorn", tokenize)
    assert found.shape == (154,)
    assert found.sum() == len(tokenize("zebracorn"))
    cats = prompts.positions(prompt, "cat", tokenize)
    assert cats.sum() == 20
    assert not cats[[0, 76, 77, 153]].any(), "start and end tokens are no words"


def test_short_groups_are_not_broken_over_chunks():
    piece = prompts.Piece(1, "x</w>")
    filled = prompts.chunks([[piece] * 73, [piece] * 5, [piece] * 2])
    assert [len(c) for c in filled] == [73, 7]
    filled = prompts.chunks([[piece] * 73, [piece] * 9])
    assert [len(c) for c in filled] == [75, 7]


def test_a_missing_word_is_an_error_in_training_only(tokenize):
    assert not prompts.positions("a dog", "cat", tokenize).any()
    with pytest.raises(ValueError, match="'cat' does not occur in the prompt 'a dog'"):
        prompts.require("a dog", "cat", tokenize)
    with pytest.raises(ValueError, match="empty"):
        prompts.positions("a dog", "  ", tokenize)


def test_alignment_of_replaced_words(tokenize):
    mapper = prompts.align("a photo of a cat in the snow", "a photo of a zebra in the snow", tokenize)
    assert mapper.shape == (77, 77)
    many = len(tokenize("zebra"))
    assert many > 1
    for j in range(many):  # every piece of the new word reads the old one
        assert mapper[5 + j].nonzero().flatten().tolist() == [5]
    assert mapper[5 + many].nonzero().flatten().tolist() == [6], "what follows moves along"
    torch.testing.assert_close(mapper.sum(1), torch.ones(77))
    back = prompts.align("a photo of a zebra", "a photo of a cat", tokenize)
    torch.testing.assert_close(back[5, 5 : 5 + many], torch.full((many,), 1 / many))


def test_alignment_of_equal_and_of_longer_prompts(tokenize):
    same = prompts.align("a red cat", "a red cat", tokenize)
    assert torch.equal(same, torch.eye(77))
    inserted = prompts.align("a cat", "a red cat", tokenize)
    assert inserted[2].sum() == 0, "an inserted word reads nothing"
    assert inserted[3, 2] == 1
