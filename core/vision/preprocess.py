"""Pictures as a vision model wants them: resized, cropped, normalised, as its image processor would, but in torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_FILES = ("preprocessor_config.json", "processor_config.json")  # the second is how newer processors are saved


@dataclass(frozen=True)
class Preprocess:
    """How pictures become a model's input.

    Args:
        resize: an int for the shortest side, keeping proportions; (height, width) for a plain resize; None for none.
        crop: (height, width) of the crop from the centre, None for none.
        resample: "bicubic" or "bilinear", both antialiased.
        mean, std: of the three channels.
    """

    resize: int | tuple[int, int] | None = 224
    crop: tuple[int, int] | None = (224, 224)
    resample: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __call__(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to pixel values (B, 3, h, w), float32.

        `size` replaces resize and crop by a plain resize. ValueError for anything but pictures.
        """
        images = self.shown(images, size)
        mean, std = (images.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (images - mean) / std

    def shown(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The same in 0..1: what of the pictures the model looks at, (B, 3, h, w)."""
        check(images)
        images = self._resized(images.float(), size or self.resize)
        return _centre(images, self.crop) if self.crop and not size else images

    def _resized(self, images: Tensor, to: int | tuple[int, int] | None) -> Tensor:
        height, width = images.shape[-2:]
        if isinstance(to, int):
            short = min(height, width)
            to = (int(to * height / short), int(to * width / short))
        if to is None or to == (height, width):
            return images
        # rows, then columns, each clamped: bicubic overshoots at edges, and image processors do it so on 8-bit pictures
        for step in ((height, to[1]), to):
            images = torch.nn.functional.interpolate(images, step, mode=self.resample, antialias=True).clamp(0, 1)
        return images

    @classmethod
    def read(cls, name: str | Path, otherwise: Preprocess) -> Preprocess:
        """The preprocessing that comes with a model; `otherwise` where it brings none or leaves something out."""
        settings = _settings(name)
        if settings is None:
            return otherwise
        return cls(
            _resize(settings, otherwise),
            _crop(settings, otherwise),
            _RESAMPLE.get(settings.get("resample"), otherwise.resample),
            *_numbers(settings, otherwise),
        )


def check(images: Tensor) -> None:
    """ValueError for anything but pictures."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"pictures are floats (B, 3, H, W) in 0..1, not {images.dtype} {tuple(images.shape)}")


def bytes_of(images: Tensor) -> list[Tensor]:
    """Pictures (B, 3, H, W) in 0..1 as transformers' processors take them: a list of (3, H, W), 8 bits, on the CPU."""
    check(images)
    return list((images.float().clamp(0, 1) * 255).round().byte().cpu())


def _settings(name: str | Path) -> Mapping[str, Any] | None:
    from transformers.utils import cached_file

    for file in _FILES:
        path = cached_file(
            str(name),
            file,
            _raise_exceptions_for_missing_entries=False,
        )
        if path is not None:
            settings = json.loads(Path(path).read_text())
            return settings.get("image_processor", settings)
    return None


def _resize(settings: Mapping[str, Any], otherwise: Preprocess) -> int | tuple[int, int] | None:
    if not settings.get("do_resize", True):
        return None
    size = settings.get("size", otherwise.resize)
    if isinstance(size, Mapping):
        return int(size["shortest_edge"]) if "shortest_edge" in size else (int(size["height"]), int(size["width"]))
    # older files have one number; it is a square for the models whose usual resize is one (ViT), else the shortest side
    return (size, size) if isinstance(size, int) and isinstance(otherwise.resize, tuple) else size


def _crop(settings: Mapping[str, Any], otherwise: Preprocess) -> tuple[int, int] | None:
    if not settings.get("do_center_crop", otherwise.crop is not None):
        return None
    size = settings.get("crop_size", otherwise.crop)
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return (size, size) if isinstance(size, int) else size


def _numbers(settings: Mapping[str, Any], otherwise: Preprocess) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not settings.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    return tuple(settings.get("image_mean", otherwise.mean)), tuple(settings.get("image_std", otherwise.std))


def _centre(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of the pictures; what lies beyond their edges is black."""
    for dim, wanted in zip((-2, -1), size):
        lack = max(0, wanted - images.shape[dim])
        pad = (0, 0, lack // 2, lack - lack // 2) if dim == -2 else (lack // 2, lack - lack // 2)
        images = torch.nn.functional.pad(images, pad) if lack else images
        images = images.narrow(dim, (images.shape[dim] - wanted) // 2, wanted)
    return images
