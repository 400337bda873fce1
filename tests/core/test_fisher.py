"""The latent Fisher divergence against closed forms of linear models, and in a network."""

import math
from dataclasses import dataclass, replace

import pytest
import scipy.stats
import torch
from likeness.core.denoiser import Denoiser, Hooks
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from likeness.core.metrics.overfitting import Captioned, Model, divergence, fisher_divergence, predictions
from networks import random_prompt, random_unet

SCHEDULE = Schedule.scaled_linear()
VELOCITY = Schedule(SCHEDULE.alphas, "v_prediction")
SHAPE = (2, 3, 5)
SIZE = math.prod(SHAPE)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Linear:
    """Predicts `scale z + shift + ramp t / T` and the mean of the caption; keeps what it was asked."""

    sites = skips = ()

    def __init__(self, scale=0.5, shift=0.0, ramp=0.0, schedule=SCHEDULE):
        self.scale, self.shift, self.ramp, self.schedule, self.asked = scale, shift, ramp, schedule, []

    def raw(self, z, t, text):
        return self.scale * z + self.shift + self.ramp * t.reshape(-1, 1, 1, 1) / 1000 + text.tokens.mean((1, 2))[0]

    def __call__(self, z, t, *conditions, hooks=None):
        self.asked.append((z, t))
        outputs = [self.raw(z, t, c) for c in conditions]
        if hooks is not None:
            stream = torch.arange(len(z)) // (len(z) // hooks.streams)
            last = (stream == hooks.streams - 1).reshape(-1, 1, 1, 1)
            outputs = [o + last * hooks.attention for o in outputs]
        return tuple(outputs)


class Velocity(Linear):
    """The velocity that means the same noise as `Linear`'s answer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs, schedule=VELOCITY)

    def raw(self, z, t, text):
        signal, noise = VELOCITY._roots(t, z)
        return (super().raw(z, t, text) - noise * z) / signal


def pictures(count=6, batch=3, seed=0):
    g = seeded(seed)
    return [
        Captioned(torch.randn(batch, *SHAPE, generator=g), Text(torch.randn(1, 7, 4, generator=g)))
        for _ in range(count)
    ]


def fisher(base, custom, *args, seed=1, **kwargs):
    base, custom = (m if isinstance(m, Model) else Model(m) for m in (base, custom))
    return fisher_divergence(base, custom, *args or (pictures(),), generator=seeded(seed), **kwargs)


def test_fisher_sums_a_constant_difference_over_latent_dimensions():
    assert isinstance(Linear(), Denoiser)
    found = fisher(Linear(), Linear(shift=0.3))
    assert found.mean == pytest.approx(0.5 * SIZE * 0.3**2, rel=1e-5)
    assert found.n == 18 and found.error < 1e-6


def test_fisher_averages_over_uniform_times():
    found = fisher(Linear(), Linear(ramp=1.0), pictures(100, 8))
    expected = 0.5 * SIZE * float((torch.arange(1000) / 1000).square().mean())
    assert abs(found.mean - expected) < 4 * found.error < 0.2 * expected
    base = Linear()
    fisher(base, Linear(), pictures(400, 8))
    times = torch.cat([t for _, t in base.asked])
    assert times.min() < 5 and times.max() > 994 and scipy.stats.kstest(times / 1000, "uniform").pvalue > 0.01


def test_fisher_sees_latents_noised_as_the_schedule_says():
    data = [replace(p, latents=3 * p.latents) for p in pictures(200, 8)]
    found = fisher(Linear(0.5), Linear(0.9), data)
    power = torch.cat([p.latents for p in data]).square().sum((1, 2, 3)).double().mean()
    a = SCHEDULE.alphas.mean()
    assert abs(found.mean - float(0.5 * 0.4**2 * (a * power + (1 - a) * SIZE))) < 4 * found.error
    assert found.error < 0.04 * found.mean


def test_fisher_converts_velocities_to_noise():
    found = fisher(Linear(schedule=VELOCITY), Linear(shift=0.3, schedule=VELOCITY), pictures(200, 8))
    expected = 0.5 * SIZE * 0.3**2 * float(SCHEDULE.alphas.mean())
    assert abs(found.mean - expected) < 4 * found.error < 0.2 * expected
    # the same two models in the other parametrisation, draw for draw
    eps = fisher(Linear(), Linear(0.7, 0.3))
    assert fisher(Velocity(), Velocity(scale=0.7, shift=0.3)).mean == pytest.approx(eps.mean, rel=1e-4)
    assert fisher(Linear(), Velocity()).mean < 1e-6 * eps.mean


def test_fisher_is_exactly_zero_for_identical_models():
    assert fisher(Linear(), Linear()).mean == 0
    assert fisher(Velocity(), Velocity()).mean == 0
    base = Linear()
    for streams in (1, 2):
        found = fisher(base, Model(base, Hooks(attention=0.0, streams=streams)))
        assert found.mean == found.error == 0


def test_two_streams_in_one_call_are_two_calls():
    base = Linear()
    once = fisher(base, Model(base, Hooks(attention=0.3, streams=2)))
    calls = [len(z) for z, _ in base.asked]
    twice = fisher(base, Model(base, Hooks(attention=0.3)))
    assert once == twice and once.mean > 0
    assert calls == [6] * 6, "both streams side by side, and the base not asked again"
    assert all(torch.equal(z[:3], z[3:]) and torch.equal(t[:3], t[3:]) for z, t in base.asked[:6])


def test_two_streams_against_another_base_ask_that_base():
    base, other = Linear(), Linear(shift=1.0)
    found = fisher(other, Model(base, Hooks(attention=0.3, streams=2)))
    assert found.mean == pytest.approx(0.5 * SIZE * 0.7**2, rel=1e-5)
    hooked = fisher(Model(base, Hooks(attention=0.1)), Model(base, Hooks(attention=0.3, streams=2)))
    assert hooked.mean == pytest.approx(0.5 * SIZE * 0.2**2, rel=1e-5)


@dataclass
class Residual:
    """Adds a constant to the values' output of the customised rows at every cross-attention site."""

    size: float
    stream: int

    def wants(self, site):
        return site.kind == "cross"

    def __call__(self, site, q, k, v, rows, attend):
        return attend(q, k, v) + self.size * (rows.stream == self.stream)[:, None, None]


def test_two_streams_in_a_network():
    denoiser = DiffusersDenoiser(random_unet("sd1"), SCHEDULE)
    g = seeded(2)
    data = [Captioned(torch.randn(2, 4, 8, 8, generator=g), Text(**random_prompt("sd1", seed))) for seed in (1, 2)]
    once = fisher(denoiser, Model(denoiser, Hooks(attention=Residual(0.5, 1), streams=2)), data)
    twice = fisher(denoiser, Model(denoiser, Hooks(attention=Residual(0.5, 0))), data)
    assert once.mean == pytest.approx(twice.mean, rel=1e-4) and once.mean > 1e-4
    assert fisher(denoiser, Model(denoiser, Hooks(attention=Residual(0.0, 1), streams=2)), data).mean == 0


def test_fisher_does_not_depend_on_the_batch_but_on_the_seed():
    models = Linear(), Linear(0.9)
    found = [fisher(*models, draws=3, batch=batch) for batch in (1, 4, 100)]
    assert all(f.mean == pytest.approx(found[0].mean, rel=1e-6) for f in found)
    assert fisher(*models, draws=3) == fisher(*models, draws=3) != fisher(*models, draws=3, seed=9)
    assert max(len(z) for z, _ in models[0].asked[: 6 * 9]) == 1


def test_the_standard_error_is_the_spread_over_pictures():
    models = Linear(), Linear(ramp=1.0)
    runs = [fisher(*models, pictures(5, 8), draws=2, seed=s) for s in range(200)]
    spread = torch.tensor([r.mean for r in runs]).std()
    assert sum(r.error for r in runs) / 200 == pytest.approx(float(spread), rel=0.15)
    assert runs[0].n == 40
    # draws of one picture are one witness: two pictures, of which only one differs, are as far apart as can be
    pair = replace(pictures(1, 2)[0], latents=torch.tensor([0.0, 1000]).reshape(2, 1, 1, 1).expand(2, *SHAPE))
    found = fisher(Linear(), Linear(0.9), [pair], draws=20)
    assert found.n == 2 and found.error == pytest.approx(found.mean, rel=1e-3)
    assert math.isnan(fisher(*models, [pictures(1, 1)[0]], draws=9).error)


def test_captions_reach_the_model_they_are_meant_for():
    text = Text(torch.zeros(1, 7, 4))
    moved = [replace(p, text=text, custom=Text(torch.full((1, 7, 4), 0.2))) for p in pictures()]
    assert fisher(Linear(), Linear(), moved).mean == pytest.approx(0.5 * SIZE * 0.2**2, rel=1e-5)
    base = Linear()
    streams = Model(base, Hooks(attention=0.0, streams=2))
    assert fisher(base, streams, moved).mean == pytest.approx(0.5 * SIZE * 0.2**2, rel=1e-5)


def test_a_caption_with_many_rows_takes_its_pictures_in_one_call():
    base, data = Linear(), pictures(1, 3)
    rows = [replace(data[0], text=Text(torch.zeros(3, 7, 4)))]
    fisher(base, Linear(), rows, draws=2, batch=2)
    assert [len(z) for z, _ in base.asked] == [3, 3]


def test_fisher_reports_and_can_be_stopped():
    class Stop(Exception):
        pass

    def watch(done, total):
        seen.append((done, total))
        if done >= 12:
            raise Stop

    seen, base = [], Linear()
    with pytest.raises(Stop):
        fisher(base, Linear(), draws=2, batch=4, watch=watch)
    assert seen == [(4, 36), (6, 36), (10, 36), (12, 36)]
    assert len(base.asked) == 4


def test_fisher_errors_say_what_was_wrong():
    with pytest.raises(ValueError, match="0 captions, draws 1"):
        fisher(Linear(), Linear(), [])
    with pytest.raises(ValueError, match="draws 0"):
        fisher(Linear(), Linear(), draws=0)
    with pytest.raises(ValueError, match="different noise schedules"):
        fisher(Linear(), Linear(schedule=Schedule.scaled_linear(end=0.02)))


def in_turn(base, custom, data, seed=1, **kwargs):
    """The same measurement with one model at a time."""
    models = (m if isinstance(m, Model) else Model(m) for m in (base, custom))
    return divergence(*(predictions(m, data, generator=seeded(seed), **kwargs) for m in models))


@pytest.mark.parametrize(
    "custom", [Linear(0.9, 0.3), Velocity(scale=0.7), Model(Linear(), Hooks(attention=0.3, streams=2))]
)
def test_one_model_after_the_other_is_both_at_once(custom):
    data = [*pictures(3, 2), *pictures(2, 5, seed=3)]
    kept = [tuple(p.shape) for p in predictions(Model(Linear()), data, generator=seeded(1), draws=3)]
    assert kept == [(3, 2, *SHAPE)] * 3 + [(3, 5, *SHAPE)] * 2
    assert in_turn(Linear(), custom, data, draws=3, batch=4) == fisher(Linear(), custom, data, draws=3, batch=4)
    assert in_turn(custom, custom, data, draws=3).mean == 0
    assert in_turn(Linear(), custom, data, seed=2) != in_turn(Linear(), custom, data, seed=3)


def test_one_model_after_the_other_in_a_network():
    base, other = (DiffusersDenoiser(random_unet("sd1", seed), SCHEDULE) for seed in (0, 1))
    data = [Captioned(torch.randn(2, 4, 8, 8, generator=seeded(2)), Text(**random_prompt("sd1", 1)))]
    assert in_turn(base, other, data, draws=2, batch=3) == fisher(base, other, data, draws=2, batch=3)


def test_one_model_alone_reports_and_checks_what_it_is_given():
    seen = []
    found = predictions(
        Model(Linear()), pictures(2, 3), generator=seeded(1), batch=2, watch=lambda *done: seen.append(done)
    )
    assert seen == [(2, 6), (3, 6), (5, 6), (6, 6)]
    with pytest.raises(ValueError, match="draws 0"):
        predictions(Model(Linear()), pictures(), generator=seeded(1), draws=0)
    with pytest.raises(ValueError, match="same pictures and draws"):
        divergence(found, found[:1])
    with pytest.raises(ValueError, match="same pictures and draws"):
        divergence(found, [p.repeat(2, 1, 1, 1, 1) for p in found])
