"""A small CLIP-format byte-level BPE tokenizer that knows a given vocabulary."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core import files

LENGTH = 77


def make_tokenizer(folder: Path, words: Sequence[str]) -> Any:
    """Write and open a tokenizer in which each of `words` (lower case) is one token.

    All UTF-8 text is covered (CLIP lowers capitals first), so no prompt is lost, only spelt out.
    """
    from transformers import CLIPTokenizer

    ascii_bytes = sorted({*range(33, 127)} - {*range(65, 91)})
    ending = [_byte_symbol(b) for b in [*ascii_bytes, *range(0x80, 0xC0)]]
    alphabet = ending + [_byte_symbol(b) for b in range(0xC2, 0xF5)] + [c + "</w>" for c in ending]
    merges = _merges(words)
    specials = ["<|startoftext|>", "<|endoftext|>", "<|unk|>"]
    tokens = dict.fromkeys([*alphabet, *("".join(m) for m in merges), *specials])
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / "vocab.json", json.dumps({t: i for i, t in enumerate(tokens)}).encode())
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    files.write_atomically(folder / "merges.txt", ("\n".join(lines) + "\n").encode())
    settings = dict(
        tokenizer_class="CLIPTokenizer",
        bos_token=specials[0],
        eos_token=specials[1],
        pad_token=specials[1],
        unk_token=specials[2],
        model_max_length=LENGTH,
    )
    files.write_atomically(folder / "tokenizer_config.json", json.dumps(settings, indent=2).encode())
    return CLIPTokenizer.from_pretrained(folder)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until each word is one token; ties go by the alphabet, so that two runs agree."""
    spelt, merges = [[*word[:-1], word[-1] + "</w>"] for word in words], []
    while any(len(pieces) > 1 for pieces in spelt):
        counts = Counter(pair for pieces in spelt for pair in itertools.pairwise(pieces))
        best = max(sorted(counts), key=counts.__getitem__)
        merges.append(best)
        for pieces in spelt:
            for i in reversed(range(len(pieces) - 1)):
                if tuple(pieces[i : i + 2]) == best:
                    pieces[i : i + 2] = ["".join(best)]
    return merges


def _byte_symbol(byte: int) -> str:
    """The printable character by which byte-level BPE writes a byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in printable else chr(256 + [b for b in range(256) if b not in printable].index(byte))
