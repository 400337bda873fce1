"""Nodes that look at pictures: where a subject is, and what a picture shows."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from . import vision
from .schema import entry, result, schema
from .texts import shown

TINT = (1.0, 0.1, 0.4)


class SegmentSubject(io.ComfyNode):
    """Pictures and a name to masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessSegmentSubject",
            display_name="Segment Subject",
            category="vision",
            description="Finds a subject by its name in each picture, and gives its mask. With a Segment Anything "
            "model a box or points say which one is meant.",
            search_aliases=["segment anything", "sam", "grounding dino", "grounded sam", "mask by text", "sam 2"],
            inputs=[
                entry(io.Image, "image", tooltip="The pictures to look at."),
                entry(
                    io.String,
                    "text",
                    default="a cat",
                    tooltip="What to look for, as in 'a cat'. The built-in segmenter does not read it.",
                ),
                entry(
                    io.Combo,
                    "segmenter",
                    options=vision.names(vision.DEMO, vision.SAM, vision.SAM2, vision.SAM3),
                    tooltip="Built in: for pictures of the demo world. A SAM file in models/sams, a SAM 2 or SAM 3 "
                    "folder in models/vision, or one that is downloaded when it is first used.",
                ),
                entry(
                    io.Combo,
                    "detector",
                    options=vision.names(vision.DINO),
                    tooltip="A Grounding DINO, which finds the text for a SAM or SAM 2. The others need none.",
                ),
                entry(
                    io.Float,
                    "threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="How sure the model must be that something is what the text says; less finds more.",
                ),
                *_prompt_entries(),
            ],
            outputs=[
                result(io.Mask, "mask", tooltip="White on the subject, a mask for each picture."),
                result(io.Image, "overlay", tooltip="The pictures with the mask in colour, to look at."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        text: str,
        segmenter: str,
        detector: str,
        threshold: float = 0.3,
        box: str = "",
        points: str = "",
        negative_points: str = "",
    ) -> io.NodeOutput:
        from . import vision_model

        images = pictures(image)
        where = prompt(images, box, points, negative_points)
        chosen = vision.find("segmenter", segmenter)
        _check(chosen, text, where)
        masks = vision_model.segment(images, text, chosen, vision.find("detector", detector), threshold, **where)
        _check_found(masks, chosen, text, where)
        return io.NodeOutput(masks[:, 0], overlay(images, masks).movedim(1, -1))


def _prompt_entries() -> list[io.Input]:
    optional = dict(default="", optional=True, advanced=True)
    return [
        entry(
            io.String,
            "box",
            **optional,
            tooltip="Left, top, right, bottom in pixels, for a SAM or SAM 2; the text is then not looked for. Several "
            "boxes one after the other.",
        ),
        entry(
            io.String,
            "points",
            **optional,
            tooltip="x, y in pixels of points on the subject, for a SAM or SAM 2; the text is then not looked for.",
        ),
        entry(
            io.String,
            "negative_points",
            **optional,
            tooltip="x, y in pixels of points that do not belong to the subject, beside a box or points.",
        ),
    ]


class Caption(io.ComfyNode):
    """Pictures to captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessCaption",
            display_name="Caption",
            category="vision",
            description="Says in a few words what each picture shows, with BLIP-2.",
            search_aliases=["blip", "blip-2", "image to text", "describe image", "interrogate"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(io.Image, "image", tooltip="The pictures to describe."),
                entry(
                    io.Combo,
                    "captioner",
                    options=vision.names(vision.BLIP2),
                    tooltip="A BLIP-2 folder in models/vision, or one that is downloaded at first use (15 GB).",
                ),
                entry(
                    io.Int,
                    "length",
                    default=30,
                    min=1,
                    max=200,
                    optional=True,
                    advanced=True,
                    tooltip="Most tokens of a caption; a word has one or two.",
                ),
            ],
            outputs=[result(io.String, "captions", tooltip="A line for each picture.")],
        )

    @classmethod
    def execute(cls, image: Tensor, captioner: str, length: int = 30) -> io.NodeOutput:
        from . import vision_model

        lines = vision_model.caption(pictures(image), vision.find("captioner", captioner), length)
        text = "\n".join(lines)
        return io.NodeOutput(text, ui=shown(text, cls.hidden.unique_id))


def pictures(image: Tensor) -> Tensor:
    """An IMAGE (B, H, W, C) as pictures (B, 3, H, W) in 0..1; ValueError where there is none."""
    if not len(image):
        raise ValueError("image: the batch is empty; connect at least one picture")
    return image[..., :3].movedim(-1, 1).float().clamp(0, 1)


def overlay(images: Tensor, masks: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 with masks (B, 1, H, W) laid over them, half transparent."""
    return torch.lerp(images, images.new_tensor(TINT)[:, None, None].expand_as(images), masks / 2)


def prompt(images: Tensor, box: str, points: str, negative_points: str) -> dict[str, Tensor]:
    """What is typed, as `boxes` (N, 4) and `points` (P, 3); empty where nothing is.

    Raises:
        ValueError: it names the input.
    """
    height, width = images.shape[-2:]
    boxes = numbers("box", box, 4, width, height)
    for left, top, right, bottom in boxes.tolist():
        if left >= right or top >= bottom:
            raise ValueError("box: give left, top, right, bottom, with left below right and top below bottom")
    on, beside = (
        torch.nn.functional.pad(numbers(name, text, 2, width, height), (0, 1), value=label)
        for name, text, label in (("points", points, 1.0), ("negative_points", negative_points, 0.0))
    )
    if len(beside) and not len(on) and not len(boxes):
        raise ValueError("negative_points: they need a point on the subject, or a box, beside them")
    both = torch.cat([on, beside])
    return {name: value for name, value in (("boxes", boxes), ("points", both)) if len(value)}


def numbers(name: str, text: str, group: int, width: int, height: int) -> Tensor:
    """Positions in a text as rows (N, group) of x, y, x, y..., in pixels of a picture.

    Raises:
        ValueError: it names the input.
    """
    try:
        values = torch.tensor([float(word) for word in text.replace(",", " ").replace(";", " ").split()])
        rows = values.view(-1, group)
    except (ValueError, RuntimeError):
        what = {2: "x, y", 4: "left, top, right, bottom"}[group]
        raise ValueError(f"{name}: {text!r} is not {what} in pixels, {group} numbers each") from None
    limits = rows.new_tensor([width, height]).repeat(group // 2)
    if not ((rows >= 0) & (rows <= limits)).all():
        raise ValueError(f"{name}: {text!r} lies outside the pictures, which are {width} wide and {height} high")
    return rows


def _check(segmenter: vision.Model, text: str, where: dict[str, Tensor]) -> None:
    prompted = segmenter.kind in (vision.SAM, vision.SAM2)
    if where and not prompted:
        name = "box" if "boxes" in where else "points"
        raise ValueError(f"{name}: this segmenter takes none; clear it, or choose a SAM or SAM 2 as segmenter")
    if not where and segmenter.kind != vision.DEMO and not text.strip():
        instead = ", or give a box" if prompted else ""
        raise ValueError(f"text: empty; say what to look for, as in 'a cat'{instead}")


def _check_found(masks: Tensor, segmenter: vision.Model, text: str, where: dict[str, Tensor]) -> None:
    missing = [str(i + 1) for i, mask in enumerate(masks) if not mask.any()]
    if not missing:
        return
    place = f"picture{'s' * (len(missing) > 1)} {', '.join(missing)} of {len(masks)}"
    if segmenter.kind == vision.DEMO:
        raise ValueError(f"image: no subject found in {place}; the built-in segmenter knows the demo world only")
    if where:
        raise ValueError(f"box, points: nothing found there in {place}; move them, or draw a mask")
    raise ValueError(
        f"text: nothing that looks like {text!r} was found in {place}; lower the threshold, use other words, or draw "
        "a mask"
    )


NODES = [SegmentSubject, Caption]
