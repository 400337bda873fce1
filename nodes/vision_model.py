"""Segmenters and captioners on ComfyUI's device: loaded for one call, with room made before and given back after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..core.demo import judges
from ..core.vision.blip2 import Blip2
from ..core.vision.clip import Clip
from ..core.vision.dino import Dino
from ..core.vision.grounding import GroundingDino
from ..core.vision.sam import Sam
from ..core.vision.sam2 import Sam2
from ..core.vision.sam3 import Sam3
from ..core.vision.vqa import BlipVqa, InstructBlip
from . import vision
from .vision import Model

EVERYTHING = 1e30  # bytes
CLASSES = {vision.SAM: Sam, vision.SAM2: Sam2, vision.SAM3: Sam3, vision.DINO: GroundingDino, vision.BLIP2: Blip2}
CLASSES |= {vision.CLIP: Clip, vision.BLIP: BlipVqa, vision.INSTRUCT_BLIP: InstructBlip}
CLASSES |= dict.fromkeys(vision.DINOS, Dino)


@contextmanager
def borrowed(model: Model, **settings: Any) -> Iterator[Any]:
    """The model on ComfyUI's device, in float32 unless asked otherwise, for a `with` block; then its memory is free."""
    device = comfy.model_management.get_torch_device()
    room = EVERYTHING if model.size is None else model.size + comfy.model_management.minimum_inference_memory()
    comfy.model_management.free_memory(room, device)
    opened = CLASSES[model.kind](model.name, device=device, **settings)
    try:
        yield opened
    finally:
        opened.release()
        comfy.model_management.soft_empty_cache()


def segment(
    images: Tensor,
    text: str,
    segmenter: Model,
    detector: Model,
    threshold: float,
    boxes: Tensor | None = None,
    points: Tensor | None = None,
) -> Tensor:
    """Masks (B, 1, H, W) of pictures (B, 3, H, W) in 0..1; empty where nothing is found.

    Args:
        text: what to look for; not read by the embedded segmenter, nor where there are boxes or points.
        detector: what finds the text for a SAM or SAM 2.
        threshold: least score of what is found, 0..1.
        boxes, points: the same for every picture, as `PromptSegmenter` takes a picture's.
    """
    if segmenter.kind == vision.DEMO:
        return judges.segments().segment(images)
    if segmenter.kind == vision.SAM3:
        with borrowed(segmenter, threshold=threshold) as sam3:
            return torch.cat(_each(images, lambda image, _: sam3.segment(image, text)))
    each = [boxes] * len(images)
    if boxes is None and points is None:
        with borrowed(detector, threshold=threshold) as dino:
            each = _each(images, lambda image, _: dino.boxes(image, text)[0])
        if not any(map(len, each)):  # nothing to load a segmenter for
            return torch.zeros_like(images[:, :1])
    with borrowed(segmenter) as sam:
        return torch.cat(_each(images, lambda image, i: _prompted(sam, image, each[i], points)))


def _prompted(sam: Sam | Sam2, image: Tensor, boxes: Tensor | None, points: Tensor | None) -> Tensor:
    return sam.segment(image, boxes=None if boxes is None else [boxes], points=None if points is None else [points])


def half() -> torch.dtype:
    """Half precision where ComfyUI's device prefers it."""
    fp16 = comfy.model_management.should_use_fp16(comfy.model_management.get_torch_device())
    return torch.float16 if fp16 else torch.float32


def caption(images: Tensor, captioner: Model, length: int) -> list[str]:
    """A caption of `length` tokens at most for each of pictures (B, 3, H, W) in 0..1."""
    with borrowed(captioner, length=length, dtype=half()) as blip2:
        return _each(images, lambda image, _: blip2.caption(image)[0])


Result = TypeVar("Result")


def _each(images: Tensor, do: Callable[[Tensor, int], Result]) -> list[Result]:
    """`do` for one picture after the other, (1, 3, H, W) and its number, with a progress bar and Cancel."""
    bar, results = comfy.utils.ProgressBar(len(images)), []
    for i, image in enumerate(images.split(1)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        results.append(do(image, i))
        bar.update(1)
    return results
