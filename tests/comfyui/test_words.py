"""Prompts mean the same in ComfyUI and headless, and words are found where ComfyUI's CLIP puts them."""


def test_words_and_tokens_agree(inside):
    seen = inside("words.py")
    assert all(seen["positions"]), seen
    assert max(seen["tokens"]) < 1e-3, seen
    pieces = seen["found"][4][1]
    assert pieces > 3
    assert [cat for cat, _ in seen["found"]] == [1, 2, 1, 1, 1, 15, 1, 0]
    assert [zebra for _, zebra in seen["found"]] == [0, 0, 0, 0, pieces, pieces, 0, 0]
    assert seen["after_embedding"] == [5]
    assert seen["padded"] == [[[5], 30, 154]] * 2
