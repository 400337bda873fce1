"""A subject inside a MODEL, and its places inside a CONDITIONING."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ..core import prompts
from ..core.hifi.subject import MARK, Subject, SubjectText, places
from . import denoiser
from .hooks import sites, unet_of
from .words import check_length, find_words, laid_out, mark_words, marks_of


def apply(model: Any, subject: Subject, strength: float = 1.0) -> Any:
    """A clone of MODEL that puts the right rows of a subject into prompts that carry its places, at every step.

    ValueError for a subject of another model.
    """
    subject.check(tuple(sites(unet_of(model))))
    return denoiser.attach(model, SubjectText(subject, strength).hooks)


def encode(clip: Any, prompt: str, subject: Subject, conditioning: list | None = None) -> list:
    """CONDITIONING of a prompt that knows where the subject's rows go: its last text tokens.

    Args:
        conditioning: what was encoded from this prompt elsewhere; only marked here.

    Raises:
        ValueError: a prompt whose words reach those places, or a conditioning that can't be this prompt's.
    """
    if not find_words(clip, prompt, [subject.word])[subject.word].any():
        logging.warning("Likeness: prompt: %r lacks the subject's class word %r", prompt, subject.word)
    placed, tokens = laid_out(clip, prompt)
    if conditioning is None:
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    check_length(conditioning, tokens)
    if any(name.startswith(MARK) and name != subject.mark for entry in conditioning for name in marks_of(entry)):
        raise ValueError("conditioning: it names another HiFi subject, whose places these are; a prompt takes one")
    return mark_words(conditioning, {subject.mark: places(tokens, prompts.end(placed), subject.count)})


def align(clip: Any, source: str, target: str) -> Tensor:
    """`prompts.align` with this CLIP's own tokens."""
    return prompts.align_placed(laid_out(clip, source), laid_out(clip, target))
