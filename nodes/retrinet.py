"""RetriNet's nodes: retrieve from references in any sampler, and see what is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..core.retrinet.network import LEVELS
from ..core.retrinet.reference import Reference
from .references import ReferencesType
from .retrinets import RetriNetType
from .schema import entry, result, schema

MODES = {"each step": "each", "cached": "cached"}


class ApplyRetriNet(io.ComfyNode):
    """References into a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessApplyRetriNet",
            display_name="Apply RetriNet",
            category="retrinet",
            description="Draws what reference pictures show: the face of one, the clothes of another. Works with any "
            "sampler node, beside LoRAs, ControlNets and the pack's other methods.",
            search_aliases=["retribooru", "reference only", "ip-adapter", "face reference", "outfit transfer"],
            inputs=[
                entry(io.Model, "model", tooltip="The model that the RetriNet was trained on, LoRAs welcome."),
                entry(io.Clip, "clip", tooltip="Its text encoder, which reads the concepts' words."),
                entry(io.Vae, "vae", tooltip="Its autoencoder, which reads the pictures."),
                entry(RetriNetType, "retrinet", tooltip="From Load RetriNet or Train RetriNet."),
                entry(ReferencesType, "references", tooltip="From the last Reference of the chain."),
                entry(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much is taken from the references: 0 is the untouched model, 1 what was trained.",
                ),
                entry(
                    io.Float,
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="From which share of the noise schedule on.",
                ),
                entry(
                    io.Float,
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Until which share of the noise schedule.",
                ),
                entry(
                    io.Combo,
                    "levels",
                    options=list(LEVELS),
                    default=LEVELS[0],
                    tooltip="Where in the network it looks: all levels (paper), the coarse ones with the middle, the "
                    "fine ones, or the middle alone.",
                ),
                entry(
                    io.Combo,
                    "mode",
                    options=list(MODES),
                    default="each step",
                    tooltip="Read the references anew at each step (paper), or only once, which is faster and less "
                    "exact (ours).",
                ),
                entry(
                    io.String,
                    "own_levels",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Names of single levels instead of the choice above, as in 'skip.7, mid'. Load RetriNet "
                    "shows them.",
                ),
            ],
            outputs=[result(io.Model, "MODEL", tooltip="For any sampler; the prompts stay as they are.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        retrinet: Any,
        references: Sequence[Reference],
        strength: float,
        start_percent: float,
        end_percent: float,
        levels: str,
        mode: str,
        own_levels: str = "",
    ) -> io.NodeOutput:
        from ..core.reach import Reach
        from . import retrinet_model

        reach, chosen = Reach(strength, start_percent, end_percent), own_levels.strip() or levels
        return io.NodeOutput(
            retrinet_model.apply(model, clip, vae, retrinet, references, reach, chosen, MODES[mode]),
        )


class RetrievalMaps(io.ComfyNode):
    """Where a RetriNet looks in its references."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessRetrievalMaps",
            display_name="Retrieval Maps",
            category="retrinet",
            description="Draws one picture with references and shows where in them each level of the network looks, "
            "for some steps (the paper's figure 6).",
            search_aliases=["attention map", "heat map", "retribooru figure", "what does it look at"],
            inputs=[
                entry(io.Model, "model", tooltip="The model that the RetriNet was trained on."),
                entry(io.Clip, "clip", tooltip="Its text encoder."),
                entry(io.Vae, "vae", tooltip="Its autoencoder."),
                entry(RetriNetType, "retrinet", tooltip="From Load RetriNet or Train RetriNet."),
                entry(ReferencesType, "references", tooltip="From the last Reference of the chain."),
                entry(
                    io.String,
                    "prompt",
                    multiline=True,
                    default="a photo of a woman on the beach",
                    tooltip="The positive prompt.",
                ),
                entry(io.Latent, "latent", tooltip="An empty latent of the picture's size."),
                entry(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise.",
                ),
                entry(io.Int, "steps", default=20, min=1, max=1000, tooltip="Steps of drawing."),
                entry(
                    io.Float,
                    "guidance",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Classifier-free guidance (CFG).",
                ),
                entry(
                    io.Int,
                    "shown",
                    default=4,
                    min=1,
                    max=50,
                    tooltip="How many of the steps are shown, a row each.",
                ),
            ],
            outputs=[
                result(
                    io.Image,
                    "maps",
                    tooltip="For each reference a row a step, from noise to clean, and a column a level, from fine to "
                    "coarse.",
                ),
                result(io.Image, "image", tooltip="The picture."),
            ],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        from . import retrinet_maps

        with torch.inference_mode():
            return io.NodeOutput(*retrinet_maps.draw(**values))


NODES = [ApplyRetriNet, RetrievalMaps]
