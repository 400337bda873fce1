"""Where a pair's edit may change a picture, and the picture outside of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pasted(images: Tensor, masks: Tensor, changed: Tensor) -> Tensor:
    """The originals outside of masks of 0 and 1, exactly: the autoencoder changes details everywhere."""
    return torch.where(masks > 0.5, changed, images)


def edit_mask(figure: Tensor, category: str, margin: float) -> Tensor:
    """Where an edit of a category may change a picture, (1, H, W) of 0 and 1; it may be empty **[all ours]**.

    Around the subject for its background; the subject for its style, colour and texture, a little wider; for a thing
    that comes or goes, the box around the subject, three times as much wider.

    Args:
        figure: the subject, (1, H, W) of 0 and 1.
        margin: share of the longer side.
    """
    figure = (figure > 0.5).float()
    if category == "background":
        return 1 - figure
    more = round(margin * max(figure.shape[-2:]))
    if category in ("addition", "removal") and bool(figure.any()):
        ys, xs = figure[0].nonzero(as_tuple=True)
        figure = torch.zeros_like(figure)
        figure[:, int(ys.min()) : int(ys.max()) + 1, int(xs.min()) : int(xs.max()) + 1] = 1
        more *= 3
    return F.max_pool2d(figure[None], 2 * more + 1, 1, more)[0]
