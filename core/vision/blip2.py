"""BLIP-2 by name or folder: a caption for a picture (Li et al. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pretrained import Pretrained

BATCH = 8


class Blip2(Pretrained):
    """A BLIP-2 of transformers, such as "Salesforce/blip2-opt-2.7b"; other arguments and errors are Pretrained's.

    Args:
        length: most tokens of a caption; 30 is the authors'.
    """

    what = "BLIP-2"
    kinds = ("blip-2",)
    model_class, processor_class = "Blip2ForConditionalGeneration", "Blip2Processor"

    def __init__(self, name: str | Path, *, length: int = 30, **where: Any):
        super().__init__(name, **where)
        self.length = length

    @torch.no_grad()
    def caption(self, images: Tensor) -> list[str]:
        """Captions of pictures (B, 3, H, W) in 0..1, one line each, the same each time.

        Raises:
            ValueError: not pictures.
        """
        captions = []
        for chunk in images.split(BATCH):
            tokens = self.model.generate(**self.inputs(chunk), max_new_tokens=self.length, do_sample=False)
            captions += self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(caption.split()) for caption in captions]
