"""Which source picture guides: the one closest to what was generated (HiFi Tuner, section 3.3)."""

from __future__ import annotations

from torch import Tensor

from ..metrics.similarity import best, masked, similarity
from ..vision.protocols import ImageEmbedder


def pick(
    embedder: ImageEmbedder,
    generated: Tensor,
    sources: Tensor,
    generated_mask: Tensor | None = None,
    source_masks: Tensor | None = None,
) -> tuple[int, Tensor]:
    """The source picture whose embedding has the highest cosine with the generated picture's.

    The paper embeds whole pictures with DINO ViT-S/16. With masks only the subjects count, each on white **[ours]**.

    Args:
        generated: (1, 3, H, W) in 0..1.
        sources: (B, 3, h, w) in 0..1.
        generated_mask, source_masks: the subject in them, (1, H, W) and (1 or B, h, w) in 0..1; both or neither.

    Returns:
        Its index, the first of equals, and all cosines, (B,).

    Raises:
        ValueError: not one generated picture, no sources, one mask without the other, or masks that don't fit or are
            empty.
    """
    if len(generated) != 1:
        raise ValueError(f"{len(generated)} generated pictures; a reference is picked for one")
    if not len(sources):
        raise ValueError("no source pictures to pick from")
    if (generated_mask is None) != (source_masks is None):
        missing = "generated_mask" if generated_mask is None else "source_masks"
        raise ValueError(f"{missing} is missing: a subject alone is only comparable with subjects alone")
    if source_masks is not None:
        generated, sources = masked(generated, generated_mask), masked(sources, source_masks)
    embedded = embedder.images(generated), embedder.images(sources)
    return int(best(*embedded)[1]), similarity(*embedded)[0]
