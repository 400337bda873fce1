"""Grounding DINO by name or folder, and with a SAM behind it Grounded-SAM: a text to boxes, boxes to masks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pretrained import Pretrained
from .protocols import BoxDetector, PromptSegmenter

BATCH = 4


class GroundingDino(Pretrained):
    """A Grounding DINO of transformers (Liu et al. 2023), such as "IDEA-Research/grounding-dino-tiny".

    Other arguments and errors are Pretrained's.

    Args:
        threshold: least score of a box, 0..1; 0.3 is Grounded-SAM's.
    """

    what = "Grounding DINO"
    kinds = ("grounding-dino",)
    model_class, processor_class = "GroundingDinoForObjectDetection", "GroundingDinoProcessor"

    def __init__(self, name: str | Path, *, threshold: float = 0.3, **where: Any):
        super().__init__(name, **where)
        self.threshold = threshold

    @torch.no_grad()
    def boxes(self, images: Tensor, text: str) -> list[Tensor]:
        """Boxes around what the text names ("a cat", or "a cat. a dog."): see `protocols.BoxDetector`.

        Raises:
            ValueError: not pictures, or a text without words.
        """
        text, found = sentence(text), []
        for chunk in images.split(BATCH):
            inputs = self.inputs(chunk, text=[text] * len(chunk))
            sizes = [tuple(images.shape[-2:])] * len(chunk)
            found += self._read(self.model(**inputs), inputs["input_ids"], target_sizes=sizes)
        return [each["boxes"].float() for each in found]

    def _read(self, out: Any, tokens: Tensor, **sizes: Any) -> list[dict[str, Tensor]]:
        read = self.processor.post_process_grounded_object_detection
        # transformers called it box_threshold before 4.51
        name = "threshold" if "threshold" in inspect.signature(read).parameters else "box_threshold"
        return read(out, tokens, **{name: self.threshold}, **sizes)


def sentence(text: str) -> str:
    """A text as Grounding DINO learned them: small letters, a full stop at the end.

    Raises:
        ValueError: no words.
    """
    words = text.strip().strip(".").strip().lower()
    if not words:
        raise ValueError("text: empty; name what to look for, as in 'a cat'")
    return f"{words}."


class GroundedSegmenter:
    """A detector's boxes segmented: with Grounding DINO and SAM this is Grounded-SAM (Ren et al. 2024)."""

    def __init__(self, detector: BoxDetector, segmenter: PromptSegmenter):
        self.detector, self.segmenter = detector, segmenter

    def segment(self, images: Tensor, text: str) -> Tensor:
        """All that the text names: see `protocols.TextSegmenter`; errors are the detector's and the segmenter's."""
        return self.segmenter.segment(images, boxes=self.detector.boxes(images, text))
