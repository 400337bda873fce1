"""SAM 3 by name or folder: all that a text names, found and segmented by one model (Carion et al. 2025)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pretrained import Pretrained

BATCH = 4
TOKENS = 32  # what its text encoder takes


class Sam3(Pretrained):
    """A SAM 3 of transformers, such as "facebook/sam3"; other arguments and errors are Pretrained's.

    Args:
        threshold: least score of an object, 0..1.
    """

    what = "SAM 3"
    kinds = ("sam3", "sam3_video")  # the published folder is for videos too
    model_class, processor_class = "Sam3Model", "Sam3Processor"
    needs = ("torchvision",)

    def __init__(self, name: str | Path, *, threshold: float = 0.3, **where: Any):
        super().__init__(name, **where)
        self.threshold = threshold

    @torch.no_grad()
    def segment(self, images: Tensor, text: str) -> Tensor:
        """All that the text names: see `protocols.TextSegmenter`.

        Raises:
            ValueError: not pictures, or a text that is empty or longer than 32 tokens.
        """
        if not text.strip() or len(self.processor.tokenizer(text).input_ids) > TOKENS:
            raise ValueError(f"text: {text!r} is empty or too long; name what to look for in a few words")
        parts = []
        for chunk in images.split(BATCH):
            out = self.model(**self.inputs(chunk, text=[text] * len(chunk)))
            found = self.processor.post_process_instance_segmentation(
                out, threshold=self.threshold, target_sizes=[tuple(images.shape[-2:])] * len(chunk)
            )
            parts += [_united(each["masks"], images) for each in found]
        return torch.stack(parts)


def _united(masks: Tensor, images: Tensor) -> Tensor:
    """Masks (N, H, W) of a picture's objects, N may be 0, to one (1, H, W)."""
    if not len(masks):
        return torch.zeros_like(images[0, :1], dtype=torch.float32)
    return masks.amax(0, keepdim=True).to(images.device, torch.float32)
