"""Prompts to text tokens, headless, as ComfyUI encodes them: weights, escapes, several 77-token chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import prompts
from .diffusers import Text

KEPT = 2048  # prompts whose texts a training keeps: half a gigabyte for SD1.5


@dataclass(frozen=True)
class Tower:
    """One CLIP text encoder with its tokenizer.

    Args:
        layer: hidden state to read: -1 the last (normalised), -2 the one before, not normalised (SDXL).
    """

    tokenizer: Any
    model: Any
    layer: int = -1

    def tokenize(self, text: str) -> list[prompts.Piece]:
        return prompts.tokenize_with(self.tokenizer)(text)

    @torch.no_grad()
    def encode(self, filled: Sequence[Sequence[prompts.Piece]]) -> tuple[Tensor, Tensor]:
        """Tokens (1, chunks * 77, width) and the first chunk's pooled vector (1, width)."""
        size = prompts.CHUNK
        t = self.tokenizer
        padded = [
            [t.bos_token_id, *(p.id for p in chunk), t.eos_token_id] + [t.pad_token_id] * (size - 2 - len(chunk))
            for chunk in [*filled, []]
        ]
        out = self.model(torch.tensor(padded, device=self.model.device), output_hidden_states=True)
        states = out.last_hidden_state if self.layer == -1 else out.hidden_states[self.layer]
        pooled = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
        weights = torch.ones(len(filled) * size, device=states.device)
        for index, piece in prompts.placed(filled):
            weights[index] = piece.weight
        tokens, empty = states[:-1].reshape(1, -1, states.shape[-1]), states[-1:].repeat(1, len(filled), 1)
        scale = weights[None, :, None].to(tokens)
        # a weight moves a token away from what an empty prompt has in its place
        return torch.where(scale == 1, tokens, empty + (tokens - empty) * scale), pooled[:1]


@dataclass(frozen=True)
class TextEncoder:
    """One tower (SD1.x, SD2.x) or two (SDXL), as a diffusers checkpoint brings them."""

    towers: tuple[Tower, ...]

    def tokenize(self, text: str) -> list[prompts.Piece]:
        return self.towers[0].tokenize(text)

    def __call__(self, prompt: str, words: Sequence[str] = (), size: tuple[int, int] = (1024, 1024)) -> Text:
        """Encode a prompt.

        Args:
            prompt: with ComfyUI's weights and escapes; "" is the null text.
            words: words whose positions the conditioning shall carry.
            size: picture height and width in pixels, which SDXL wants to know.
        """
        filled = prompts.layout(prompt, self.tokenize)
        encoded = [tower.encode(filled) for tower in self.towers]
        tokens = torch.cat([t for t, _ in encoded], dim=-1)
        extra = {}
        if len(self.towers) > 1:
            ids = torch.tensor([[*size, 0, 0, *size]], dtype=tokens.dtype, device=tokens.device)
            extra = {"added_cond_kwargs": {"text_embeds": encoded[-1][1], "time_ids": ids}}
        where = {word: prompts.positions(prompt, word, self.tokenize) for word in words}
        return Text(tokens, words=where, extra=extra)
