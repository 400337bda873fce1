"""A picture drawn by ordinary sampling, watched at what it takes from its references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..core.reach import Reach
from ..core.retrinet.maps import RetrievalMaps, contact_sheet
from ..core.retrinet.reference import Reference
from . import retrinet_model
from .hifi_attention import sampled
from .references import PREVIEW


def draw(
    model: Any,
    clip: Any,
    vae: Any,
    retrinet: Any,
    references: Sequence[Reference],
    prompt: str,
    latent: dict[str, Any],
    seed: int,
    steps: int,
    guidance: float,
    shown: int,
) -> tuple[Tensor, Tensor]:
    """The maps of some steps as one picture, and the pictures, both (B, H, W, 3)."""
    maps = RetrievalMaps()
    watched = retrinet_model.apply(model, clip, vae, retrinet, references, Reach(), watch=maps)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    drawn = sampled(watched, clip, positive, latent, seed, steps, guidance)
    sheet = contact_sheet(maps, [reference.cut(PREVIEW)[0] for reference in references], shown)
    return sheet.movedim(0, -1)[None], vae.decode(drawn)
