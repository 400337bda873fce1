"""SAM 2 by name or folder: what lies in a box or under a point (Ravi et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import prompts
from .pretrained import Pretrained


class Sam2(Pretrained):
    """A SAM 2 or 2.1 of transformers, such as "facebook/sam2.1-hiera-small"; arguments and errors are Pretrained's."""

    what = "SAM 2"
    kinds = ("sam2", "sam2_video")  # the published folders are for videos too
    model_class, processor_class = "Sam2Model", "Sam2Processor"
    needs = ("torchvision",)

    def segment(
        self, images: Tensor, *, boxes: Sequence[Tensor] | None = None, points: Sequence[Tensor] | None = None
    ) -> Tensor:
        """What the boxes and points mean: see `protocols.PromptSegmenter`."""
        return prompts.segment(images, boxes, points, self._masks)

    @torch.no_grad()
    def _masks(self, image: Tensor, prompt: prompts.Prompt) -> Tensor:
        """Masks (N, 1, H, W), bool, of a picture (3, H, W)."""
        where = {"input_boxes": prompt.boxes, "input_points": prompt.points, "input_labels": prompt.labels}
        where = {name: [value.tolist()] for name, value in where.items() if value is not None}
        out = self.model(**self.inputs(image[None], **where), multimask_output=prompt.ambiguous)
        masks = prompts.best(out.pred_masks[0].float(), out.iou_scores[0])
        return self.processor.post_process_masks([masks], [tuple(image.shape[-2:])])[0]
