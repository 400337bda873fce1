"""HiFi Tuner's nodes: learn a subject from photos, put it into any sampler, see what it attends to."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..core.hifi.subject import Subject
from . import inputs
from .schema import entry, result, schema
from .subjects import SubjectType


class TrainHiFi(io.ComfyNode):
    """Photos to a subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessTrainHiFi",
            display_name="Train HiFi Subject",
            category="hifi",
            description="Learns a subject as a few text tokens, other ones for each step of drawing; the model is not "
            "changed. Cancel keeps what was learned; queued again with the same settings it goes on from there.",
            search_aliases=["hifi tuner", "train embedding", "textual inversion", "dreambooth", "learn subject"],
            is_input_list=True,  # photos of different sizes arrive as a list
            hidden=[io.Hidden.unique_id],
            inputs=[
                *inputs.photos_and_prompt(),
                entry(
                    io.Int,
                    "steps",
                    default=1000,
                    min=1,
                    max=100_000,
                    tooltip="Steps of the first stage, which learns one set of tokens for all of drawing; 1000 in the "
                    "paper.",
                ),
                entry(
                    io.Int,
                    "timesteps",
                    default=50,
                    min=0,
                    max=1000,
                    tooltip="Steps of drawing that get tokens of their own in the second stage; 50 in the paper, 0 "
                    "leaves it out.",
                ),
                inputs.seed(),
                entry(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="The subject in each photo (Segment Subject finds it); without it the background is "
                    "learned too.",
                ),
                entry(
                    io.Float,
                    "regularisation",
                    default=0.03,
                    min=0.0,
                    max=1000.0,
                    step=0.001,
                    round=0.0001,
                    optional=True,
                    advanced=True,
                    tooltip="How strongly the tokens are held to the empty prompt's: more keeps scenes free, less "
                    "looks more like the photos. The paper does not tell its number; this one is ours.",
                ),
                inputs.learning_rate(0.005),
                entry(
                    io.Int,
                    "rows",
                    default=5,
                    min=1,
                    max=32,
                    optional=True,
                    advanced=True,
                    tooltip="Text tokens that the subject takes, at the end of the prompt's 77; 5 in the paper.",
                ),
                entry(
                    io.Int,
                    "steps_each",
                    default=10,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="Training steps at each of the timesteps; 10 in the paper.",
                ),
                *inputs.batch_and_fit(),
                inputs.preview_every(250),
            ],
            outputs=[
                result(SubjectType, "subject", tooltip="For Apply HiFi Subject and Save Subject."),
                result(io.Image, "loss", tooltip="The loss over the steps."),
            ],
        )

    @classmethod
    def execute(cls, images: list, mask: list | None = None, **lists: Any) -> io.NodeOutput:
        from . import hifi_training

        pictures, masks = inputs.pictures_of(images, mask)
        single = {name: values[0] for name, values in lists.items()}
        return io.NodeOutput(*hifi_training.train(pictures, masks, cls.hidden.unique_id, **single))


class ApplyHiFi(io.ComfyNode):
    """A subject into a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessApplyHiFi",
            display_name="Apply HiFi Subject",
            category="hifi",
            description="Puts a learned subject into a prompt, with the right tokens at every step of any sampler and "
            "scheduler.",
            search_aliases=["hifi tuner", "apply subject", "use embedding"],
            inputs=[
                entry(io.Model, "model", tooltip="The model that the subject was trained on, LoRAs welcome."),
                entry(io.Clip, "clip", tooltip="Its text encoder."),
                entry(SubjectType, "subject", tooltip="From Train HiFi Subject or Load Subject."),
                entry(
                    io.String,
                    "prompt",
                    multiline=True,
                    default="a photo of a cat on the beach",
                    tooltip="The positive prompt, which names the subject by its class word.",
                ),
                entry(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="0 is the untouched model, 1 what was learned.",
                ),
                entry(
                    io.Conditioning,
                    "conditioning",
                    optional=True,
                    tooltip="What was encoded from this prompt elsewhere (with ControlNet or areas). Without it the "
                    "prompt is encoded here.",
                ),
            ],
            outputs=[
                result(io.Model, "MODEL", tooltip="For any sampler."),
                result(io.Conditioning, "positive", tooltip="For the sampler's positive input: it holds the subject."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        subject: Subject,
        prompt: str,
        strength: float,
        conditioning: list | None = None,
    ) -> io.NodeOutput:
        from . import hifi_model

        return io.NodeOutput(
            hifi_model.apply(model, subject, strength), hifi_model.encode(clip, prompt, subject, conditioning)
        )


class SubjectAttention(io.ComfyNode):
    """Where a subject's tokens look, step by step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessSubjectAttention",
            display_name="Subject Attention",
            category="hifi",
            description="Draws one picture with a subject and shows where each of its tokens is drawn, for some steps "
            "(the paper's figure 3).",
            search_aliases=["attention map", "heat map", "hifi tuner figure"],
            inputs=[
                entry(io.Model, "model", tooltip="The model that the subject was trained on."),
                entry(io.Clip, "clip", tooltip="Its text encoder."),
                entry(io.Vae, "vae", tooltip="Its autoencoder."),
                entry(SubjectType, "subject", tooltip="From Train HiFi Subject or Load Subject."),
                *inputs.drawing(
                    "a photo of a cat on the beach",
                    "The positive prompt, which names the subject by its class word.",
                    steps=50,
                    shown=5,
                ),
            ],
            outputs=[
                result(io.Image, "maps", tooltip="A row a step, from noise to clean; a column a token."),
                result(io.Image, "image", tooltip="The picture."),
            ],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        from . import hifi_attention

        with torch.inference_mode():
            return io.NodeOutput(*hifi_attention.draw(**values))


NODES = [TrainHiFi, ApplyHiFi, SubjectAttention]
