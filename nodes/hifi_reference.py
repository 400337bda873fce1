"""Nodes of HiFi Tuner's reference: which source picture guides, and where its subject has to lie."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .schema import entry, result, schema
from .texts import shown

DEMO, PAPER = "demo (built in)", "facebook/dino-vits16"


class PickReference(io.ComfyNode):
    """The source picture that is closest to a generated one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessPickReference",
            display_name="Pick Reference",
            category="hifi",
            description="Finds the photo of your subject that looks most like a generated picture, by DINO: the one to "
            "guide the picture with.",
            search_aliases=["hifi tuner", "most similar image", "dino similarity", "best match", "choose image"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(io.Image, "generated", tooltip="One picture that was generated with the subject."),
                entry(io.Image, "sources", tooltip="The photos of your subject, as a batch."),
                entry(
                    io.Combo,
                    "embedder",
                    options=[DEMO, PAPER, "facebook/dinov2-base"],
                    default=DEMO,
                    tooltip=f"The DINO that compares. '{DEMO}' knows the demo world only; {PAPER} is the paper's and "
                    "is downloaded when first used.",
                ),
                entry(
                    io.Mask,
                    "source_masks",
                    optional=True,
                    tooltip="The subject in each photo: the mask that comes out. With generated_mask as well only the "
                    "subjects are compared, not what is around them.",
                ),
                entry(
                    io.Mask,
                    "generated_mask",
                    optional=True,
                    tooltip="The subject in the generated picture; used together with source_masks.",
                ),
                entry(
                    io.String,
                    "other_embedder",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Hub name or folder of another DINO (v1 or v2) to use instead; empty for the one above.",
                ),
            ],
            outputs=[
                result(io.Image, "reference", tooltip="The photo that was picked."),
                result(
                    io.Mask, "reference_mask", tooltip="Its subject; all of it where no source_masks are connected."
                ),
                result(io.Int, "index", tooltip="Its place in the batch; the first is 0."),
                result(io.Float, "similarity", tooltip="Its cosine with the generated picture; 1 is the same."),
                result(io.String, "text", tooltip="The cosines of all photos."),
            ],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from . import hifi_reference_model

        *outputs, text = hifi_reference_model.picked(**inputs)
        return io.NodeOutput(*outputs, text, ui=shown(text, cls.hidden.unique_id))


class AlignReference(io.ComfyNode):
    """A reference moved, turned and scaled so that its subject lies on another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessAlignReference",
            display_name="Align Reference",
            category="hifi",
            description="Moves, turns and scales a photo so that its subject lies where the subject of another picture "
            "is. Looks at the two masks only.",
            search_aliases=["hifi tuner", "register images", "match position", "transform image", "fit subject"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(io.Image, "reference", tooltip="The photo to move, or a batch of them."),
                entry(io.Mask, "reference_mask", tooltip="The subject in the photo."),
                entry(io.Mask, "target_mask", tooltip="Where the subject shall lie: its mask in the other picture."),
                entry(
                    io.Image,
                    "target",
                    optional=True,
                    tooltip="The other picture, as the background of 'overlap'; it changes nothing else.",
                ),
                entry(
                    io.Float,
                    "max_rotation",
                    default=30.0,
                    min=0.0,
                    max=180.0,
                    step=1.0,
                    optional=True,
                    tooltip="Most degrees the photo may turn to either side; 180 allows everything, upside down too.",
                ),
            ],
            outputs=[
                result(io.Image, "IMAGE", tooltip="The moved photo in the target's size; its border is repeated."),
                result(io.Mask, "MASK", tooltip="The subject in it."),
                result(
                    io.Image,
                    "overlap",
                    tooltip="How well they fit: yellow where both subjects are, red the target's alone, green the "
                    "moved photo's alone.",
                ),
                result(io.String, "text", tooltip="What was done, and the share of the area that both have (IoU)."),
            ],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from . import hifi_reference_model

        *outputs, text = hifi_reference_model.aligned(**inputs)
        return io.NodeOutput(*outputs, text, ui=shown(text, cls.hidden.unique_id))


NODES = [PickReference, AlignReference]
