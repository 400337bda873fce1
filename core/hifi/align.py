"""Where a reference's subject has to go: the similarity transform that lays its mask on another (HiFi Tuner, Eq. 8).

The paper's Eq. 9 compares masks by L1 and its Algorithm 4 descends on a one-way nearest-point distance, which a single
point minimises. Here the distance counts both ways, and every start comes from the masks' moments **[ours]**.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

POINTS = 500  # of a mask that look for their nearest neighbour in the other
EDGE = 4096  # most points of an outline, enough for every pixel of it in a picture of 1024 x 1024
ISOTROPIC = 1.5  # principal axes closer than this ratio say little about the angle
ROUGH = 125, 500  # points and outline pixels while all starts descend; the best KEPT of them go on with all
KEPT = 3
TURN = 0.002  # root of the distance, in radii, that a radian of rotation must gain
STEPS, RATES = 40, (0.05, 0.01)  # Adam's, rough and fine, in radians, logarithms of scale, and radii of the target


@dataclass(frozen=True)
class Similarity:
    """Scale x rotation x translation, the translation first: p -> scale R(angle) (p + shift) (HiFi Tuner, Eq. 8).

    Points are (x, y) in pixels from the middle of their picture, y down: of the reference before, of the target after.

    Args:
        scale: target pixels a reference pixel, positive.
        angle: degrees, clockwise as seen.
        shift: (x, y) in reference pixels.

    Raises:
        ValueError: a scale that is not positive.
    """

    scale: float = 1.0
    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self):
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is {self.scale}; it must be positive")

    def __call__(self, points: Tensor) -> Tensor:
        """Floating-point reference points (..., 2) in the target."""
        return self.scale * (points + points.new_tensor(self.shift)) @ _rotation(points, self.angle).T

    def inverse(self) -> Similarity:
        """The transform back, target to reference."""
        back = -self(torch.zeros(2, dtype=torch.float64))
        return Similarity(1 / self.scale, -self.angle, (float(back[0]), float(back[1])))

    def apply(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """The reference as it lies in the target.

        What lies beyond the reference's border repeats it in pictures **[ours]**, and is 0 in masks.

        Args:
            images: pictures (B, C, H, W), resampled bicubically, or masks (B, H, W), bilinearly; in 0..1.
            size: (height, width) of the target.

        Returns:
            (B, C, *size) or (B, *size) in 0..1.

        Raises:
            ValueError: any other shape.
        """
        if images.ndim not in (3, 4):
            raise ValueError(f"pictures are (B, C, H, W) and masks (B, H, W), not {tuple(images.shape)}")
        masks = images.ndim == 3
        height, width = images.shape[-2:]
        points = self.inverse()(_centres(size, images.device))
        points = points / points.new_tensor([width / 2, height / 2])
        pixels = (images[:, None] if masks else images).float()
        if self.scale < 1:  # sampling alone would skip pixels
            small = [max(1, math.ceil(self.scale * side)) for side in (height, width)]
            pixels = F.interpolate(pixels, small, mode="bilinear", antialias=True)
        pixels = F.grid_sample(
            pixels,
            points.expand(len(images), -1, -1, -1),
            mode="bilinear" if masks else "bicubic",
            padding_mode="zeros" if masks else "border",
            align_corners=False,
        )
        pixels = pixels.clamp(0, 1).to(images.dtype)
        return pixels[:, 0] if masks else pixels


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two masks of one shape, beyond 0.5; 0 where both are empty."""
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


@torch.inference_mode(False)
@torch.enable_grad()
def align(reference_mask: Tensor, target_mask: Tensor, *, max_angle: float = 180.0) -> Similarity:
    """The similarity that lays one mask best on another.

    It minimises the symmetric Chamfer distance: the mean squared distance, in target pixels, of the moved reference's
    points to the target's nearest and of the target's points to the moved reference's nearest **[ours]**. Starts have
    the masks' centroids and spreads in common and principal axes in both directions; where a mask is about as long
    as wide, angles all around are tried too **[ours]**. Of ends about equally good the least rotated wins **[ours]**.

    Args:
        reference_mask, target_mask: (1, H, W) or (H, W) in 0..1, the subject beyond 0.5; each of its own size.
        max_angle: most degrees of rotation either way, 0..180, so that no subject ends upside down **[ours]**.

    Returns:
        From pixels of the reference to pixels of the target: of a reference twice the target's size the scale is 0.5
        where both subjects fill the same part of their picture. The same masks always give the same transform.

    Raises:
        ValueError: a mask of another shape or without a subject, or a `max_angle` out of range.
    """
    if not 0 <= max_angle <= 180:
        raise ValueError(f"max_angle is {max_angle}; it must be within 0..180 degrees")
    reference, target = _Shape.of(reference_mask, "reference"), _Shape.of(target_mask, "target")
    most = math.radians(max_angle)
    rough = _descend(_starts(reference, target, most), reference.thinned(), target.thinned(), most, RATES[0])
    found = _descend(rough[:KEPT], reference, target, most, RATES[1])[0]
    return _similarity(found, reference, target)


# --- a mask as points ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shape:
    """A mask (H, W) with its outline (E, 2) and a sample (N, 2) of its pixels' centres; moments are of all pixels.

    Args:
        radius: of a disc as spread out.
        axis: direction of its longer axis in radians.
        elongation: standard deviation along that axis over the one across.
    """

    mask: Tensor
    outline: Tensor
    sample: Tensor
    centroid: Tensor
    radius: float
    axis: float
    elongation: float

    @classmethod
    def of(cls, mask: Tensor, name: str) -> _Shape:
        if mask.ndim not in (2, 3) or (mask.ndim == 3 and len(mask) != 1):
            raise ValueError(f"{name} mask has shape {tuple(mask.shape)}; give one mask, (H, W) or (1, H, W)")
        mask = mask.detach().reshape(mask.shape[-2:]).cpu() > 0.5
        if not mask.any():
            raise ValueError(f"{name} mask is empty; it must show the subject, with values beyond 0.5")
        centres = _centres(mask.shape, mask.device)
        points = centres[mask]
        centroid = points.mean(0)
        # a pixel's own extent keeps lines and single pixels from being nothing
        pixel = torch.eye(2, dtype=torch.float64) / 12
        (xx, xy), (_, yy) = (torch.cov((points - centroid).double().T, correction=0) + pixel).tolist()
        middle, spread = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
        return cls(
            mask=mask,
            outline=_some(centres[mask & ~_eroded(mask)], EDGE),
            sample=_some(points, POINTS),
            centroid=centroid,
            radius=2 * math.sqrt(middle),
            axis=math.atan2(2 * xy, xx - yy) / 2,
            elongation=math.sqrt((middle + spread) / (middle - spread)),
        )

    def thinned(self) -> _Shape:
        """The same with fewer points: both were shuffled."""
        return replace(self, sample=self.sample[: ROUGH[0]], outline=self.outline[: ROUGH[1]])

    def distances(self, points: Tensor) -> Tensor:
        """Squared distances (S, N) of points (S, N, 2) to the nearest pixel; 0 within the mask."""
        with torch.no_grad():
            height, width = self.mask.shape
            x, y = (points + points.new_tensor([width / 2, height / 2])).floor().long().unbind(-1)
            on_picture = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            outside = ~(on_picture & self.mask[y.clamp(0, height - 1), x.clamp(0, width - 1)])
            nearest = self.outline[torch.cdist(points[outside], self.outline).argmin(-1)]
        squares = (points[outside] - nearest).square().sum(-1)
        return torch.zeros(points.shape[:-1]).masked_scatter(outside, squares)


def _centres(size: tuple[int, int], device: torch.device) -> Tensor:
    """(x, y) of every pixel's centre, from the picture's middle, (H, W, 2)."""
    y, x = (torch.arange(side, device=device) + (1 - side) / 2 for side in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _eroded(mask: Tensor) -> Tensor:
    """Pixels whose four neighbours are all of the mask; what lies beyond the picture is not."""
    m = F.pad(mask, (1, 1, 1, 1))
    return m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:]


def _some(points: Tensor, count: int) -> Tensor:
    """At most so many of them, always the same; regular strides could follow the mask's own rows and columns."""
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count]]


# --- descent ---------------------------------------------------------------------------------------------------------
# parameters (S, 4) of S transforms at once: log scale, angle, and how far the centroids part, in radii of the target


def _starts(reference: _Shape, target: _Shape, most: float) -> Tensor:
    """Equal spreads and centroids; no rotation, the two that the axes give, and where these say little all around."""
    between = target.axis - reference.axis
    angles = [0.0, between, between + math.pi]
    if min(reference.elongation, target.elongation) < ISOTROPIC:
        angles += [between + k * math.pi / 6 for k in range(12) if k % 6]
    angles = [max(-most, min(most, math.remainder(angle, math.tau))) for angle in angles]
    starts = torch.zeros(len(set(angles)), 4)
    starts[:, 0] = math.log(target.radius / reference.radius)
    starts[:, 1] = torch.tensor(list(dict.fromkeys(angles)))
    return starts


def _descend(starts: Tensor, reference: _Shape, target: _Shape, most: float, rate: float) -> Tensor:
    """The best that each start came by, itself included, (S, 4), the best first; little rotation is a merit."""
    moving, best = starts.clone().requires_grad_(), starts.clone()
    least = torch.full((len(starts),), math.inf)
    adam = torch.optim.Adam([moving], lr=rate)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / STEPS)) / 2
        distances = _chamfer(moving, reference, target)
        better = distances.detach() < least
        best[better], least[better] = moving.detach()[better], distances.detach()[better]
        adam.zero_grad()
        (distances / target.radius**2).sum().backward()
        adam.step()
        with torch.no_grad():
            moving[:, 1] = moving[:, 1].clamp(-most, most) if most < math.pi else moving[:, 1]
    turned = torch.remainder(best[:, 1] + math.pi, math.tau) - math.pi
    return best[(least.sqrt() / target.radius + TURN * turned.abs()).argsort()]


def _chamfer(parameters: Tensor, reference: _Shape, target: _Shape) -> Tensor:
    """Symmetric Chamfer distances in square target pixels, (S,)."""
    scale, angle = parameters[:, 0].exp()[:, None, None], parameters[:, 1]
    apart = (target.centroid + target.radius * parameters[:, 2:])[:, None]
    turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2))
    there = scale * (reference.sample - reference.centroid) @ turn + apart
    back = (target.sample - apart) @ turn.mT / scale + reference.centroid
    return target.distances(there).mean(1) + (scale[:, 0].square() * reference.distances(back)).mean(1)


def _similarity(parameters: Tensor, reference: _Shape, target: _Shape) -> Similarity:
    """As Eq. 8 has it."""
    scale, angle = float(parameters[0].exp()), math.remainder(float(parameters[1]), math.tau)
    apart = (target.centroid + target.radius * parameters[2:]).double()
    shift = apart @ _rotation(apart, math.degrees(angle)) / scale - reference.centroid
    return Similarity(scale, math.degrees(angle), (float(shift[0]), float(shift[1])))


def _rotation(like: Tensor, degrees: float) -> Tensor:
    """(2, 2), in the type of `like`."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return like.new_tensor([[cos, -sin], [sin, cos]])
