"""The schedule and the DDIM step against closed forms and against diffusers' own schedulers."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from likeness.core import diffusion
from likeness.core.diffusion import Schedule
from networks import SCHEDULER


def model(z, t):
    """A smooth made-up network."""
    return torch.sin(z + t / 300) * 0.7 + 0.2 * z


@pytest.mark.parametrize("prediction", diffusion.PREDICTIONS)
@pytest.mark.parametrize("steps", [7, 30, 50])
@pytest.mark.parametrize("to_one", [True, False])
def test_sampling_agrees_with_diffusers(prediction, steps, to_one):
    scheduler = DDIMScheduler(**{**SCHEDULER, "set_alpha_to_one": to_one}, prediction_type=prediction)
    schedule = Schedule.from_scheduler(scheduler)
    scheduler.set_timesteps(steps)
    assert schedule.timesteps(steps) == scheduler.timesteps.tolist()
    z = start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for t in scheduler.timesteps:
        z = scheduler.step(model(z, int(t)), t, z).prev_sample
    ours = diffusion.sample(schedule, model, start, schedule.timesteps(steps))
    torch.testing.assert_close(ours, z, rtol=1e-4, atol=1e-5)


def test_timesteps_fall_over_the_whole_schedule_for_any_number_of_steps():
    schedule = Schedule.scaled_linear()
    for steps in range(1, 1001):
        timesteps = schedule.timesteps(steps)
        assert len(timesteps) == steps and timesteps == sorted(set(timesteps), reverse=True)
        if steps <= 500:
            assert timesteps == [i * (1000 // steps) + 1 for i in reversed(range(steps))]
        else:
            assert timesteps[0] == 999 and timesteps[-1] <= 1
    assert schedule.timesteps(1000) == list(range(999, -1, -1))


@pytest.mark.parametrize("prediction", diffusion.PREDICTIONS)
def test_inversion_agrees_with_diffusers(prediction):
    inverse = DDIMInverseScheduler(**SCHEDULER, prediction_type=prediction, timestep_spacing="leading")
    inverse.set_timesteps(50)
    schedule = Schedule.from_scheduler(DDIMScheduler(**SCHEDULER, prediction_type=prediction))
    z = start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    for t in inverse.timesteps:
        z = inverse.step(model(z, int(t)), t, z).prev_sample
    path = diffusion.invert(schedule, model, start, schedule.timesteps(50))
    assert len(path) == 51
    torch.testing.assert_close(path[-1], z, rtol=1e-4, atol=1e-5)


def test_inversion_and_sampling_return_the_start_ever_closer():
    schedule = Schedule.scaled_linear()
    start = 0.5 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    def gaussian(z, t):
        """The exact noise prediction where the data are N(0, 0.25)."""
        a = float(schedule.alpha(t))
        return (1 - a) ** 0.5 / (0.25 * a + 1 - a) * z

    errors = []
    for steps in (10, 50, 250):
        timesteps = schedule.timesteps(steps)
        noise = diffusion.invert(schedule, gaussian, start, timesteps)[-1]
        back = diffusion.sample(schedule, gaussian, noise, timesteps)
        errors.append(float((back - start).norm() / start.norm()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02
    # and the noise has the variance that the schedule says
    assert noise.std() / start.std() == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("prediction", diffusion.PREDICTIONS)
def test_conversions_undo_each_other(prediction):
    schedule = Schedule(Schedule.scaled_linear().alphas, prediction)
    g = torch.Generator().manual_seed(4)
    z0, eps, t = torch.randn(3, 4, 2, 2, generator=g), torch.randn(3, 4, 2, 2, generator=g), torch.tensor([1, 400, 999])
    z = schedule.noise(z0, eps, t)
    output = schedule.target(z0, eps, t)
    torch.testing.assert_close(schedule.epsilon(output, z, t), eps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(schedule.x0(output, z, t), z0, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(schedule.output(z0, z, t), output, rtol=1e-3, atol=1e-4)


def test_zero_terminal_snr_is_safe_with_v_prediction():
    scheduler = DDIMScheduler(**SCHEDULER, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    schedule = Schedule.from_scheduler(scheduler)
    assert schedule.alpha(999) == 0
    z = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(5))
    assert schedule.step(model(z, 999), z, 999, 500).isfinite().all()


def test_sigma_and_alpha_are_two_names_of_one_thing():
    schedule = Schedule.scaled_linear()
    sigma = schedule.sigma(torch.tensor([0, 500, 999]))
    torch.testing.assert_close(1 / (1 + sigma**2), schedule.alphas[[0, 500, 999]])
    assert schedule.sigma(-1) == 0
    assert sigma[2] == pytest.approx(14.6146, rel=1e-4)  # Stable Diffusion's known sigma_max


def test_a_ddim_step_is_an_euler_step_in_sigma_space():
    schedule = Schedule.scaled_linear()
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    eps = model(z, 700)
    x = z * (1 + schedule.sigma(700) ** 2).sqrt()
    x = x + (schedule.sigma(500) - schedule.sigma(700)) * eps
    torch.testing.assert_close(schedule.step(eps, z, 700, 500), x / (1 + schedule.sigma(500) ** 2).sqrt())


def test_guidance_of_one_is_exactly_the_conditional():
    c, u = torch.randn(2, 3), torch.randn(2, 3)
    assert diffusion.guide(c, u, 1) is c
    torch.testing.assert_close(diffusion.guide(c, u, 3.0), 3 * c - 2 * u)


def test_errors_say_what_was_wrong():
    with pytest.raises(ValueError, match="prediction is 'x0'"):
        Schedule(torch.tensor([0.9, 0.1]), "x0")
    with pytest.raises(ValueError, match="falls from 1"):
        Schedule(torch.tensor([0.1, 0.9]))
    with pytest.raises(ValueError, match="between 1 and 1000"):
        Schedule.scaled_linear().timesteps(0)
