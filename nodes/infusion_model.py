"""A concept inside a MODEL, and its word inside a CONDITIONING."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..core.infusion.concept import Concept
from ..core.infusion.control import Infusion, Use
from . import denoiser
from .hooks import sites, unet_of
from .words import check_length, find_words, mark_words

KEY, FAST = "likeness_infusion", "likeness_infusion_fast"


def uses_of(model: Any) -> tuple[Use, ...]:
    """The concepts that a MODEL carries already."""
    return model.get_attachment(KEY) or ()


def apply(model: Any, *uses: Use, fast: bool = False) -> Any:
    """A clone of MODEL with more concepts; all of them share the two streams.

    Args:
        fast: whether both share one unconditional prediction; so it is where any Apply Infusion asks for it.

    Raises:
        ValueError: a concept of another model, or two on one word.
    """
    known = tuple(sites(unet_of(model)))
    for use in uses:
        use.concept.check(known)
    every, fast = (*uses_of(model), *uses), fast or bool(model.get_attachment(FAST))
    patched = denoiser.attach(model, _control(model, every).hooks, key=KEY, share_unconditional=fast)
    patched.set_attachments(KEY, every)
    patched.set_attachments(FAST, fast)
    return patched


def detach(model: Any) -> tuple[Any, Infusion | None]:
    """A clone of MODEL without its concepts, and their control for a method's own loop (`denoiser.run`).

    Whatever else the MODEL carries stays, LoRAs from before and after Apply Infusion alike. Without concepts the
    control is None.
    """
    uses, plain = uses_of(model), model.clone()
    if not uses:
        return plain, None
    plain.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    for key in (KEY, FAST, denoiser.STREAMS):
        plain.remove_attachments(key)
    return plain, _control(plain, uses)


def _control(model: Any, uses: Sequence[Use]) -> Infusion:
    return Infusion(uses, steps=denoiser.timesteps_of(model))


def encode(clip: Any, prompt: str, concept: Concept, conditioning: list | None = None, *, strict: bool = False) -> list:
    """CONDITIONING of a prompt that knows where the concept's words stand.

    Args:
        conditioning: what was encoded from this prompt elsewhere; only marked here.
        strict: whether a prompt without the word is an error instead of a warning.

    Raises:
        ValueError: a conditioning that can't be this prompt's, or (strict) a prompt without the word.
    """
    where = find_words(clip, prompt, concept.words)
    if not where[concept.word].any():
        message = f"prompt: {prompt!r} lacks the concept's word {concept.word!r}; the concept rests"
        if strict:
            raise ValueError(message.replace("the concept rests", "name the subject so"))
        logging.warning("Likeness: %s", message)
    if conditioning is None:
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    check_length(conditioning, len(where[concept.word]))
    return mark_words(conditioning, where)
