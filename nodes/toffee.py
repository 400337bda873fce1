"""Toffee's nodes around a model: DINO tokens of a subject, tokens blended for the Refiner, ToffeeNet's inputs."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..core.toffee.matching import SHARE, THRESHOLD
from . import vision
from .schema import entry, result, schema
from .texts import shown

DINOTokensType = io.Custom("LIKENESS_DINO_TOKENS")


class EncodeDINO(io.ComfyNode):
    """Pictures to DINO tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessEncodeDINO",
            display_name="Encode DINO",
            category="toffee",
            description="Describes a subject by DINO: what it is as a whole, and each patch of the picture.",
            search_aliases=["toffee", "dinov2", "image encoder", "clip vision encode", "subject tokens"],
            inputs=[
                entry(io.Image, "image", tooltip="A picture of the subject; a batch gives tokens for each."),
                entry(
                    io.Combo,
                    "dino",
                    options=vision.names(vision.DEMO, *vision.DINOS),
                    tooltip="The DINO that the adapter was trained with. Built in: for pictures of the demo world. Or "
                    "a folder in models/vision, or one that is downloaded when it is first used.",
                ),
                entry(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="The subject. With it the background becomes white and only the subject's patches are "
                    "matched; without it the whole picture is described, as the paper does.",
                ),
            ],
            outputs=[
                result(DINOTokensType, "dino", tooltip="For Apply DINO and Blend DINO."),
                result(io.Image, "seen", tooltip="What the DINO looked at: often only the middle of the picture."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, dino: str, mask: Tensor | None = None) -> io.NodeOutput:
        from . import toffee_model

        tokens = toffee_model.encode(image, mask, vision.find("dino", dino))
        return io.NodeOutput(tokens, tokens.pictures.movedim(1, -1))


class BlendDINO(io.ComfyNode):
    """Tokens of a generated picture with a subject's in them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessBlendDINO",
            display_name="Blend DINO",
            category="toffee",
            description="Puts a subject's details into the tokens of a generated picture, patch by patch where both "
            "are alike, for the Refiner to draw.",
            search_aliases=["toffee", "refiner", "correspondence", "patch matching", "dino features", "merge tokens"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(
                    DINOTokensType, "generated", tooltip="Of the picture to refine, from Encode DINO; or of a batch."
                ),
                entry(DINOTokensType, "subject", tooltip="Of your subject: one picture, or one for each generated."),
                entry(
                    io.Float,
                    "threshold",
                    default=THRESHOLD,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How alike a patch must be (cosine) to become the subject's. Less takes more patches.",
                ),
                entry(
                    io.Float,
                    "share",
                    default=SHARE,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of such a patch is the subject's: 0 is the generated picture, 1 the subject.",
                ),
                entry(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="The subject in its own picture: only its patches are given. Not needed where Encode DINO "
                    "had a mask.",
                ),
            ],
            outputs=[
                result(DINOTokensType, "dino", tooltip="For Apply DINO with a Refiner."),
                result(
                    io.Image,
                    "matches",
                    tooltip="The subject left, the generated picture right; matched patches have one colour.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, generated: Any, subject: Any, threshold: float, share: float, mask: Tensor | None = None
    ) -> io.NodeOutput:
        from ..core.toffee.tokens import blended

        if mask is not None:
            subject = subject.of(mask[:, None])
        tokens, matches, shares = blended(generated, subject, threshold, share)
        text = "\n".join(f"{part:.0%} of the patches matched" for part in shares)
        return io.NodeOutput(tokens, matches.movedim(1, -1), ui=shown(text, cls.hidden.unique_id))


class ToffeeInputs(io.ComfyNode):
    """A picture and a mask, or a picture's size, to what ToffeeNet reads besides text and subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessToffeeInputs",
            display_name="ToffeeNet Inputs",
            category="toffee",
            description="Says where ToffeeNet draws: under a mask in a picture, or everywhere. Use it instead of "
            "InpaintModelConditioning: ToffeeNet was trained with black under the mask, not grey.",
            search_aliases=["toffee", "inpaint", "inpaint model conditioning", "edit image", "toffeenet"],
            inputs=[
                entry(io.Conditioning, "positive", tooltip="The positive prompt, after any ControlNet."),
                entry(io.Conditioning, "negative", tooltip="The negative prompt."),
                entry(io.Vae, "vae", tooltip="The model's autoencoder."),
                entry(io.Image, "pixels", tooltip="The picture to edit. Without a mask only its size counts."),
                entry(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="Where to draw. Without it everything is drawn from nothing, as for a new picture.",
                ),
                entry(
                    io.Boolean,
                    "noise_mask",
                    default=True,
                    optional=True,
                    tooltip="Keep what is outside of the mask exactly as it is in the latent.",
                ),
            ],
            outputs=[
                result(io.Conditioning, "positive", tooltip="For the sampler's positive input."),
                result(io.Conditioning, "negative", tooltip="For the sampler's negative input."),
                result(io.Latent, "latent", tooltip="The picture's latents; empty ones without a mask."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae: Any,
        pixels: Tensor,
        mask: torch.Tensor | None = None,
        noise_mask: bool = True,
    ) -> io.NodeOutput:
        from . import toffee_model

        return io.NodeOutput(*toffee_model.inputs(positive, negative, vae, pixels, mask, noise_mask))


NODES = [EncodeDINO, BlendDINO, ToffeeInputs]
