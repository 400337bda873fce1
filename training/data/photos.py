"""Photos of a subject, of any sizes, made ready for a model: cropped, padded, or sorted into shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core import files

FITS = ("crop", "pad", "buckets")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Group:
    """Photos of one shape.

    Args:
        data: pictures (N, 3, H, W) in 0..1, or their latents (N, C, h, w).
        weight: (N, 1, h, w) in 0..1 at the size of `data`, what the loss shall look at; None is all of it.
    """

    data: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data)


def read_folder(folder: Path, under: str = "white") -> list[tuple[str, Tensor]]:
    """Name and picture (3, H, W) in 0..1 of every image file in a folder, in the order of names.

    Args:
        under: see `decode`.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
        ValueError: a file that is no readable picture.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"images: no folder {folder}")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"images: no picture in {folder}; it takes {', '.join(sorted(SUFFIXES))}")
    found = []
    for path in files:
        try:
            found.append((path.name, decode(path.read_bytes(), under)))
        except ValueError as e:
            raise ValueError(f"images: {path.name} can't be read ({e}); remove or replace it") from e
    return found


def decode(data: bytes, under: str = "white") -> Tensor:
    """The picture in an image file's bytes, upright, (3, H, W) in 0..1.

    Args:
        under: colour of what is transparent; black for masks.

    Raises:
        ValueError: no picture, or one of more than 8 bits a channel, which would lose its shades.
    """
    import io

    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are of the kind {image.mode}; save it with 8 bits a channel")
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, under), upright)
            upright = upright.convert("RGB")
    except UnidentifiedImageError as e:
        raise ValueError("it is no picture of a known format") from e
    except (OSError, SyntaxError, Image.DecompressionBombError) as e:  # a broken PNG is a SyntaxError to Pillow
        raise ValueError(str(e)) from e
    pixels = torch.frombuffer(bytearray(upright.tobytes()), dtype=torch.uint8)
    return pixels.reshape(upright.height, upright.width, 3).permute(2, 0, 1) / 255


def png(picture: Tensor) -> bytes:
    """A picture (3, H, W) or a mask (1, H, W) in 0..1 as a PNG file's bytes."""
    import io

    from PIL import Image

    height, width = picture.shape[-2:]
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().contiguous()
    sink = io.BytesIO()
    Image.frombytes("RGB" if len(picture) == 3 else "L", (width, height), pixels.numpy().tobytes()).save(sink, "PNG")
    return sink.getvalue()


def read_masks(folder: Path, names: Sequence[str]) -> list[Tensor]:
    """The mask (1, H, W) of each named picture: a file of the same stem, white where the subject is.

    Raises:
        FileNotFoundError: no such folder, or a picture without a mask.
    """
    found = {Path(name).stem: picture.mean(0, keepdim=True) for name, picture in read_folder(folder, "black")}
    missing = [name for name in names if Path(name).stem not in found]
    if missing:
        raise FileNotFoundError(f"masks: {folder} has none for {', '.join(missing)}; one file a picture, same name")
    return [found[Path(name).stem] for name in names]


def prepare(
    pictures: Sequence[Tensor], size: int, fit: str = "crop", masks: Sequence[Tensor] | None = None
) -> list[Group]:
    """Photos of any sizes as groups of one shape each.

    Args:
        pictures: each (3, H, W) in 0..1.
        size: width and height of a square picture in pixels, or the side of a square of a bucket's area.
        fit: "crop" the middle square; "pad" to a square, which the loss then leaves out; "buckets" keep the
            photo's proportions to the next shape of about that area.
        masks: (1, H, W) of each picture, in 0..1; where the loss shall look.

    Raises:
        ValueError: no picture, an unknown fit, a size that is not a multiple of 32, masks that don't fit.
    """
    if not len(pictures):
        raise ValueError("images: there is no picture to learn from; give at least one, better three to ten")
    if fit not in FITS:
        raise ValueError(f"fit is {fit!r}; choose one of {', '.join(FITS)}")
    if size < 32 or size % 32:
        raise ValueError(f"size is {size}; it must be a multiple of 32")
    if masks is not None and len(masks) != len(pictures):
        raise ValueError(f"mask: {len(masks)} for {len(pictures)} pictures; give one each, or none")
    shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor | None]]] = {}
    for i, picture in enumerate(pictures):
        mask = None if masks is None else _checked(masks[i], picture, i)
        fitted = _FIT[fit](picture, mask, size)
        if mask is not None and not bool((fitted[1] > 0).any()):
            raise ValueError(f"mask: number {i + 1} lies outside of the middle square; set fit to pad or buckets")
        shapes.setdefault(tuple(fitted[0].shape[-2:]), []).append(fitted)
    return [_stack(items) for items in shapes.values()]


def _stack(items: list[tuple[Tensor, Tensor | None]]) -> Group:
    weights = [weight for _, weight in items]
    return Group(torch.stack([p for p, _ in items]), None if weights[0] is None else torch.stack(weights))


def _checked(mask: Tensor, picture: Tensor, i: int) -> Tensor:
    if mask.shape[-2:] != picture.shape[-2:]:
        sizes = [f"{x.shape[-1]}x{x.shape[-2]}" for x in (mask, picture)]
        raise ValueError(f"mask: number {i + 1} has {sizes[0]} pixels, its picture {sizes[1]}; they must be alike")
    if not bool((mask > 0).any()):
        raise ValueError(f"mask: number {i + 1} is empty; leave the masks out to learn from whole pictures")
    return mask


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) to (C, height, width), smoothed when it gets smaller."""
    if picture.shape[-2:] == (height, width):
        return picture
    return F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)


def _crop_to(picture: Tensor, mask: Tensor | None, height: int, width: int) -> tuple[Tensor, Tensor | None]:
    """Fill a shape: scaled until it covers it, the middle cut out."""
    h, w = picture.shape[-2:]
    scale = max(height / h, width / w)
    h, w = max(height, round(h * scale)), max(width, round(w * scale))
    y, x = (h - height) // 2, (w - width) // 2

    def fit(p: Tensor) -> Tensor:
        return resize(p, h, w)[:, y : y + height, x : x + width]

    return fit(picture), None if mask is None else fit(mask)


def middle(picture: Tensor, size: int) -> Tensor:
    """The middle square of a picture (3, H, W), (3, size, size)."""
    return _crop_to(picture, None, size, size)[0]


def _crop(picture: Tensor, mask: Tensor | None, size: int) -> tuple[Tensor, Tensor | None]:
    return _crop_to(picture, mask, size, size)


def _buckets(picture: Tensor, mask: Tensor | None, size: int) -> tuple[Tensor, Tensor | None]:
    step = 64 if size >= 256 else 32
    ratio = math.sqrt(picture.shape[-1] / picture.shape[-2])
    width, height = (max(step, round(size * r / step) * step) for r in (ratio, 1 / ratio))
    return _crop_to(picture, mask, height, width)


def pad(picture: Tensor, mask: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """In the middle of a square, (C, size, size), and where to look in it, (1, size, size): the mask or the picture."""
    h, w = picture.shape[-2:]
    scale = size / max(h, w)
    h, w = max(1, round(h * scale)), max(1, round(w * scale))
    y, x = (size - h) // 2, (size - w) // 2
    border = (x, size - w - x, y, size - h - y)
    seen = torch.ones(1, h, w) if mask is None else resize(mask, h, w)
    padded = F.pad(resize(picture, h, w)[None], border, mode="replicate")[0]
    return padded, F.pad(seen, border)


_FIT: dict[str, Callable[[Tensor, Tensor | None, int], tuple[Tensor, Tensor | None]]] = {
    "crop": _crop,
    "pad": pad,
    "buckets": _buckets,
}


def from_folders(images: Path, masks: Path | None, size: int, fit: str) -> list[Group]:
    """The photos of a folder, with masks of the same names from another; errors as `read_folder` and `prepare`."""
    named = read_folder(images)
    found = read_masks(masks, [name for name, _ in named]) if masks else None
    return prepare([picture for _, picture in named], size, fit, found)


def fingerprint(groups: Sequence[Group], prompt: Tensor) -> str:
    """Of everything that a training learns from."""
    tensors = {f"{i}": g.data for i, g in enumerate(groups)}
    tensors |= {f"{i} weight": g.weight for i, g in enumerate(groups) if g.weight is not None}
    return files.fingerprint({**tensors, "prompt": prompt})


def some(groups: Sequence[Group], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Random photos of one shape, (count, C, h, w), each as likely as any other, and their weights."""
    sizes = torch.tensor([float(len(g)) for g in groups])
    group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
    chosen = torch.randint(len(group), (count,), generator=generator)
    return group.data[chosen], None if group.weight is None else group.weight[chosen]


def weighted_mean(wrong: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of (B, C, h, w) where the weights (B, 1, h, w) look."""
    if weight is None:
        return wrong.mean()
    weight = weight.to(wrong.device)
    return (wrong * weight).sum() / (weight.sum() * wrong.shape[1])


def encode(groups: Sequence[Group], encoder: Callable[[Tensor], Tensor]) -> list[Group]:
    """The same groups as latents, with their weights at latent size.

    Args:
        encoder: pictures (1, 3, H, W) in 0..1 to latents (1, C, h, w).
    """
    found = []
    for group in groups:
        latents = torch.cat([encoder(picture[None]).cpu() for picture in group.data])
        weight = None if group.weight is None else F.adaptive_avg_pool2d(group.weight, latents.shape[-2:])
        found.append(Group(latents, weight))
    return found
