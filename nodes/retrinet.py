"""RetriNet's nodes: retrieve from references in any sampler, and see what is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..core.retrinet import free
from ..core.retrinet.network import LEVELS
from ..core.retrinet.reference import Reference
from . import inputs
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
                *inputs.readers("The model that the RetriNet was trained on, LoRAs welcome."),
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
                *inputs.span(),
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


class Retrieve(io.ComfyNode):
    """References into any model, without a RetriNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessRetrieve",
            display_name="Retrieve (training-free)",
            category="retrinet",
            description="Lets any Stable Diffusion checkpoint look at reference pictures while it draws, without a "
            "trained RetriNet. Less exact than Apply RetriNet.",
            search_aliases=["reference only", "reference attention", "training-free", "consistent character"],
            inputs=[
                *inputs.readers("Any SD1.x, SD2.x or SDXL model, LoRAs welcome."),
                entry(ReferencesType, "references", tooltip="From the last Reference of the chain."),
                entry(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much is taken from the references: 0 is the untouched model.",
                ),
                *inputs.span(),
                entry(
                    io.Combo,
                    "levels",
                    options=list(free.LEVELS),
                    default=free.LEVELS[0],
                    tooltip="Which of the decoder's layers look: all, those of the coarse half of the resolutions, or "
                    "those of the fine half.",
                ),
                entry(
                    io.Combo,
                    "mode",
                    options=list(MODES),
                    default="cached",
                    tooltip="Read the references once, clean, which is fast and gives clean pictures; or anew at each "
                    "step with as much noise as the picture has.",
                ),
                entry(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=False,
                    optional=True,
                    advanced=True,
                    tooltip="Of the references' noise, in the mode of each step.",
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
        references: Sequence[Reference],
        strength: float,
        start_percent: float,
        end_percent: float,
        levels: str,
        mode: str,
        seed: int = 0,
    ) -> io.NodeOutput:
        from ..core.reach import Reach
        from . import retrinet_model

        reach = Reach(strength, start_percent, end_percent)
        return io.NodeOutput(retrinet_model.free(model, clip, vae, references, reach, levels, MODES[mode], seed))


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
                *inputs.drawing("a photo of a woman on the beach", "The positive prompt.", steps=20, shown=4),
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


NODES = [ApplyRetriNet, Retrieve, RetrievalMaps]
