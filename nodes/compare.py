"""Compare in ComfyUI: pictures of several methods, measured alike, as a table and a plot."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import inputs
from .schema import entry, result, schema
from .texts import shown

METHODS = 6
METRICS = ("clip_i", "clip_t", "dino", "vqa")


class Compare(io.ComfyNode):
    """Several methods against each other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessCompare",
            display_name="Compare",
            category="metrics",
            description="Measures pictures of several methods against the same photos and prompts, and shows them in a "
            "table and a plot: likeness against prompt following.",
            search_aliases=["benchmark", "evaluate", "clip score", "dino score", "scatter plot", "compare methods"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(io.Image, "references", tooltip="Photos of the subject."),
                entry(
                    io.String,
                    "prompts",
                    multiline=True,
                    default="a photo of a cat",
                    tooltip="What the pictures were asked to show: one line for all, or a line for each picture of a "
                    "batch.",
                ),
                entry(
                    io.String,
                    "names",
                    multiline=True,
                    default="foundation model\nInfusion",
                    tooltip="What the methods are called, a line each, in the order of the pictures.",
                ),
                entry(io.Image, "images_1", tooltip="What the first method drew."),
                *(
                    entry(io.Image, f"images_{i}", optional=True, tooltip=f"What method {i} drew.")
                    for i in range(2, METHODS + 1)
                ),
                *inputs.judges(),
                entry(io.Combo, "across", options=list(METRICS), default="clip_t", tooltip="What the plot has across."),
                entry(io.Combo, "up", options=list(METRICS), default="dino", tooltip="What the plot has upwards."),
            ],
            outputs=[
                result(io.Image, "plot", tooltip="A point a method, with the 95% interval of its mean over pictures."),
                result(io.Image, "table", tooltip="Means of all numbers."),
                result(io.String, "text", tooltip="The table in words."),
            ],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from . import compare_model

        images = compare_model.compare(**inputs)
        return io.NodeOutput(*images, ui=shown(images[-1], cls.hidden.unique_id))


NODES = [Compare]
