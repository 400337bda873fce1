"""Words in ComfyUI's prompts. CONDITIONING carries no tokens, so word positions travel with it, entry by entry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import comfy.conds
import torch
from torch import Tensor

from ..core import prompts

WORDS = "likeness_words"
EMBEDDING = "\0" + prompts.END  # an embedding stands for tokens that have no text
END_OF_TEXT = "<|endoftext|>"
# what guiders call the prompts that are drawn away from
UNCONDITIONAL = {"negative", "empty_negative_prompt"}


def find_words(clip: Any, prompt: str, words: Sequence[str]) -> dict[str, Tensor]:
    """Where each word stands among the text tokens that this CLIP makes of a prompt.

    Returns:
        word -> bool, (tokens,); all False where the prompt doesn't hold the word.
    """
    placed, total = laid_out(clip, prompt)
    return {word: prompts.find(word, placed, total, lambda text: _chunks(clip, text)[0][0]) for word in words}


def laid_out(clip: Any, prompt: str) -> tuple[list[tuple[int, prompts.Piece]], int]:
    """A prompt's pieces with their positions among the text tokens that this CLIP makes of it, and their number."""
    placed, total = [], 0
    for pieces, length in _chunks(clip, prompt):
        placed += [(total + 1 + i, piece) for i, piece in enumerate(pieces)]
        total += length
    return placed, total


def _chunks(clip: Any, text: str) -> list[tuple[list[prompts.Piece], int]]:
    """Each chunk's pieces between start and end of text (padding may be an ordinary word), and its length."""
    tokens = next(iter(clip.tokenize(text).values()))
    out = []
    for chunk in tokens:
        named = [EMBEDDING if torch.is_tensor(pair[0]) else clip.tokenizer.untokenize([pair])[0][1] for pair in chunk]
        inner = takewhile(lambda name: name != END_OF_TEXT, named[1:])
        out.append(([prompts.Piece(0, name) for name in inner], len(chunk)))
    return out


def check_length(conditioning: Sequence, tokens: int) -> None:
    """ValueError for a conditioning too short to be of a prompt of so many text tokens."""
    lengths = {entry[0].shape[1] for entry in conditioning if entry[0] is not None}
    if any(length < tokens for length in lengths):
        raise ValueError(
            f"conditioning: it has {min(lengths)} tokens where the prompt has {tokens}; "
            "connect what was encoded from this prompt, or nothing"
        )


def mark_words(conditioning: list, where: Mapping[str, Tensor]) -> list:
    """The same CONDITIONING, whose entries know where words stand."""
    return [[tokens, {**options, WORDS: {**options.get(WORDS, {}), **where}}] for tokens, options in conditioning]


def marks_of(entry: list) -> tuple[str, ...]:
    """Names of what a CONDITIONING's entry marks."""
    return tuple(entry[1].get(WORDS, {}))


def seal_words(conditioning: list) -> list:
    """Words moved to where ComfyUI leaves them alone when it gives one prompt's areas to another."""
    return [
        [tokens, {**options, "model_conds": {**options.get("model_conds", {}), WORDS: comfy.conds.CONDConstant(marks)}}]
        for tokens, options in conditioning
        for marks in [options.get(WORDS, {})]
    ]


def carry_rows(conds: Sequence[tuple[bool, Any]], words: Sequence[str], key: str) -> list[Any]:
    """Conditionings whose entries carry, as a model input, whether they are conditional and where the words stand.

    Args:
        conds: (conditional, entries) of each conditioning; entries may be None.
        words: the words, in the order of the rows' marks.
        key: name of the model input, int (1, 1 + words, tokens): the role, then a mark for every word and token.
    """
    entries = [e for _, cond in conds for e in cond or ()]
    # one length for all, or ComfyUI could not batch prompts of different lengths; positions repeat as tokens do
    length = math.lcm(1, *(_tokens(e) for e in entries))

    def carry(conditional: bool, entry: dict[str, Any]) -> dict[str, Any]:
        model_conds, where = dict(entry["model_conds"]), _where(entry)
        model_conds.pop(WORDS, None)
        marks = torch.zeros(1, 1 + len(words), length, dtype=torch.int)
        marks[:, 0] = int(conditional)
        for i, word in enumerate(words):
            if word in where:
                own = torch.zeros(_tokens(entry), dtype=torch.int)
                known = min(len(own), len(where[word]))  # a longer entry has had another prompt appended
                own[:known] = where[word][:known]
                marks[0, 1 + i] = own.repeat(length // len(own))
        return {**entry, "model_conds": {**model_conds, key: comfy.conds.CONDRegular(marks)}}

    return [cond and [carry(conditional, e) for e in cond] for conditional, cond in conds]


def _where(entry: dict[str, Any]) -> Mapping[str, Tensor]:
    sealed = entry.get("model_conds", {}).get(WORDS)
    return entry.get(WORDS, {}) if sealed is None else sealed.cond


def holds(entry: dict[str, Any], word: str) -> bool:
    """Whether a conditioning entry knows the word's positions."""
    return word in _where(entry) and bool(_where(entry)[word].any())


def is_conditional(entries: Sequence[dict[str, Any]], key: str) -> bool:
    """Whether entries that carry rows under this key are to be drawn towards; entries without them are."""
    marks = [e["model_conds"][key].cond for e in entries if key in e.get("model_conds", {})]
    return not marks or any(bool(m[0, 0, 0]) for m in marks)


def without_words(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries as the model may see them: sealed words taken out."""
    return [{**e, "model_conds": {k: v for k, v in e["model_conds"].items() if k != WORDS}} for e in entries]


def _tokens(entry: dict[str, Any]) -> int:
    return 1 if entry.get("cross_attn") is None else entry["cross_attn"].shape[1]
