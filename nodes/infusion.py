"""Infusion's nodes: learn a concept from photos, put it into any sampler."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..core.infusion.concept import LAYERS, SPACES, Concept
from . import inputs
from .concepts import ConceptType
from .schema import entry, result, schema


class TrainInfusion(io.ComfyNode):
    """Photos to a concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessTrainInfusion",
            display_name="Train Infusion",
            category="infusion",
            description="Learns a subject from a few photos, in kilobytes and without changing the model. Cancel keeps "
            "what was learned; queued again with the same settings it goes on from there.",
            search_aliases=["train concept", "textual inversion", "dreambooth", "train lora", "learn subject"],
            is_input_list=True,  # photos of different sizes arrive as a list
            hidden=[io.Hidden.unique_id],
            inputs=[
                *inputs.photos_and_prompt(),
                entry(
                    io.Int,
                    "steps",
                    default=500,
                    min=1,
                    max=100_000,
                    tooltip="Training steps. The paper goes from 100 to 2000; more steps do not overfit.",
                ),
                inputs.seed(),
                entry(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="The subject in each photo; the loss then looks there only (ours, not in the paper).",
                ),
                inputs.learning_rate(0.01),
                *inputs.batch_and_fit(),
                entry(
                    io.Combo,
                    "space",
                    options=list(SPACES),
                    default="text",
                    optional=True,
                    advanced=True,
                    tooltip="Where the residual is added: before the layer's value projection (text) or after (value). "
                    "The paper can be read both ways.",
                ),
                entry(
                    io.Combo,
                    "layers",
                    options=list(LAYERS),
                    default="all",
                    optional=True,
                    advanced=True,
                    tooltip="Cross-attention layers that get a residual; fewer make a smaller file.",
                ),
                inputs.preview_every(100),
                entry(
                    io.Boolean,
                    "snr_weighting",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Weights the loss by the signal-to-noise ratio, so that noisy steps, which decide on "
                    "colours, count more (ours; the paper weights all alike).",
                ),
                entry(
                    io.Int,
                    "bins",
                    default=1,
                    min=1,
                    max=16,
                    optional=True,
                    advanced=True,
                    tooltip="Residuals for so many equal parts of the noise schedule: more are more like the subject, "
                    "and make a larger file (ours; the paper has 1).",
                ),
            ],
            outputs=[
                result(ConceptType, "concept", tooltip="For Apply Infusion and Save Concept."),
                result(io.Image, "loss", tooltip="The loss over the steps."),
            ],
        )

    @classmethod
    def execute(cls, images: list, mask: list | None = None, **lists: Any) -> io.NodeOutput:
        from . import infusion_training

        single = {name: values[0] for name, values in lists.items()}
        pictures, masks = inputs.pictures_of(images, mask)
        return io.NodeOutput(*infusion_training.train(pictures, masks, cls.hidden.unique_id, **single))


class ApplyInfusion(io.ComfyNode):
    """A concept into a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessApplyInfusion",
            display_name="Apply Infusion",
            category="infusion",
            description="Puts a learned subject where the prompt has its word. Works with any sampler node; chain "
            "several for several subjects. The picture's layout stays the untouched model's.",
            search_aliases=["apply concept", "use concept", "infusion"],
            inputs=[
                entry(io.Model, "model", tooltip="The model that the concept was trained on, LoRAs welcome."),
                entry(io.Clip, "clip", tooltip="Its text encoder."),
                entry(ConceptType, "concept", tooltip="From Train Infusion or Load Concept."),
                entry(
                    io.String,
                    "prompt",
                    multiline=True,
                    default="a photo of a cat on the beach",
                    tooltip="The positive prompt, with the concept's word in it.",
                ),
                entry(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How much of the concept: 0 is the untouched model.",
                ),
                entry(
                    io.Conditioning,
                    "conditioning",
                    optional=True,
                    tooltip="The positive conditioning, if it was encoded elsewhere from this prompt (ControlNet, a "
                    "concept before this one). Without it the prompt is encoded here.",
                ),
                entry(io.Mask, "mask", optional=True, tooltip="Where in the picture the concept may appear."),
                *inputs.span(optional=True, advanced=True),
                entry(
                    io.Boolean,
                    "fast",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="One and a half times the cost of a plain picture instead of twice, slightly less exact.",
                ),
                entry(
                    io.Boolean,
                    "strict",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Stop with an error where the prompt lacks the word; otherwise the concept just rests.",
                ),
            ],
            outputs=[
                result(io.Model, "MODEL", tooltip="For any sampler."),
                result(io.Conditioning, "positive", tooltip="For the sampler's positive input: it knows the word."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        concept: Concept,
        prompt: str,
        strength: float,
        conditioning: list | None = None,
        mask: torch.Tensor | None = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        fast: bool = False,
        strict: bool = False,
    ) -> io.NodeOutput:
        from ..core.infusion.control import Use
        from . import infusion_model

        use = Use(concept, strength, start_percent, end_percent, mask)
        return io.NodeOutput(
            infusion_model.apply(model, use, fast=fast),
            infusion_model.encode(clip, prompt, concept, conditioning, strict=strict),
        )


NODES = [TrainInfusion, ApplyInfusion]
