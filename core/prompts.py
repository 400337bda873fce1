"""Words in a prompt: weights and escapes, 77-token chunks, token positions, word alignment of two prompts.

The syntax is ComfyUI's, so one prompt means the same headless and in a workflow: `(word:1.2)` weighs, `(word)` weighs
by 1.1, brackets nest by multiplication, `\\(` and `\\)` are literal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from torch import Tensor

CHUNK = 77
UNBROKEN = 8  # fewer tokens than these are kept in one chunk, as in ComfyUI
END = "</w>"


@dataclass(frozen=True)
class Piece:
    """One token of a prompt: its id, its text in the tokenizer's vocabulary ("cat</w>"), its weight."""

    id: int
    text: str
    weight: float = 1.0


Tokenize = Callable[[str], list[Piece]]
Placed = Sequence[tuple[int, Piece]]


def tokenize_with(tokenizer: object) -> Tokenize:
    """`Tokenize` from a transformers CLIP tokenizer, slow or fast: the pieces of a text without start and end."""

    def tokenize(text: str) -> list[Piece]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [Piece(i, s) for i, s in zip(ids, tokenizer.convert_ids_to_tokens(ids))]

    return tokenize


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """Split a prompt into texts and their weights; escapes are resolved, a bracket without its partner is literal.

    >>> parse_weights("a (red:1.5) cat")
    [('a ', 1.0), ('red', 1.5), (' cat', 1.0)]
    """
    out: list[tuple[str, float]] = []

    def walk(text: str, weight: float) -> None:
        for part in _outer_brackets(text):
            if len(part) < 2 or part[0] != "(" or part[-1] != ")":
                out.append((part.replace("\0(", "(").replace("\0)", ")"), weight))
                continue
            inner, _, number = part[1:-1].rpartition(":")
            try:
                walk(inner, float(number)) if inner else walk(part[1:-1], weight * 1.1)
            except ValueError:  # a colon that no number follows belongs to the text
                walk(part[1:-1], weight * 1.1)

    walk(prompt.replace("\\(", "\0(").replace("\\)", "\0)"), 1.0)
    return out


def _outer_brackets(text: str) -> list[str]:
    """Cut a text before each outermost "(" and after its ")"; escaped brackets (after a NUL) don't count."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c not in "()" or (i and text[i - 1] == "\0"):
            continue
        if c == "(":
            if depth == 0:
                parts.append(text[start:i])
                start = i
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                parts.append(text[start : i + 1])
                start = i + 1
    return [p for p in [*parts, text[start:]] if p]


def chunks(groups: Sequence[Sequence[Piece]], size: int = CHUNK) -> list[list[Piece]]:
    """Fill chunks of `size - 2` pieces (room for start and end); at least one chunk.

    A group of fewer than 8 pieces is never broken over two chunks, as in ComfyUI.
    """
    room = size - 2
    out: list[list[Piece]] = [[]]
    for group in groups:
        rest = list(group)
        while rest:
            free = room - len(out[-1])
            if len(rest) <= free:
                out[-1] += rest
                break
            if len(group) >= UNBROKEN:
                out[-1] += rest[:free]
                rest = rest[free:]
            out.append([])
    return out


def layout(prompt: str, tokenize: Tokenize, size: int = CHUNK) -> list[list[Piece]]:
    """A prompt's chunks of weighted pieces, without start, end and padding. ComfyUI's groups are the weighted texts."""
    groups = [[Piece(p.id, p.text, weight) for p in tokenize(text)] for text, weight in parse_weights(prompt)]
    return chunks(groups, size)


def placed(filled: Sequence[Sequence[Piece]], size: int = CHUNK) -> list[tuple[int, Piece]]:
    """The pieces of a layout with their positions among the text tokens that a model sees."""
    return [(c * size + 1 + i, piece) for c, chunk in enumerate(filled) for i, piece in enumerate(chunk)]


def used(prompt: str, tokenize: Tokenize, size: int = CHUNK) -> int:
    """Position after a prompt's last word among the text tokens that a model sees; without words, after the start."""
    return end(placed(layout(prompt, tokenize, size), size))


def end(pieces: Placed) -> int:
    """`used` for a prompt that a runtime has laid out."""
    return max((index + 1 for index, _ in pieces), default=1)


def find(word: str, pieces: Sequence[tuple[int, Piece]], length: int, tokenize: Tokenize) -> Tensor:
    """Where a word (or phrase) stands among placed pieces.

    The word is found by its characters in the tokenizer's own normal form: several tokens, repeats, capitals and
    punctuation that touches it are all right; "cat" is not found in "cats".

    Args:
        word: plain text, one word or several.
        pieces: from `placed`, or read off a runtime's own tokens.
        length: number of text tokens.

    Returns:
        bool, (length,): True at every token of every occurrence; all False if the word is not there.

    Raises:
        ValueError: an empty word.
    """
    wanted = "".join(_plain(p) for p in tokenize(word))
    if not wanted:
        raise ValueError("the word to look for is empty; give the word that names the subject in the prompt")
    text, spans = "", []
    for index, piece in pieces:
        spans.append((len(text), index))
        text += _plain(piece)
    mask = torch.zeros(length, dtype=torch.bool)
    for match in re.finditer("(?:^|(?<= ))" + re.escape(wanted), text):
        for start, index in spans:
            mask[index] |= match.start() <= start < match.end()
    return mask


def _plain(piece: Piece) -> str:
    return piece.text.replace(END, " ")


def positions(prompt: str, word: str, tokenize: Tokenize, *, size: int = CHUNK) -> Tensor:
    """`find` in a prompt written with ComfyUI's weights and escapes: bool, (chunks * size,)."""
    filled = layout(prompt, tokenize, size)
    return find(word, placed(filled, size), len(filled) * size, tokenize)


def require(prompt: str, word: str, tokenize: Tokenize) -> Tensor:
    """`positions`, for training, where the word must be there.

    Raises:
        ValueError: names the word and the prompt when the word is missing.
    """
    mask = positions(prompt, word, tokenize)
    if not mask.any():
        raise ValueError(f"the word {word!r} does not occur in the prompt {prompt!r}; write the prompt with that word")
    return mask


def align(source: str, target: str, tokenize: Tokenize, *, size: int = CHUNK) -> Tensor:
    """Word-to-word alignment of two prompts (prompt-to-prompt's mapper).

    Words are aligned by their longest common subsequence; a replaced stretch is aligned with the stretch that replaces
    it. Where the two sides have different token counts, each target token reads its source tokens in equal parts.

    Returns:
        float, (target tokens, source tokens): row j holds the weights with which target position j reads the source's
        positions; rows sum to 1, or to 0 for inserted words. Start, end and padding read their own place.
    """
    sides = [layout(prompt, tokenize, size) for prompt in (source, target)]
    return align_placed(*((placed(filled, size), len(filled) * size) for filled in sides))


def align_placed(source: tuple[Placed, int], target: tuple[Placed, int]) -> Tensor:
    """`align` for prompts that a runtime has laid out: each side its placed pieces and its number of text tokens."""
    source_words, source_length = _words(source[0]), source[1]
    target_words, target_length = _words(target[0]), target[1]
    mapper = torch.zeros(target_length, source_length)
    for i in set(range(target_length)) - {i for at, _ in target_words for i in at}:
        mapper[i, min(i, source_length - 1)] = 1
    sides = [[spelled for _, spelled in words] for words in (source_words, target_words)]
    for tag, i, k, j, l in SequenceMatcher(None, *sides, autojunk=False).get_opcodes():
        if tag == "equal":
            for (read, _), (write, _) in zip(source_words[i:k], target_words[j:l]):
                mapper[list(write), list(read)] = 1
        elif tag == "replace":
            read = [x for at, _ in source_words[i:k] for x in at]
            for write in (x for at, _ in target_words[j:l] for x in at):
                mapper[write, read] = 1 / len(read)
    return mapper


def _words(pieces: Placed) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
    """A prompt's words as (positions, texts of the tokens)."""
    words, current = [], []
    for item in pieces:
        current.append(item)
        if item[1].text.endswith(END):
            words.append((tuple(i for i, _ in current), tuple(p.text for _, p in current)))
            current = []
    return words
