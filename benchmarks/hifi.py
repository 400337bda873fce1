"""HiFi Tuner's loops on the embedded model: `python benchmarks/hifi.py`, kept in benchmarks/results/hifi.json.

* reconstruction: PSNR of unseen pictures after inversion and back, without and with null texts;
* steps: how much closer the subject's region comes to the reference with more optimisation steps, and what the rest of
  the picture does;
* windows: what guidance in the first, the middle (as the paper has it) or the last steps does to the rest of the
  picture, to likeness, and to the prompt;
* cost: network rows and seconds of guidance by a reference, against the loop as printed in the paper.
"""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from likeness.core import checkpoint, files
from likeness.core.demo import MODEL, judges, world
from likeness.core.denoiser import guided
from likeness.core.diffusion import guide, sample
from likeness.core.hifi import guidance
from likeness.core.hifi.guidance import Guidance
from likeness.core.hifi.inversion import Trajectory, invert, masked_mean, null_text
from likeness.core.metrics.similarity import masked, paired_bootstrap
from torch import Tensor
from torch.nn import functional as F

RESULTS = Path(__file__).resolve().parent / "results" / "hifi.json"
UNSEEN = 30_000_000  # first seed of pictures that no training saw
WEIGHT, STEPS = 5.0, 50


class Counting:
    """A denoiser that counts the rows it is asked for, forward and backward."""

    def __init__(self, inner: Any):
        self.inner, self.schedule, self.forward, self.backward = inner, inner.schedule, 0, 0

    def __call__(self, z: Tensor, t: Any, *conditions: Any, hooks: Any = None) -> tuple[Tensor, ...]:
        rows = len(z) * len(conditions)
        self.forward += rows
        outputs = self.inner(z, t, *conditions, hooks=hooks)
        if any(o.requires_grad for o in outputs):
            self.backward += rows
        return outputs

    @property
    def rows(self) -> int:
        return self.forward + self.backward


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Of pictures (B, 3, H, W) in 0..1, in dB, (B,)."""
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def unseen(count: int) -> tuple[Tensor, list[str]]:
    """Pictures (N, 3, 128, 128) and their captions."""
    shown = [world.sample_scene(UNSEEN + i) for i in range(count)]
    captions = [world.caption(*pair, random.Random(i)) for i, pair in enumerate(shown)]
    return torch.stack([world.draw(*pair).image for pair in shown]), captions


def batches(model: checkpoint.Checkpoint, captions: Sequence[str]) -> Any:
    """The captions as one conditioning with a row each."""
    from likeness.core.diffusers import Text

    return Text(torch.cat([model.text(caption).tokens for caption in captions]))


@torch.no_grad()
def reconstruction(model: checkpoint.Checkpoint, count: int) -> dict[str, dict[str, float]]:
    """Mean PSNR in dB, and of the latents against those of the picture, for each way back."""
    images, captions = unseen(count)
    timesteps = model.denoiser.schedule.timesteps(STEPS)
    clean, positive, null = model.encode(images), batches(model, captions), model.text("")
    path = invert(model.denoiser, positive, clean, timesteps)
    back = {"autoencoder": clean}
    for name, weight in (("guidance 1", 1.0), (f"guidance {WEIGHT:.0f}", WEIGHT)):
        predict = guided(model.denoiser, positive, null, weight)
        back[name] = sample(model.denoiser.schedule, predict, path.noise, timesteps)
    back["null texts"] = null_text(model.denoiser, positive, null, path, WEIGHT).drawn[0]
    return {
        name: {
            "psnr": float(psnr(model.decode(z), images).mean()),
            "against the autoencoder": float(psnr(model.decode(z), model.decode(clean)).clamp(max=99).mean()),
        }
        for name, z in back.items()
    }


def guided_cases(model: checkpoint.Checkpoint, count: int) -> dict[str, Any]:
    """A reference and a first noise for each of so many subjects, in one batch; references stay where they stand."""
    subjects = [world.held_out_subjects(i // len(world.KINDS) + 1, kind)[-1] for i, kind in kinds(count)]
    shots = [world.photos(subject, 1, seed=i, style="photo", view="front")[0] for i, subject in enumerate(subjects)]
    timesteps = model.denoiser.schedule.timesteps(STEPS)
    captions = [f"a photo of a {subject.word}" for subject in subjects]
    latents = model.encode(torch.stack([shot.image for shot in shots]))
    path = invert(model.denoiser, batches(model, captions), latents, timesteps)
    mask = guidance.at_latent_size(torch.stack([shot.mask for shot in shots]), latents.shape[-2:])
    z = torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))
    positive = batches(model, [f"{caption} on the beach" for caption in captions])
    return dict(
        positive=positive, negative=model.text(""), z=z, timesteps=timesteps, path=path, mask=mask, weight=WEIGHT
    )


def kinds(count: int) -> Iterator[tuple[int, str]]:
    """Kinds of the world in turn."""
    for i in range(count):
        yield i, world.KINDS[i % len(world.KINDS)]


def masked_error(case: dict[str, Any], watched: list[Tensor]) -> Tensor:
    """Mean squared error of the region to the reference's trajectory over the guided steps, (B,)."""
    first, last = Guidance().span(STEPS)
    at = [i for i in range(STEPS) if last <= STEPS - i <= first]
    path: Trajectory = case["path"]
    return torch.stack([masked_mean((watched[i] - path.at(i + 1)).square(), case["mask"]) for i in at]).mean(0)


def led(denoiser: Any, case: dict[str, Any], settings: Guidance) -> tuple[Tensor, Tensor]:
    """Final latents and masked errors."""
    watched: list[Tensor] = []
    z = guidance.reference_guided(denoiser, **case, guidance=settings, watch=lambda i, t, z: watched.append(z))
    return z, masked_error(case, watched)


def steps(model: checkpoint.Checkpoint, count: int) -> dict[str, Any]:
    """For each J, and for the fast mode: the masked error, its paired difference to J = 0, and how far the rest of the
    picture is from the plain one."""
    case = guided_cases(model, count)
    with torch.no_grad():
        predict = guided(model.denoiser, case["positive"], case["negative"], WEIGHT)
        plain = sample(model.denoiser.schedule, predict, case["z"], case["timesteps"])
    outside, found, base = 1 - case["mask"], {}, None
    for name, settings in {
        **{f"J = {j}": Guidance(steps=j) for j in (0, 1, 5, 10, 20)},
        **{f"fast {share}": Guidance(fast=share) for share in (0.1, 0.2, 0.5)},
    }.items():
        z, error = led(model.denoiser, case, settings)
        base = error if base is None else base
        found[name] = {
            "masked error": float(error.mean()),
            "against J = 0": _paired(error - base),
            "rest, squared distance to the plain picture": float(
                masked_mean((z - plain).square(), outside).mean() / masked_mean(plain.square(), outside).mean()
            ),
        }
    return found


WINDOWS = {"first": (50, 20), "middle": (40, 10), "last": (30, 1)}  # of 50 steps, counted down


def windows(model: checkpoint.Checkpoint, count: int) -> dict[str, Any]:
    """Three spans of about as many guided steps, with paired differences to the paper's, the middle one."""
    case = guided_cases(model, count)
    asked = [f"a photo of a {kind} on the beach" for _, kind in kinds(count)]
    photos, seen = model.decode(case["path"].at(STEPS)), case["mask"]
    photos = masked(photos, F.interpolate(seen, photos.shape[-2:]))
    with torch.no_grad():
        predict = guided(model.denoiser, case["positive"], case["negative"], WEIGHT)
        plain = sample(model.denoiser.schedule, predict, case["z"], case["timesteps"])
    found: dict[str, dict[str, Tensor]] = {}
    for name, (start, end) in WINDOWS.items():
        z, _ = led(model.denoiser, case, Guidance(start, end))
        found[name] = {"rest, squared distance to the plain picture": masked_mean((z - plain).square(), 1 - seen)}
        found[name] |= _judged(model.decode(z), photos, asked)
        print(name, {key: round(float(value.mean()), 4) for key, value in found[name].items()}, flush=True)
    return {
        name: {key: {"mean": float(value.mean()), "against middle": _paired(value - found["middle"][key])}
               for key, value in own.items()}
        for name, own in found.items()
    }  # fmt: skip


@torch.no_grad()
def _judged(images: Tensor, photos: Tensor, asked: Sequence[str]) -> dict[str, Tensor]:
    """Likeness of the subjects that are found in pictures, and faith to the prompts, (B,)."""
    dino, clip, subjects = judges.dino(), judges.clip(), judges.segments()(images)
    alone = masked(images, subjects.clamp_min(1e-3))
    return {
        "Seg-DINO": F.cosine_similarity(dino.images(alone), dino.images(photos)),
        "CLIP-T": F.cosine_similarity(clip.images(images), clip.texts(asked)),
    }


def _paired(change: Tensor) -> list[float]:
    found = paired_bootstrap({str(i): [float(e)] for i, e in enumerate(change)})
    return [found.mean, found.low, found.high]


def naive(denoiser: Any, case: dict[str, Any], settings: Guidance) -> Tensor:
    """Algorithm 2 as printed: both rows in every inner step."""
    z, timesteps, path, weight = case["z"], case["timesteps"], case["path"], case["weight"]
    first, last = settings.span(len(timesteps))
    inside, null = case["mask"].bool().expand_as(z), case["negative"]
    phi_h = null.tokens.expand(len(z), -1, -1)
    for i, (t, s) in enumerate(zip(timesteps, [*timesteps[1:], -1])):
        number = len(timesteps) - i
        z = torch.where(inside, path.at(i), z) if number == first else z

        def f(phi: Tensor, z: Tensor = z, t: int = t, s: int = s) -> Tensor:
            uncond, cond = denoiser(z, t, null.with_tokens(phi).unconditional(), case["positive"])
            return denoiser.schedule.step(guide(cond, uncond, weight), z, t, s)

        with torch.no_grad():
            after = f(null.tokens)
        if last <= number <= first:
            phi_h = phi_h.detach().clone().requires_grad_(True)
            optimiser = torch.optim.Adam([phi_h], lr=settings.lr)
            for _ in range(settings.steps):
                optimiser.zero_grad()
                masked_mean((f(phi_h) - path.at(i + 1)).square(), case["mask"]).sum().backward()
                optimiser.step()
            with torch.no_grad():
                after = torch.where(inside, f(phi_h), after)
        z = after
    return z


def cost(model: checkpoint.Checkpoint, count: int) -> dict[str, Any]:
    """Rows, seconds and masked error: the printed loop of J = 10, ours, with early stop, the fast mode."""
    case, found, results = guided_cases(model, count), {}, {}
    for name, settings in WAYS.items():
        counting = Counting(model.denoiser)
        started = time.perf_counter()
        z, error = (naive(counting, case, Guidance()), None) if settings is None else led(counting, case, settings)
        seconds = time.perf_counter() - started
        results[name] = z
        found[name] = {"rows": counting.rows, "forward": counting.forward, "seconds": seconds}
        if error is not None:
            found[name]["masked error"] = float(error.mean())
        print(f"{name}: {found[name]}", flush=True)
    scale = results["as printed"].abs().max()
    found["difference"] = float((results["ours"] - results["as printed"]).abs().max() / scale)
    return found


WAYS = {
    "as printed": None,
    "ours": Guidance(),
    "early stop": Guidance(stop=0.3),
    "early stop, 7 steps of twice the rate": Guidance(steps=7, lr=0.02, stop=0.3),
    "fast": Guidance(fast=0.2),
}
PARTS = {"reconstruction": reconstruction, "steps": steps, "windows": windows, "cost": cost}


def main(parts: tuple[str, ...] = tuple(PARTS), pictures: int = 20) -> None:
    """Measure, print, and keep the numbers.

    Args:
        parts: which of reconstruction, steps, windows, cost; the others' results stay in the file.
        pictures: how many, of each.
    """
    model = checkpoint.load(MODEL)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in parts:
        found[name] = {
            "pictures": pictures,
            "base": files.fingerprint(model.denoiser.unet.half().state_dict()),
            "torch": torch.__version__,
            "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        }
        model.denoiser.unet.float()
        found[name]["results"] = PARTS[name](model, pictures)
        print(json.dumps({name: found[name]}, indent=2), flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
