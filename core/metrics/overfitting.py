"""How far a customised model has drifted from its base: the two distances of Infusion, section 3.

The latent Fisher divergence sees what happened to prompts that have nothing to do with the new subject; the Wasserstein
distance sees how much of the superclass's diversity is left. Sums and traces run over all latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Conditioning, Denoiser, Hooks
from ..diffusion import Schedule

Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Model:
    """One side of a comparison.

    Args:
        denoiser: the network.
        hooks: a method's part in it. With several streams the foundation's rows are the first and the customised
            model's the last.
    """

    denoiser: Denoiser
    hooks: Hooks | None = None

    @property
    def streams(self) -> int:
        return self.hooks.streams if self.hooks else 1

    def epsilon(self, z: Tensor, t: Tensor, text: Conditioning) -> tuple[Tensor, ...]:
        """Every stream's predicted noise at the same z_t, each (B, C, H, W), float64, on the CPU."""
        z, t = z.repeat(self.streams, 1, 1, 1), t.repeat(self.streams)
        output = self.denoiser(z, t, text, hooks=self.hooks)[0]
        # not every device has float64
        return self.denoiser.schedule.epsilon(output.cpu().double(), z.cpu().double(), t).chunk(self.streams)


@dataclass(frozen=True)
class Captioned:
    """Encoded real pictures with their caption.

    Args:
        latents: clean, in the U-Net's scale, (B, C, H, W).
        text: the caption; one row for all pictures, or, for models of one stream, B rows.
        custom: the caption as the customised model reads it, where its text encoder or its tokens differ.
    """

    latents: Tensor
    text: Conditioning
    custom: Conditioning | None = None

    @property
    def rows(self) -> int:
        """Rows of the caption: 1 or B."""
        return max(len(c.tokens) for c in (self.text, self.custom) if c is not None)


@dataclass(frozen=True)
class Estimate:
    """A mean over n independent pictures and its standard error (NaN for one picture)."""

    mean: float
    error: float
    n: int


@torch.no_grad()
def fisher_divergence(
    base: Model,
    custom: Model,
    pictures: Sequence[Captioned],
    *,
    generator: torch.Generator,
    draws: int = 1,
    batch: int = 16,
    watch: Watch | None = None,
) -> Estimate:
    """`1/2 E_{z,t} || eps(z_t, t, c') - eps'(z_t, t, c') ||^2` (Infusion, definition 3.1 and equation 4).

    Summed over latent dimensions; t is uniform over the schedule, c' are captions without the new subject. Both models
    see the same noise. Where the customised model runs beside its foundation in one batch, and that foundation is the
    base, one call serves for both.

    Args:
        base, custom: the two models, on one noise schedule; epsilon and v-prediction may meet.
        pictures: real pictures, encoded.
        generator: of times and noise; the result doesn't depend on `batch`.
        draws: pairs of t and noise a picture.
        batch: most latents a call, before streams; a caption with B rows takes its B pictures in one call.
        watch: called after each batch with the noised latents done and their total; what it raises stops the loop.

    Raises:
        ValueError: nothing to measure, or models with different noise schedules.
    """
    if not torch.equal(base.denoiser.schedule.alphas, custom.denoiser.schedule.alphas):
        raise ValueError("the two models have different noise schedules, so their noise at one time doesn't compare")
    means = []
    for picture, noised in _rounds(base.denoiser.schedule, pictures, draws, batch, generator, watch):
        values = [_half_square(base, custom, z, t, picture) for z, t in noised]
        means.append(torch.cat(values).reshape(draws, -1).mean(0))
    return _estimate(torch.cat(means))


@torch.no_grad()
def predictions(
    model: Model,
    pictures: Sequence[Captioned],
    *,
    generator: torch.Generator,
    draws: int = 1,
    batch: int = 16,
    watch: Watch | None = None,
) -> list[Tensor]:
    """One model's half of `fisher_divergence`, where the two can't be in memory together; `divergence` is the rest.

    Generators of one seed show every model the same noise at the same times.

    Args:
        model: of several streams the last one answers.
        pictures: with the captions as this model reads them, in `text`; `custom` is not looked at.
        generator, draws, batch, watch: as in `fisher_divergence`.

    Returns:
        For each of `pictures` the predicted noise, (draws, B, C, H, W), float64, on the CPU.

    Raises:
        ValueError: nothing to measure.
    """
    found = []
    for picture, noised in _rounds(model.denoiser.schedule, pictures, draws, batch, generator, watch):
        noise = torch.cat([model.epsilon(z, t, picture.text)[-1] for z, t in noised])
        found.append(noise.unflatten(0, (draws, -1)))
    return found


def divergence(base: Sequence[Tensor], custom: Sequence[Tensor]) -> Estimate:
    """The latent Fisher divergence (Infusion, equation 4) of two models' `predictions` on one noise schedule.

    Raises:
        ValueError: predictions that were not made of the same pictures with the same draws.
    """
    if [p.shape for p in base] != [p.shape for p in custom]:
        raise ValueError("the two models' predictions differ in shape; make both from the same pictures and draws")
    return _estimate(torch.cat([((b - a).square().flatten(2).sum(2) / 2).mean(0) for a, b in zip(base, custom)]))


def _rounds(
    schedule: Schedule,
    pictures: Sequence[Captioned],
    draws: int,
    batch: int,
    generator: torch.Generator,
    watch: Watch | None,
) -> Iterator[tuple[Captioned, Iterator[tuple[Tensor, Tensor]]]]:
    """Each caption with its noised latents and their times, in batches; `watch` hears of each batch when it is done."""
    total, done = draws * sum(len(p.latents) for p in pictures), 0
    if total < 1 or batch < 1:
        raise ValueError(f"{len(pictures)} captions, draws {draws}, batch {batch}: each must be at least 1")

    def noised(picture: Captioned) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal done
        z0, device = picture.latents.repeat(draws, 1, 1, 1), generator.device
        t = torch.randint(len(schedule), (len(z0),), generator=generator, device=device)
        eps = torch.randn(z0.shape, generator=generator, device=device).to(z0)
        size = picture.rows if picture.rows > 1 else batch
        for pair in zip(schedule.noise(z0, eps, t).split(size), t.to(z0.device).split(size)):
            yield pair
            done += len(pair[0])
            if watch:
                watch(done, total)

    for picture in pictures:
        yield picture, noised(picture)


def _half_square(base: Model, custom: Model, z: Tensor, t: Tensor, picture: Captioned) -> Tensor:
    """Half the squared distance of the two models' predictions, (B,)."""
    theirs = custom.epsilon(z, t, picture.text if picture.custom is None else picture.custom)
    beside = custom.streams > 1 and custom.denoiser is base.denoiser and base.hooks is None and picture.custom is None
    # row by row inside one batch, a residual of zero is a difference of exactly zero
    ours = theirs[0] if beside else base.epsilon(z, t, picture.text)[-1]
    return (theirs[-1] - ours).square().flatten(1).sum(1) / 2


def _estimate(values: Tensor) -> Estimate:
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(float(values.mean()), error, n)


# --- Wasserstein -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """2-Wasserstein distance (the square root, not its square), and how many samples stood on each side.

    Two finite sets drawn from one and the same model are not at distance 0: compare distances of equal n only, beside
    that of the base to itself under other seeds.
    """

    w2: float
    n: tuple[int, int]


@dataclass(frozen=True)
class Distances:
    """Of a set of prompts: each by itself, and all samples as one distribution."""

    prompts: dict[str, Distance]
    pooled: Distance


@dataclass(frozen=True)
class _Gaussian:
    """mean (d,) and root (r, d), with covariance root^T root."""

    mean: Tensor
    root: Tensor
    n: int


def wasserstein2(base: Tensor, custom: Tensor) -> Distance:
    """2-Wasserstein distance between Gaussians fitted to two sets of latents (Infusion, definition 3.2).

    Args:
        base, custom: samples under one superclass prompt, (n, d) or (n, C, H, W); n may differ, and may be below d.

    Raises:
        ValueError: fewer than two samples, samples of different size, or values that are not finite.
    """
    return _between(_fit([base]), _fit([custom]))


def wasserstein2_by_prompt(samples: Mapping[str, tuple[Tensor, Tensor]]) -> Distances:
    """`wasserstein2` for each superclass prompt and over their mixture.

    In the mixture each prompt weighs the same, whatever its number of samples (a choice of ours): otherwise two models
    sampled unevenly would be apart for that alone.

    Args:
        samples: prompt -> latents of the base and of the customised model.

    Raises:
        ValueError: no prompts, or as `wasserstein2`.
    """
    if not samples:
        raise ValueError("no prompts: give at least one with samples of both models")
    each = {prompt: wasserstein2(*pair) for prompt, pair in samples.items()}
    base, custom = zip(*samples.values())
    return Distances(each, _between(_fit(base), _fit(custom)))


def _fit(groups: Sequence[Tensor]) -> _Gaussian:
    """The Gaussian of a mixture of equally weighted groups of samples; covariances are unbiased."""
    if min(map(len, groups)) < 2 or len({g.shape[1:] for g in groups}) > 1:
        raise ValueError(f"samples of shapes {[tuple(g.shape) for g in groups]}: at least two each, all of one size")
    x = torch.cat([g.detach().cpu().double().flatten(1) for g in groups])
    if not x.isfinite().all():
        raise ValueError("some of the samples are not finite; look at the model that drew them")
    w = torch.cat([x.new_full((len(g),), 1 / (len(g) * len(groups))) for g in groups])
    mean = w @ x
    root = (x - mean) * (w / (1 - w.square().sum())).sqrt()[:, None]
    # the triangular factor has the same covariance and no more rows than dimensions
    return _Gaussian(mean, torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root, len(x))


def _between(a: _Gaussian, b: _Gaussian) -> Distance:
    """`||m1-m2||^2 + tr(S1 + S2 - 2 (S1^{1/2} S2 S1^{1/2})^{1/2})`, without regularisation in any dimension.

    The last trace is the nuclear norm of `A1 A2^T`, A the roots. It is reached by the rotation U = P Q^T of their
    singular vectors, so the traces sum up to `|| A1 - U A2 ||^2`: computed so, no digits cancel.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"samples of {len(a.mean)} and {len(b.mean)} dimensions; both models' latents need one size")
    tall, wide = (a, b) if len(a.root) >= len(b.root) else (b, a)
    p, _, q = torch.linalg.svd(tall.root @ wide.root.T, full_matrices=False)
    square = (a.mean - b.mean).square().sum() + (tall.root - p @ q @ wide.root).square().sum()
    return Distance(float(square.sqrt()), (a.n, b.n))
