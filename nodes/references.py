"""Reference in ComfyUI: pictures of a face, of clothes, of a figure, chained to any number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy_api.latest import io
from torch import Tensor

from ..core.retrinet.reference import WORDS, Reference
from .schema import entry, result, schema

ReferencesType = io.Custom("LIKENESS_REFERENCES")
OTHER = "other"
PREVIEW = 512  # pixels of the cut-outs' side


class ShowReference(io.ComfyNode):
    """Pictures and where to look in them, to references."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessReference",
            display_name="Reference",
            category="retrinet",
            description="Says what to take from a picture: its face, its clothes, or the whole figure. Chain several "
            "to take a face from one picture and clothes from another.",
            search_aliases=[
                "reference image",
                "retrinet reference",
                "face reference",
                "outfit",
                "clothes",
                "ip-adapter",
            ],
            inputs=[
                entry(io.Image, "image", tooltip="One picture, or several that show the same."),
                entry(
                    io.Combo,
                    "concept",
                    options=[*WORDS, OTHER],
                    default=WORDS[0],
                    tooltip="What to take from it. The mask must show just that.",
                ),
                entry(
                    io.String,
                    OTHER,
                    default="",
                    tooltip=f"What it is called if the concept is '{OTHER}', as in 'hat'; for a RetriNet that learned "
                    "that word.",
                ),
                entry(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="Where it is in each picture (Segment Subject finds it, the mask editor paints it). "
                    "Without it the whole picture is looked at.",
                ),
                entry(
                    ReferencesType, "references", optional=True, tooltip="Those of another Reference, to go on with."
                ),
            ],
            outputs=[
                result(ReferencesType, "REFERENCES", tooltip="All of them so far, for Apply RetriNet."),
                result(io.Image, "cut-outs", tooltip="All of them so far as the network sees them."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        concept: str,
        other: str = "",
        mask: Tensor | None = None,
        references: Sequence[Reference] = (),
    ) -> io.NodeOutput:
        every = (*references, *shown(image, word_of(concept, other), mask))
        cut = torch.stack([reference.cut(PREVIEW)[0] for reference in every])
        return io.NodeOutput(every, cut.movedim(1, -1))


def word_of(concept: str, other: str) -> str:
    """The concept's word; ValueError where it is to be another one and that is missing."""
    if concept != OTHER:
        return concept
    if not other.strip():
        raise ValueError(f"{OTHER}: it is empty; say what to take from the picture, as in 'hat'")
    return other.strip()


def shown(image: Tensor, word: str, mask: Tensor | None) -> list[Reference]:
    """An IMAGE (B, H, W, C) and its MASK (B or 1, H, W) as references.

    Raises:
        ValueError: it names the input.
    """
    if not len(image):
        raise ValueError("image: the batch is empty; connect at least one picture")
    pictures = image[..., :3].movedim(-1, 1).float().clamp(0, 1)
    if mask is None:
        mask = torch.ones_like(pictures[:, 0])
    mask = mask.to(pictures.device)
    if len(mask) not in (1, len(pictures)):
        raise ValueError(f"mask: {len(mask)} masks for {len(pictures)} pictures; connect one for each, or one")
    # Load Image gives an empty mask of another size where a picture has none
    if empty := [str(i + 1) for i, each in enumerate(mask) if not bool((each > 0.5).any())]:
        raise ValueError(f"mask: number {', '.join(empty)} is empty; paint what to take, or leave the mask out")
    if mask.shape[1:] != image.shape[1:3]:
        (height, width), (h, w) = mask.shape[1:], image.shape[1:3]
        raise ValueError(f"mask: {width} x {height} pixels, but the picture has {w} x {h}; connect that picture's mask")
    return [Reference(word, p, m[None].float()) for p, m in zip(pictures, mask.expand(len(pictures), -1, -1))]


NODES = [ShowReference]
