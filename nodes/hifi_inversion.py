"""HiFi Tuner's nodes around a real picture: invert it, lead a drawing by it, replace its subject."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..core.hifi.inversion import Trajectory
from ..core.hifi.subject import Subject
from .schema import entry, result, schema
from .subjects import SubjectType
from .texts import shown

TrajectoryType = io.Custom("LIKENESS_TRAJECTORY")


class Invert(io.ComfyNode):
    """A picture's way to noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessInvert",
            display_name="Invert",
            category="hifi",
            description="Turns a picture into the noise that draws it (DDIM inversion), and keeps all steps between.",
            search_aliases=["ddim inversion", "pivotal inversion", "unsampler", "picture to noise"],
            inputs=[
                entry(io.Model, "model", tooltip="The model that will draw; noise or velocity prediction."),
                entry(io.Conditioning, "positive", tooltip="What the picture shows, as a caption."),
                entry(io.Latent, "latent", tooltip="The picture, encoded by the model's VAE."),
                entry(
                    io.Sigmas,
                    "sigmas",
                    tooltip="From a scheduler node, the one that will draw; ddim_uniform with 50 steps is the paper's.",
                ),
            ],
            outputs=[
                result(TrajectoryType, "TRAJECTORY", tooltip="For Null Text and Reference Guidance."),
                result(
                    io.Latent,
                    "noise",
                    tooltip="The last step, for a sampler that adds no noise (KSampler Advanced) and guidance 1.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, positive: list, latent: dict, sigmas: torch.Tensor) -> io.NodeOutput:
        from . import hifi_loops

        return io.NodeOutput(*hifi_loops.invert(model, positive, latent, sigmas))


class NullText(io.ComfyNode):
    """Null texts that lead back to the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessNullText",
            display_name="Null Text",
            category="hifi",
            description="Finds, for every step, the negative prompt with which the inverted picture is drawn again at "
            "the guidance you work with. Without it guidance above 1 leads somewhere else.",
            search_aliases=["null-text optimization", "null text inversion", "real image editing"],
            inputs=[
                entry(io.Model, "model", tooltip="The model that the picture was inverted with."),
                entry(io.Conditioning, "positive", tooltip="The caption that it was inverted with."),
                entry(io.Conditioning, "negative", tooltip="Where to start from: an empty prompt."),
                entry(TrajectoryType, "trajectory", tooltip="From Invert."),
                entry(
                    io.Float,
                    "guidance",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Classifier-free guidance (CFG) that the picture will be edited with.",
                ),
                entry(
                    io.Int,
                    "steps",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip="Most optimisation steps at each step of drawing; it stops early where it is close enough.",
                ),
                entry(
                    io.Float,
                    "learning_rate",
                    default=0.01,
                    min=1e-5,
                    max=1.0,
                    step=0.001,
                    round=0.00001,
                    optional=True,
                    advanced=True,
                    tooltip="0.01 as published; it falls to half of it.",
                ),
            ],
            outputs=[
                result(TrajectoryType, "TRAJECTORY", tooltip="With its null texts; for Replace Subject."),
                result(
                    io.Latent, "reconstruction", tooltip="The picture as it comes back: decode it to see how close."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        trajectory: Trajectory,
        guidance: float,
        steps: int,
        learning_rate: float = 0.01,
    ) -> io.NodeOutput:
        from . import hifi_loops

        return io.NodeOutput(
            *hifi_loops.null_text(model, positive, negative, trajectory, guidance, steps, learning_rate)
        )


class ReferenceGuidance(io.ComfyNode):
    """A sampler that follows a reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessReferenceGuidance",
            display_name="Reference Guidance",
            category="hifi",
            description="A sampler for a second pass from the same noise, in which the subject follows a real photo of "
            "it, turned and moved to where it stands. Connect it to SamplerCustomAdvanced, with a CFGGuider.",
            search_aliases=["hifi tuner", "reference image", "subject fidelity", "keep details"],
            inputs=[
                entry(
                    TrajectoryType, "trajectory", tooltip="The aligned reference photo, inverted over the same steps."
                ),
                entry(io.Mask, "mask", tooltip="The aligned reference's subject (Align Reference)."),
                entry(
                    io.Int,
                    "start",
                    default=40,
                    min=0,
                    max=50,
                    tooltip="First guided step, counted from the end of 50; 40 in the paper. Other numbers of steps "
                    "scale with it.",
                ),
                entry(
                    io.Int, "end", default=10, min=0, max=50, tooltip="Last guided step, counted so; 10 in the paper."
                ),
                entry(
                    io.Int,
                    "steps",
                    default=10,
                    min=0,
                    max=100,
                    tooltip="Optimisation steps at each guided step; 10 in the paper. More come closer to the photo.",
                ),
                entry(
                    io.Float,
                    "learning_rate",
                    default=0.01,
                    min=1e-5,
                    max=1.0,
                    step=0.001,
                    round=0.00001,
                    optional=True,
                    advanced=True,
                    tooltip="0.01 in the paper.",
                ),
                entry(
                    io.Float,
                    "stop",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Go on once the error is below this share of the largest so far; 0 never does.",
                ),
                entry(
                    io.Float,
                    "fast",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="Without optimisation: at each guided step go this share of the way to the photo (ours, "
                    "not in the paper). 0 is the paper's way.",
                ),
            ],
            outputs=[result(io.Sampler, "SAMPLER", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        trajectory: Trajectory,
        mask: torch.Tensor,
        start: int,
        end: int,
        steps: int,
        learning_rate: float = 0.01,
        stop: float = 0.0,
        fast: float = 0.0,
    ) -> io.NodeOutput:
        from ..core.hifi.guidance import Guidance, at_latent_size
        from . import hifi_loops

        at_latent_size(mask, trajectory.noise.shape[-2:])  # refuses an empty one here, where it is connected
        guidance = Guidance(start, end, steps, learning_rate, stop, fast)
        return io.NodeOutput(hifi_loops.ReferenceSampler(trajectory, mask, guidance))


class ReplaceSubject(io.ComfyNode):
    """Another subject in a photo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessReplaceSubject",
            display_name="Replace Subject",
            category="hifi",
            description="Draws an inverted photo again with another subject in the old one's place; everything else "
            "keeps its place, since every other word is drawn where the photo has it.",
            search_aliases=["prompt to prompt", "subject swap", "edit photo", "hifi tuner"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(io.Model, "model", tooltip="The model that the photo was inverted with."),
                entry(io.Clip, "clip", tooltip="Its text encoder."),
                entry(TrajectoryType, "trajectory", tooltip="From Null Text."),
                entry(
                    io.String,
                    "caption",
                    multiline=True,
                    default="a photo of a dog on the beach",
                    tooltip="The caption that the photo was inverted with.",
                ),
                entry(io.String, "old_word", default="dog", tooltip="The word of the caption to replace."),
                entry(io.String, "new_word", default="cat", tooltip="What stands there instead: the subject's word."),
                entry(
                    SubjectType,
                    "subject",
                    optional=True,
                    tooltip="A learned subject; without one the model draws what it knows by the new word.",
                ),
                entry(
                    io.Boolean,
                    "renormalise",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Let each place's attention sum to one again (ours; the paper doesn't).",
                ),
            ],
            outputs=[result(io.Latent, "LATENT", tooltip="The new picture: decode it.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        trajectory: Trajectory,
        caption: str,
        old_word: str,
        new_word: str,
        subject: Subject | None = None,
        renormalise: bool = False,
    ) -> io.NodeOutput:
        from . import hifi_loops

        latent, text = hifi_loops.replace_subject(
            model, clip, trajectory, caption, old_word, new_word, subject, renormalise
        )
        return io.NodeOutput(latent, ui=shown(text, cls.hidden.unique_id))


NODES = [Invert, NullText, ReferenceGuidance, ReplaceSubject]
