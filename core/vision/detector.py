"""Object detectors of fixed labels by name or folder: YOLOS, DETR and their kin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pretrained import Pretrained

BATCH = 4


class Detector(Pretrained):
    """An object detector of transformers with labels of its own, a face detector for one.

    Other arguments and errors are Pretrained's.

    Args:
        threshold: least score of a box, 0..1.
    """

    what = "object detector"
    kinds = ("yolos", "detr", "conditional_detr", "deformable_detr", "rt_detr", "rt_detr_v2", "d_fine")
    model_class, processor_class = "AutoModelForObjectDetection", "AutoImageProcessor"

    def __init__(self, name: str | Path, *, threshold: float = 0.5, **where: Any):
        super().__init__(name, **where)
        self.threshold = threshold

    @torch.no_grad()
    def boxes(self, images: Tensor, text: str) -> list[Tensor]:
        """Boxes with the label that `text` is, the surest first: see `protocols.BoxDetector`.

        Raises:
            ValueError: not pictures, or a label that the detector doesn't have.
        """
        labels = {label.lower(): int(i) for i, label in self.model.config.id2label.items()}
        wanted = labels.get(text.strip().lower())
        if wanted is None:
            raise ValueError(f"{self.name} finds {', '.join(sorted(labels))}, but no {text.strip()!r}")
        found = []
        for chunk in images.split(BATCH):
            out = self.model(**self.inputs(chunk))
            sizes = [tuple(images.shape[-2:])] * len(chunk)
            found += self.processor.post_process_object_detection(out, threshold=self.threshold, target_sizes=sizes)
        return [self._chosen(each, wanted) for each in found]

    @staticmethod
    def _chosen(found: dict[str, Tensor], label: int) -> Tensor:
        order = found["scores"].argsort(descending=True, stable=True)
        return found["boxes"][order][found["labels"][order] == label].float()
