"""Which source picture guides, and where its subject has to lie: pictures and masks of ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..core.hifi.align import Similarity, align, iou
from ..core.hifi.reference import pick
from .hifi_reference import DEMO

RED, GREEN, GREY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), 0.5


# --- picking ---------------------------------------------------------------------------------------------------------


def picked(
    generated: Tensor,
    sources: Tensor,
    embedder: str,
    source_masks: Tensor | None = None,
    generated_mask: Tensor | None = None,
    other_embedder: str = "",
) -> tuple[Tensor, Tensor, int, float, str]:
    """What Pick Reference gives.

    Raises:
        ValueError: each message names the input.
        FileNotFoundError: an embedder that can't be had.
    """
    if len(generated) != 1:
        raise ValueError(f"generated: {len(generated)} pictures; connect one, as from ImageFromBatch")
    _check_mask("source_masks", source_masks, "sources", sources)
    _check_mask("generated_mask", generated_mask, "generated", generated)
    if generated_mask is not None and source_masks is None:
        raise ValueError("generated_mask: connected without source_masks; connect both to compare the subjects alone")
    alone = () if generated_mask is None else (generated_mask, source_masks)
    if alone:
        _check_shown(generated_mask=generated_mask, source_masks=source_masks)
    model = _embedder(other_embedder.strip() or embedder)
    try:
        index, similarities = pick(model, _pictures(generated), _pictures(sources), *alone)
    finally:
        del model
        comfy.model_management.soft_empty_cache()
    masks = torch.ones(sources.shape[:3]) if source_masks is None else source_masks.expand(len(sources), -1, -1)
    lines = [f"{i}: {s:.3f}{' (picked)' if i == index else ''}" for i, s in enumerate(similarities.tolist())]
    own = slice(index, index + 1)
    return sources[own], masks[own], index, float(similarities[index]), "\n".join(lines)


def _embedder(name: str) -> Any:
    """A DINO on ComfyUI's device, where room was made for it."""
    device = comfy.model_management.get_torch_device()
    comfy.model_management.free_memory(comfy.model_management.minimum_inference_memory(), device)
    if name == DEMO:
        from ..core.demo import judges

        return judges.dino(device=device)
    from ..core.vision.dino import Dino

    return Dino(name, device=device)


def _pictures(images: Tensor) -> Tensor:
    """IMAGE (B, H, W, C) to pictures (B, 3, H, W)."""
    return images[..., :3].movedim(-1, 1)


# --- aligning --------------------------------------------------------------------------------------------------------


def aligned(
    reference: Tensor,
    reference_mask: Tensor,
    target_mask: Tensor,
    target: Tensor | None = None,
    max_rotation: float = 30.0,
) -> tuple[Tensor, Tensor, Tensor, str]:
    """What Align Reference gives.

    Raises:
        ValueError: each message names the input.
    """
    _check_mask("reference_mask", reference_mask, "reference", reference)
    _check_mask("target_mask", target_mask, "target", target)
    _check_shown(reference_mask=reference_mask, target_mask=target_mask)
    size = tuple(target_mask.shape[1:])
    if target is None:
        target = torch.full((1, *size, 3), GREY)
    rows, lines = [], []
    for picture, mask, wanted, behind in _together(
        reference=reference, reference_mask=reference_mask, target_mask=target_mask, target=target
    ):
        comfy.model_management.throw_exception_if_processing_interrupted()
        found = align(mask, wanted, max_angle=max_rotation)
        moved = found.apply(mask, size)
        rows.append((found.apply(picture.movedim(-1, 1), size).movedim(1, -1), moved, overlap(wanted, moved, behind)))
        lines.append(_described(found, iou(moved, wanted)))
    if len(lines) > 1:
        lines = [f"{i}: {line}" for i, line in enumerate(lines)]
    return *(torch.cat(parts) for parts in zip(*rows)), "\n".join(lines)


def overlap(wanted: Tensor, moved: Tensor, behind: Tensor) -> Tensor:
    """Masks (1, H, W) over a picture (1, H, W, C): red, green, and yellow where both are, (1, H, W, 3)."""
    red, green = wanted[..., None], moved[..., None]
    tint = red * red.new_tensor(RED) + green * green.new_tensor(GREEN)
    return torch.lerp(behind[..., :3].to(tint), tint, 0.5 * torch.maximum(red, green))


def _described(found: Similarity, share: float) -> str:
    x, y = (round(v) for v in found.shift)
    return f"scale {found.scale:.2f}, rotated {found.angle:.1f} degrees, moved ({x}, {y}) px, IoU {share:.2f}"


# --- inputs ----------------------------------------------------------------------------------------------------------


def _check_mask(name: str, mask: Tensor | None, of: str, images: Tensor | None) -> None:
    """ValueError for a mask (B, H, W) that is not of these pictures (B, H, W, C); either may be missing."""
    if mask is None or images is None:
        return
    if mask.shape[1:] != images.shape[1:3]:
        (height, width), (h, w) = mask.shape[1:], images.shape[1:3]
        raise ValueError(f"{name}: {width} x {height} pixels, but {of} has {w} x {h}; connect the mask of that picture")
    if len(mask) not in (1, len(images)) and len(images) != 1:
        raise ValueError(f"{name}: {len(mask)} masks for {len(images)} pictures of {of}; connect one for each, or one")


def _check_shown(**masks: Tensor) -> None:
    """ValueError for a mask in a batch that shows nothing."""
    for name, batch in masks.items():
        empty = [str(i) for i, mask in enumerate(batch) if not (mask > 0.5).any()]
        if empty:
            raise ValueError(f"{name}: nothing is marked in mask {', '.join(empty)}; it must show the subject")


def _together(**batches: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Batches of one length or 1, row by row; rows keep their batch dimension."""
    count = max(map(len, batches.values()))
    for name, batch in batches.items():
        if len(batch) not in (1, count):
            raise ValueError(
                f"{name}: {len(batch)} in the batch where another input has {count}; connect as many, or 1"
            )
    for i in range(count):
        yield tuple(batch[i % len(batch)][None] for batch in batches.values())
