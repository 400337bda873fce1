"""HiFi Tuner's null texts and reference guidance: the papers' loops written out, and what must change nothing."""

from dataclasses import replace

import pytest
import torch
from hifi_cases import PREDICTIONS, latents, random_denoiser, text
from likeness.core.denoiser import guided
from likeness.core.diffusion import sample
from likeness.core.hifi import guidance as leading
from likeness.core.hifi import inversion
from likeness.core.hifi.inversion import invert, null_text

STEPS = 10


@pytest.fixture(scope="module", params=PREDICTIONS)
def denoiser(request):
    return random_denoiser(request.param)


@pytest.fixture(scope="module")
def timesteps(denoiser):
    return denoiser.schedule.timesteps(STEPS)


# --- null texts ------------------------------------------------------------------------------------------------------


def mokady(denoiser, positive, negative, path, weight, steps, lr=1e-2, tolerance=1e-5):
    """Null-text optimisation as published, unoptimised: both rows in every inner step."""
    z, phi, nulls = path.latents[-1], negative.tokens.clone(), []
    for i, (t, s) in enumerate(zip(path.timesteps, [*path.timesteps[1:], -1])):

        def after(phi, z=z, t=t, s=s):
            eps = guided(denoiser, positive, negative.with_tokens(phi), weight)(z, t)
            return denoiser.schedule.step(eps, z, t, s)

        phi = phi.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([phi], lr=lr * (1 - 0.5 * i / len(path.timesteps)))
        for _ in range(steps):
            loss = (after(phi) - path.latents[len(path.timesteps) - 1 - i]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if loss < tolerance * (1 + 2 * i):
                break
        phi = phi.detach()
        nulls.append(phi)
        with torch.no_grad():
            z = after(phi)
    return torch.stack(nulls), z


def test_null_texts_are_those_of_the_published_loop(denoiser):
    caption, null, timesteps = text(1), text(2), denoiser.schedule.timesteps(4)
    path = invert(denoiser, caption, latents(0), timesteps)
    assert path.latents.shape == (5, 1, 4, 8, 8) and torch.equal(path.at(4), latents(0))
    for steps, tolerance in ((3, 0.0), (4, 2e-3)):
        ours = null_text(denoiser, caption, null, path, 5.0, steps=steps, tolerance=tolerance)
        nulls, z = mokady(denoiser, caption, null, path, 5.0, steps, tolerance=tolerance)
        torch.testing.assert_close(ours.nulls, nulls, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.drawn[0], z, rtol=1e-3, atol=1e-3)


def test_null_texts_lead_back(denoiser):
    caption, null, timesteps = text(1), text(2), denoiser.schedule.timesteps(5)
    path = invert(denoiser, caption, latents(0), timesteps)
    plain = sample(denoiser.schedule, guided(denoiser, caption, null, 5.0), path.noise, timesteps)
    drawn = [null_text(denoiser, caption, null, path, 5.0, steps=k).drawn[0] for k in (2, 10)]
    error = [float((z - latents(0)).square().mean()) for z in (plain, *drawn)]
    assert error[0] > error[1] > error[2] and error[2] < 0.85 * error[0]


def test_pictures_of_a_batch_learn_apart(denoiser):
    caption, null, z, timesteps = text(1), text(2), latents(0, 2), denoiser.schedule.timesteps(3)
    path = invert(denoiser, caption, z, timesteps)
    both = null_text(denoiser, caption, null, path, 5.0, steps=3, tolerance=2e-3)
    for i in range(2):
        alone = replace(path, latents=path.latents[:, i : i + 1])
        alone = null_text(denoiser, caption, null, alone, 5.0, steps=3, tolerance=2e-3)
        torch.testing.assert_close(both.nulls[:, i : i + 1], alone.nulls, rtol=1e-3, atol=1e-3)


def test_guidance_one_is_refused(denoiser, timesteps):
    path = invert(denoiser, text(1), latents(0), timesteps)
    with pytest.raises(ValueError, match="guidance is 1, where the null text has no effect"):
        null_text(denoiser, text(1), text(2), path, 1.0)


class Overflowing:
    """A model whose way back takes gradients up to a limit, as half precision does."""

    def __init__(self, denoiser, limit):
        self.denoiser, self.schedule, self.limit = denoiser, denoiser.schedule, limit

    def __call__(self, *args, **kwargs):
        out = self.denoiser(*args, **kwargs)
        if out[0].requires_grad:
            out[0].register_hook(lambda g: torch.where(g.abs() > self.limit, torch.inf, g))
        return out


def test_a_gradient_that_overflows_is_scaled_down(denoiser):
    caption, null, timesteps = text(1), text(2), denoiser.schedule.timesteps(3)
    path = invert(denoiser, caption, latents(0), timesteps)
    plain = null_text(denoiser, caption, null, path, 5.0, steps=2)
    narrow = null_text(Overflowing(denoiser, 0.5), caption, null, path, 5.0, steps=2)
    torch.testing.assert_close(narrow.nulls, plain.nulls, rtol=1e-3, atol=1e-3)
    with pytest.raises(FloatingPointError, match="not a number at timestep 667; use a lower learning rate"):
        null_text(Overflowing(denoiser, 0.0), caption, null, path, 5.0, steps=2)


# --- reference guidance ----------------------------------------------------------------------------------------------


def algorithm_2(denoiser, positive, negative, z, timesteps, path, mask, weight, start, end, steps, lr=1e-2):
    """As printed, with both rows in every inner step; start and end are numbers of this run's steps."""
    for i, (t, s) in enumerate(zip(timesteps, [*timesteps[1:], -1])):
        number, inside = len(timesteps) - i, mask.bool().expand_as(z)
        if number == start:
            phi_h = negative.tokens.clone()
            z = torch.where(inside, path.latents[number], z)

        def f(phi, z=z, t=t, s=s):
            eps = guided(denoiser, positive, negative.with_tokens(phi), weight)(z, t)
            return denoiser.schedule.step(eps, z, t, s)

        with torch.no_grad():
            after = f(negative.tokens)
        if end <= number <= start:
            phi_h = phi_h.clone().requires_grad_(True)
            optimiser = torch.optim.Adam([phi_h], lr=lr)
            for _ in range(steps):
                loss = (path.latents[number - 1][inside] - f(phi_h)[inside]).square().sum()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            phi_h = phi_h.detach()
            with torch.no_grad():
                after = torch.where(inside, f(phi_h), after)
        z = after
    return z


@pytest.fixture(scope="module")
def scene(denoiser, timesteps):
    """Prompt, null text, first noise, the reference's trajectory, its mask at latent size."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 3:7] = 1
    return text(1), text(2), latents(5), invert(denoiser, text(3), latents(4), timesteps), mask


def test_algorithm_2_is_the_loop_as_printed(denoiser, timesteps, scene):
    positive, negative, z, path, mask = scene
    settings = leading.Guidance(start=40, end=10, steps=3)
    assert settings.span(STEPS) == (8, 2) and settings.span(50) == (40, 10)
    ours = leading.reference_guided(denoiser, positive, negative, z, timesteps, path, mask, 5.0, settings)
    naive = algorithm_2(denoiser, positive, negative, z, timesteps, path, mask, 5.0, 8, 2, 3)
    torch.testing.assert_close(ours, naive, rtol=1e-3, atol=2e-3)


def test_steps_before_the_first_guided_one_are_the_plain_run(denoiser, timesteps, scene):
    positive, negative, z, path, mask = scene
    plain, led = [], []
    predict = guided(denoiser, positive, negative, 5.0)
    with torch.no_grad():
        sample(denoiser.schedule, predict, z, timesteps, watch=lambda i, t, z: plain.append(z))
    args = (denoiser, positive, negative, z, timesteps, path, mask, 5.0)
    leading.reference_guided(*args, leading.Guidance(start=30, steps=1), watch=lambda i, t, z: led.append(z))
    assert [torch.equal(a, b) for a, b in zip(plain, led)] == [True] * 4 + [False] * 6


def test_previews_are_the_clean_latents_of_each_step(denoiser, timesteps, scene):
    positive, negative, z, path, mask = scene
    drawn, shown = [z], []
    led = leading.Guidance(start=30, steps=1)
    args = (denoiser, positive, negative, z, timesteps, path, mask, 5.0, led)
    leading.reference_guided(*args, watch=lambda i, t, z: drawn.append(z), shown=lambda i, x0: shown.append((i, x0)))
    assert [i for i, _ in shown] == list(range(10))
    for i in range(4):  # two points of a DDIM step lie on one line from clean to noise
        (a, b), (c, d) = (
            (float(alpha.sqrt()), float((1 - alpha).sqrt()))
            for alpha in (denoiser.schedule.alpha(timesteps[i]), denoiser.schedule.alpha(timesteps[i + 1]))
        )
        clean = (d * drawn[i].double() - b * drawn[i + 1].double()) / (a * d - c * b)
        torch.testing.assert_close(shown[i][1].double(), clean, rtol=1e-3, atol=1e-3)


def test_without_steps_there_is_the_one_substitution(denoiser, timesteps, scene):
    positive, negative, z, path, mask = scene
    none = leading.Guidance(steps=0)
    ours = leading.reference_guided(denoiser, positive, negative, z, timesteps, path, mask, 5.0, none)
    predict = guided(denoiser, positive, negative, 5.0)
    with torch.no_grad():
        for i, (t, s) in enumerate(zip(timesteps, [*timesteps[1:], -1])):
            z = torch.where(mask.bool(), path.latents[8], z) if i == 2 else z
            z = denoiser.schedule.step(predict(z, t), z, t, s)
    assert torch.equal(ours, z)


def test_more_steps_come_closer(denoiser, timesteps, scene):
    positive, negative, z, path, mask = scene
    args = (denoiser, positive, negative, z, timesteps, path, mask, 5.0)

    def error(**settings):
        watched = []
        leading.reference_guided(*args, leading.Guidance(**settings), watch=lambda i, t, z: watched.append(z))
        inside = mask.bool().expand_as(z)
        return sum(float((w - path.at(i + 1))[inside].square().mean()) for i, w in enumerate(watched) if 2 <= i < 9)

    errors = [error(steps=j) for j in (0, 2, 8)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.9 * errors[0]
    assert error(fast=1.0) < 1e-8 < error(fast=0.3) < errors[0]


def test_early_stop_goes_on_once_the_error_is_a_share_of_the_largest(denoiser, timesteps, scene, monkeypatch):
    positive, negative, z, path, mask = scene
    errors, measured, calls = [], inversion.masked_mean, []

    class Counting:
        schedule, calls = denoiser.schedule, 0

        def __call__(self, *args, **kwargs):
            self.calls += 1
            return denoiser(*args, **kwargs)

    monkeypatch.setattr(inversion, "masked_mean", lambda *args: errors.append(measured(*args)) or errors[-1])
    for stop in (0.0, 0.9):
        errors.clear()
        counting = Counting()
        settings = leading.Guidance(steps=6, lr=0.1, stop=stop)
        leading.reference_guided(counting, positive, negative, z, timesteps, path, mask, 5.0, settings)
        calls.append(counting.calls)
        largest, taken = 0.0, [0]
        for error in (float(e.detach()) for e in errors):
            largest, taken[-1] = max(largest, error), taken[-1] + 1
            if error < stop * largest or taken[-1] == 6:
                taken.append(0)
        assert len(taken) == 7 + 1 and taken[-1] == 0
        assert counting.calls == 10 + sum(taken) + 7
    assert calls[0] == 10 + 7 * 7 > calls[1]


def test_masks_at_latent_size(denoiser, timesteps, scene):
    positive, negative, z, path, _ = scene
    picture = torch.zeros(1, 64, 64)
    picture[:, 16:32, 8:36] = 1
    small = leading.at_latent_size(picture, (8, 8))
    assert small.nonzero()[:, 2].unique().tolist() == [2, 3] and small.nonzero()[:, 3].unique().tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="mask: it is empty"):
        leading.at_latent_size(torch.zeros(1, 64, 64), (8, 8))
    dot = torch.zeros(1, 64, 64)
    dot[:, 5, 5] = 1
    vanished = leading.at_latent_size(dot, (8, 8))
    with pytest.warns(UserWarning, match="the mask vanishes at the latents' size"):
        ours = leading.reference_guided(denoiser, positive, negative, z, timesteps, path, vanished, 5.0)
    with torch.no_grad():
        plain = sample(denoiser.schedule, guided(denoiser, positive, negative, 5.0), z, timesteps)
    assert torch.equal(ours, plain)


def test_a_trajectory_of_another_run_is_refused(denoiser, timesteps, scene):
    positive, negative, z, path, mask = scene
    run = leading.reference_guided
    with pytest.raises(ValueError, match=r"trajectory: it has 10 steps .* the run 5 "):
        run(denoiser, positive, negative, z, denoiser.schedule.timesteps(5), path, mask, 5.0)
    with pytest.raises(ValueError, match="trajectory: its latents are"):
        run(denoiser, positive, negative, torch.randn(1, 4, 16, 16), timesteps, path, mask, 5.0)
    with pytest.raises(ValueError, match="guidance is 1"):
        run(denoiser, positive, negative, z, timesteps, path, mask, 1.0)
    with pytest.raises(ValueError, match="both are steps of 50"):
        leading.Guidance(start=60)
    with pytest.raises(ValueError, match="mask: it has 3 pictures, the latents 1"):
        run(denoiser, positive, negative, z, timesteps, path, mask.expand(3, -1, -1, -1), 5.0)


def test_a_span_without_a_guided_step_is_refused():
    assert leading.Guidance(start=20, end=20).span(STEPS) == (4, 4)  # one step
    for start, end in ((10, 20), (0, 0)):
        with pytest.raises(ValueError, match=f"start is {start} and end {end}: .* none of 50 would be guided"):
            leading.Guidance(start=start, end=end)
    with pytest.raises(ValueError, match="none of 10 would be guided"):
        leading.Guidance(start=2, end=1).span(STEPS)
