"""Nodes that measure what a customised model has become."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.metrics.diversity import QUESTIONS
from . import inputs
from .schema import entry, result, schema
from .texts import shown

PAIRS = ("vqa x clip_i", "vqa x clip_t", "clip_i x clip_t")


class MeasureOverfitting(io.ComfyNode):
    """The drift of a customised model from its base."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessMeasureOverfitting",
            display_name="Measure Overfitting",
            category="metrics",
            description="How far a customised model (LoRA, merged weights, a concept) has drifted from its base on "
            "pictures that have nothing to do with its subject, and how much variety it has lost.",
            search_aliases=["fisher divergence", "wasserstein distance", "compare models", "drift", "evaluate lora"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(io.Model, "model", tooltip="The base, as it was before it was customised."),
                entry(io.Model, "custom", tooltip="The customised model: with a LoRA, merged weights, or a concept."),
                entry(io.Clip, "clip", tooltip="The text encoder that reads the captions, for both models."),
                entry(io.Vae, "vae", tooltip="The autoencoder of both models."),
                entry(io.Image, "images", tooltip="Real pictures that do not show the subject; the more the better."),
                entry(
                    io.String,
                    "captions",
                    multiline=True,
                    default="a photo",
                    tooltip="What the pictures show, without the subject's word: one line for all, or a line for each.",
                ),
                entry(
                    io.Latent,
                    "base_samples",
                    optional=True,
                    tooltip="What the base drew with a prompt of the subject's class, as in 'a photo of a cat'.",
                ),
                entry(
                    io.Latent,
                    "custom_samples",
                    optional=True,
                    tooltip="As many that the customised model drew with the same prompt and settings.",
                ),
                entry(
                    io.Int,
                    "draws",
                    default=4,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="Times and noises tried on each picture; more take longer and make the error smaller.",
                ),
                entry(
                    io.Int,
                    "batch_size",
                    default=4,
                    min=1,
                    max=256,
                    optional=True,
                    advanced=True,
                    tooltip="Most latents at a time; fewer take less memory, the result stays.",
                ),
                entry(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=False,  # numbers of different seeds are not to be compared
                    optional=True,
                    advanced=True,
                    tooltip="Of times and noise; both models see the same.",
                ),
            ],
            outputs=[
                result(io.Float, "fisher", tooltip="Latent Fisher divergence; 0 is the base."),
                result(io.Float, "error", tooltip="Its standard error over the pictures; -1 with one picture."),
                result(io.Float, "w2", tooltip="2-Wasserstein distance of the samples; -1 where none are connected."),
                result(io.String, "text", tooltip="All of it in words."),
            ],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from . import metrics_model

        numbers = metrics_model.measure(**inputs)
        return io.NodeOutput(*numbers, ui=shown(numbers[-1], cls.hidden.unique_id))


class MeasurePictures(io.ComfyNode):
    """Pictures of a subject against its photos and their prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessMeasurePictures",
            display_name="Measure Pictures",
            category="metrics",
            description="How alike pictures and a subject's photos are (CLIP-I, DINO), how well the pictures follow "
            "their prompts (CLIP-T), how different they are (VQA score), and two of these at once (SWD).",
            search_aliases=["clip score", "dino score", "swd", "dreambench", "evaluate", "vqa score", "likeness"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(io.Image, "images", tooltip="What was drawn."),
                entry(io.Image, "references", tooltip="Photos of the subject; likeness is the mean over them."),
                entry(
                    io.String,
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="What the pictures were asked to show: one line for all, or a line for each. Empty leaves "
                    "CLIP-T out.",
                ),
                *inputs.judges(),
                entry(
                    io.Combo,
                    "pair",
                    options=list(PAIRS),
                    default=PAIRS[0],
                    tooltip="Which two numbers SWD multiplies, picture by picture.",
                ),
                entry(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="Where the subject is in each picture: with both masks it is compared without its "
                    "surroundings too (Seg-CLIP-I, Seg-DINO).",
                ),
                entry(io.Mask, "reference_mask", optional=True, tooltip="Where the subject is in each photo."),
                entry(
                    io.String,
                    "questions",
                    multiline=True,
                    default="\n".join(QUESTIONS),
                    optional=True,
                    advanced=True,
                    tooltip="A question a line, for a VQA model; the demo world's has its own.",
                ),
            ],
            outputs=[
                result(io.Float, name, tooltip=f"{tooltip}; the mean over pictures, -1 where it was not measured.")
                for name, tooltip in (
                    ("clip_i", "CLIP-I: likeness as CLIP sees it"),
                    ("clip_t", "CLIP-T: how well the prompts are followed"),
                    ("dino", "DINO: likeness as DINO sees it, which minds details"),
                    ("seg_clip_i", "CLIP-I of the subject alone"),
                    ("seg_dino", "DINO of the subject alone"),
                    ("vqa", "VQA score: how differently questions are answered"),
                    ("swd", "Similarity-weighted diversity of the chosen pair"),
                )
            ]
            + [result(io.String, "text", tooltip="All of it in words, for each picture too.")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from . import pictures_model

        numbers = pictures_model.measure(**inputs)
        return io.NodeOutput(*numbers, ui=shown(numbers[-1], cls.hidden.unique_id))


NODES = [MeasureOverfitting, MeasurePictures]
