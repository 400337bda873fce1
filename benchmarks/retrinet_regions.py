"""What references bring to each region of a picture: `python benchmarks/retrinet_regions.py`, printed.

Held-out people's pictures are denoised from one timestep, once with two other pictures of the same person as
references and once with another person's. The share of the squared error that the right ones take away, in the face,
the clothes and the place around the figure, says what a network has learned to look up.

`--parts kept`: the same pictures, noised to a timestep and drawn on from there, read by the attribute judge: what the
autoencoder keeps (timestep 0), what the untouched model loses from there on, and what the references bring back.

`--network` names what is measured, the pack's by default.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from grid import model
from likeness.core.demo import judges
from likeness.core.denoiser import Hooks, guided
from likeness.core.diffusers import Text
from likeness.core.diffusion import sample
from likeness.core.reach import Reach
from likeness.core.retrinet import network as retrinet
from likeness.core.retrinet.control import Retrieval
from likeness.core.retrinet.reference import box_mask
from likeness.training.data.identities import Choice
from retrinet import GUIDANCE, SHIPPED, STEPS, Asked, People, agreement, references
from torch import Tensor
from torch.nn import functional as F

SIDE = 16  # of the latents
READ = ("hair_colour", "hair_style", "skin", "outfit_colour", "garment")
Cases = list[tuple[int, tuple[int, ...]]]


def cases(people: People, seed: int = 0) -> Cases:
    """Of each person the picture to denoise, which shows the face, and two others to be shown."""
    rng, found = random.Random(f"regions {seed}"), []
    for i in range(len(people.subjects)):
        faces = people.faces(i)
        target = rng.choice(faces or [0])
        face = rng.choice([n for n in faces if n != target] or [target])
        found.append(
            (target, (face, rng.choice([n for n in range(len(people.pictures[i])) if n not in (target, face)])))
        )
    return found


def regions(people: People, targets: list[int]) -> dict[str, Tensor]:
    """Weights (N, 1, 16, 16) of each region."""
    pictures = [people.pictures[i][target] for i, target in enumerate(targets)]
    nothing = torch.zeros(1, SIDE, SIDE)
    return {
        "face": torch.stack([box_mask(p.face_box, (SIDE, SIDE)) if p.face_box else nothing for p in pictures]),
        "clothes": torch.stack([F.adaptive_avg_pool2d(p.clothes, SIDE) for p in pictures]),
        "place": 1 - torch.stack([F.adaptive_max_pool2d(p.mask, SIDE) for p in pictures]),
    }


def kept(known: People, chosen: Cases, z0: Tensor, text: Text, shown: Hooks, timesteps: Sequence[int]) -> None:
    """Print the shares of people whose attributes are read right, drawn on from timesteps, without and with hooks."""
    loaded, schedule = model()[0], model()[0].denoiser.schedule
    asked = [Asked("", (), known.values(i)) for i in range(len(chosen))]
    null, noise = loaded.text(""), torch.randn(z0.shape, generator=torch.Generator().manual_seed(1))
    print(f"{'drawn on':<16}{'t':>5}" + "".join(f"{name:>15}" for name in READ))
    for name, hooks in (("untouched", None), ("with references", shown)):
        for timestep in (0, *timesteps) if hooks is None else timesteps:
            z, times = z0, [t for t in schedule.timesteps(STEPS) if t <= timestep]
            if times:
                predict = guided(loaded.denoiser, text, null, GUIDANCE, hooks)
                z = sample(schedule, predict, schedule.noise(z0, noise, times[0]), times)
            read = judges.attributes()(loaded.decode(z).clamp(0, 1))
            right = agreement(read, asked, range(len(asked)))
            print(f"{name:<16}{timestep:>5}" + "".join(f"{float(right[n].mean()):>15.0%}" for n in READ), flush=True)


@torch.no_grad()
def main(
    network: Path = SHIPPED,
    people: int = 24,
    timesteps: tuple[int, ...] = (900, 700, 500, 300, 100, 20),
    parts: tuple[str, ...] = ("error",),
) -> None:
    """Measure one network.

    Args:
        network: RetriNet file.
        people: held-out ones.
        timesteps: to denoise from.
        parts: error, kept.
    """
    known, file = People(people), retrinet.load(network).eval()
    denoiser, chosen = model()[0].denoiser, cases(known)
    targets = [target for target, _ in chosen]
    z0 = torch.stack([known.bank.target(i, target)[0] for i, target in enumerate(targets)])
    captions = [model()[0].text(known.pictures[i][target].caption) for i, target in enumerate(targets)]
    where, text = regions(known, targets), captions[0].with_rows(captions[1:])

    def shown(shift: int, kinds: tuple[str, str]) -> Retrieval:
        order = [(i + shift) % people for i in range(people)]
        asked = [Asked("", tuple((i, Choice(n, kind)) for n, kind in zip(chosen[i][1], kinds)), {}) for i in order]
        return Retrieval(file, references(known, asked), len(denoiser.schedule), Reach())

    if "kept" in parts:
        kept(known, chosen, z0, text, shown(0, ("figure", "figure")).hooks, timesteps)
    if "error" not in parts:
        return
    print(f"{'references':<16}{'t':>5}" + "".join(f"{name:>10}" for name in where))
    for name, kinds in (("figures", ("figure", "figure")), ("face, clothes", ("face", "clothes"))):
        right, wrong = shown(0, kinds), shown(people // 2, kinds)
        for timestep in timesteps:
            t, eps = torch.full((people,), timestep), torch.randn(z0.shape, generator=torch.Generator().manual_seed(1))
            z, target = denoiser.schedule.noise(z0, eps, t), denoiser.schedule.target(z0, eps, t)
            ours, theirs = ((denoiser(z, t, text, hooks=each.hooks)[0] - target) ** 2 for each in (right, wrong))
            shares = [1 - float((ours * weight).sum() / (theirs * weight).sum()) for weight in where.values()]
            print(f"{name:<16}{timestep:>5}" + "".join(f"{share:>10.1%}" for share in shares), flush=True)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
