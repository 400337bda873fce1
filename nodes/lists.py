"""Lists of numbers: a node that gets one runs once for each."""

from __future__ import annotations

import math

from comfy_api.latest import io

from .schema import entry, result, schema


class Numbers(io.ComfyNode):
    """Text to a list of numbers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessNumbers",
            display_name="Numbers",
            category="utilities",
            description="A list of numbers, such as strengths to compare: whatever gets it runs once for each, and so "
            "does all that follows.",
            search_aliases=["list", "xy plot", "grid", "sweep", "float list", "int list"],
            inputs=[
                entry(
                    io.String,
                    "numbers",
                    default="0, 0.5, 1",
                    tooltip="Numbers with a point as decimal mark, separated by commas or spaces.",
                ),
            ],
            outputs=[
                result(io.Float, "floats", is_output_list=True, tooltip="The numbers, one run each."),
                result(io.Int, "ints", is_output_list=True, tooltip="The same rounded to whole numbers."),
            ],
        )

    @classmethod
    def execute(cls, numbers: str) -> io.NodeOutput:
        floats = parse(numbers)
        return io.NodeOutput(floats, [round(x) for x in floats])


def parse(text: str) -> list[float]:
    """Numbers in a text.

    Raises:
        ValueError: none there, or a word that is no finite number.
    """
    found = []
    for word in text.replace(",", " ").split():
        try:
            found.append(float(word))
        except ValueError:
            found.append(math.nan)
        if not math.isfinite(found[-1]):
            raise ValueError(f"numbers: {word!r} is no number; write for example 0, 0.5, 1")
    if not found:
        raise ValueError("numbers: none given; write for example 0, 0.5, 1")
    return found


NODES = [Numbers]
