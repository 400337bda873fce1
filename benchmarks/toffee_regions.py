"""What a photo brings to each region of a picture in ToffeeNet: `python benchmarks/toffee_regions.py`, printed.

Pictures of held-out subjects are denoised from one timestep, once with the subject's tokens and once with those of
another one of its kind. The share of the squared error that the right ones take away, where the subject is and around
it, says what a network has learned to read. The tokens are of another photo of the subject, and of the very picture
that is denoised, as training sees it with the reconstruction probability p (Toffee, Table 3).

`--networks` names what is measured, the pack's by default.
"""

from __future__ import annotations

from pathlib import Path

import torch
from grid import KINDS, model
from likeness.core.controlnet import load as load_controlnet
from likeness.core.demo import world
from likeness.core.metrics.similarity import masked
from likeness.core.toffee import adapter as adapters
from likeness.core.toffee.adapter import Injection
from likeness.core.toffee.drawing import prepared
from likeness.training.data.pairs.models import shipped
from toffee_quality import DEPTH, SIZE, dino
from torch import Tensor
from torch.nn import functional as F

SIDE = SIZE // 8


def pictures(each: int) -> tuple[list[world.Picture], list[world.Picture]]:
    """Of so many held-out subjects of each kind a photo to be shown, and another picture to denoise."""
    subjects = [s for kind in KINDS for s in world.held_out_subjects(each, kind)]
    both = [world.photos(s, 2, seed=i, style="photo", accessory=None) for i, s in enumerate(subjects)]
    return [shown for shown, _ in both], [target for _, target in both]


def errors(network: Path, tokens: Tensor, targets: list[world.Picture], timestep: int) -> Tensor:
    """Squared errors (N, 4, h, w) of a ToffeeNet that sees tokens (N, 1 + K, D), under a constant depth."""
    loaded = model()[0]
    images, schedule = torch.stack([p.image for p in targets]), loaded.denoiser.schedule
    denoiser, carried = prepared(loaded, images, None, load_controlnet(DEPTH, loaded.denoiser.unet))
    texts, z0 = [loaded.text(p.caption) for p in targets], loaded.encode(images)
    t, eps = torch.full((len(z0),), timestep), torch.randn(z0.shape, generator=torch.Generator().manual_seed(1))
    hooks = Injection(adapters.load(network).eval(), tokens, len(schedule)).hooks
    answer = denoiser(schedule.noise(z0, eps, t), t, carried(texts[0].with_rows(texts[1:])), hooks=hooks)[0]
    return (answer - schedule.target(z0, eps, t)).square()


@torch.no_grad()
def main(
    networks: tuple[Path, ...] = (shipped("toffeenet"),),
    each: int = 4,
    timesteps: tuple[int, ...] = (900, 700, 500, 300),
    alone: bool = False,
) -> None:
    """Measure some networks.

    Args:
        networks: ToffeeNet files.
        each: held-out subjects of each kind, at least two.
        timesteps: to denoise from.
        alone: photos show the subject alone, on white.
    """
    photos, targets = pictures(each)
    inside = torch.stack([F.adaptive_avg_pool2d(p.mask, SIDE) for p in targets])
    outside = 1 - torch.stack([F.adaptive_max_pool2d(p.mask, SIDE) for p in targets])
    another = torch.arange(len(photos)).reshape(-1, each).roll(1, 1).flatten()  # of the same kind
    for network in networks:
        print(f"{network.name}\n{'tokens of':<16}{'t':>5}{'subject':>10}{'around':>10}{'error':>10}")
        for name, own in (("another photo", photos), ("the picture", targets)):
            images, masks = (torch.stack(each) for each in zip(*[(p.image, p.mask) for p in own]))
            tokens = dino().tokens(masked(images, masks) if alone else images)
            for timestep in timesteps:
                right, wrong = (errors(network, shown, targets, timestep) for shown in (tokens, tokens[another]))
                shares = [1 - float((right * w).sum() / (wrong * w).sum()) for w in (inside, outside)]
                error = float((right * inside).sum() / inside.sum() / right.shape[1])
                print(
                    f"{name:<16}{timestep:>5}" + "".join(f"{share:>10.1%}" for share in shares) + f"{error:>10.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
