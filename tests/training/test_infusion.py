"""Learning a concept: gradients, cost, resuming, messages."""

from dataclasses import replace

import pytest
import torch
from likeness.core.denoiser import Hooks
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from likeness.core.infusion.control import Infusion, Use
from likeness.training import infusion, loop
from likeness.training.data.photos import Group
from networks import random_prompt, random_unet


@pytest.fixture(scope="module")
def model():
    return DiffusersDenoiser(random_unet("sd1"), Schedule.scaled_linear())


def text(*positions, **fields):
    marks = torch.zeros(77, dtype=torch.bool)
    marks[list(positions)] = True
    return Text(**random_prompt("sd1", words={"cat": marks}, **fields))


def photos(count=3, seed=0, size=8):
    return [Group(torch.randn(count, 4, size, size, generator=torch.Generator().manual_seed(seed)))]


def learn(steps=4, **fields):
    return infusion.Learn(batch=2, loop=loop.Settings(steps=steps, lr=0.01, clip=0.0, every=2), **fields)


@pytest.mark.parametrize("space", ["text", "value"])
def test_the_gradient_is_that_of_the_two_streams(model, space):
    training = infusion.Training(model, text(3, 4), photos(), "cat", learn(space=space, bins=2))
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in training.parameters.values():
            p.copy_(torch.randn(p.shape, generator=g))
    z, t, weight = torch.randn(2, 4, 8, 8, generator=g), torch.tensor([20, 800]), torch.randn(2, 4, 8, 8, generator=g)
    (training.customised(z, t) * weight).sum().backward()
    ours = {k: p.grad.clone() for k, p in training.parameters.items()}
    # drawing with the live parameters, both streams at the same place
    concept = replace(training.concept(), residuals=training.parameters)
    for p in training.parameters.values():
        p.grad = None
    drawn = model(z.repeat(2, 1, 1, 1), t.repeat(2), text(3, 4), hooks=Infusion([Use(concept)]).hooks)[0][2:]
    (drawn * weight).sum().backward()
    torch.testing.assert_close(drawn, training.customised(z, t), rtol=1e-4, atol=1e-5)
    for k, p in training.parameters.items():
        torch.testing.assert_close(ours[k], p.grad, rtol=1e-3, atol=1e-4 * float(p.grad.abs().max()))


def flops(function):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function().sum().backward()
    return counter.get_total_flops()


def test_a_step_costs_three_halves_of_textual_inversions(model):
    training = infusion.Training(model, text(3), photos(), "cat", learn())
    z, t = torch.randn(2, 4, 16, 16), torch.tensor([20, 800])
    tokens = text(3).tokens.clone().requires_grad_()
    ours, inversion = (
        flops(lambda: training.customised(z, t)),
        flops(lambda: model(z, t, text(3).with_tokens(tokens))[0]),
    )
    assert 1.2 < ours / inversion <= 1.55


def test_saving_memory_changes_the_cost_and_no_gradient():
    model = DiffusersDenoiser(random_unet("sd1"), Schedule.scaled_linear())
    training = infusion.Training(model, text(3), photos(), "cat", learn())
    z, t = torch.randn(2, 4, 16, 16), torch.tensor([20, 800])
    tokens = text(3).tokens.clone().requires_grad_()
    gradients, cost = [], {}
    for saving in (False, True):
        if saving:
            model.save_memory()
        for p in training.parameters.values():
            p.grad = None
        cost["ours", saving] = flops(lambda: training.customised(z, t))
        cost["inversion", saving] = flops(lambda: model(z, t, text(3).with_tokens(tokens))[0])
        gradients.append({k: p.grad.clone() for k, p in training.parameters.items()})
    for k, g in gradients[0].items():
        torch.testing.assert_close(gradients[1][k], g)
    assert cost["ours", True] > 1.1 * cost["ours", False]
    assert cost["ours", True] / cost["inversion", True] <= 1.4


def test_resumes_bit_for_bit(model, tmp_path):
    groups = photos() + photos(2, seed=1, size=12)
    unbroken = infusion.Training(model, text(3), groups, "cat", learn(5)).run()
    file = tmp_path / "c.checkpoint"

    def stop(progress):
        if progress.step == 3:
            raise loop.Cancelled

    first = infusion.Training(model, text(3), groups, "cat", learn(5), file)
    with pytest.raises(loop.Cancelled):
        first.run(stop)
    assert first.concept().settings["steps"] == 3
    again = infusion.Training(model, text(3), groups, "cat", learn(5), file)
    assert again.trainer.step == 3
    resumed = again.run()
    assert all(torch.equal(resumed.residuals[k], r) for k, r in unbroken.residuals.items())
    with pytest.raises(ValueError, match="other settings, data or start"):
        infusion.Training(model, text(4), photos(), "cat", learn(5, bins=1), file)


def test_learns(model):
    """On pictures that the model itself makes with a hidden concept, the error falls towards the hidden one's."""
    hidden = infusion.Training(model, text(3), photos(), "cat", learn())
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in hidden.parameters.values():
            p.copy_(2 * torch.randn(p.shape, generator=g))
    z, t = torch.randn(4, 4, 8, 8, generator=g), torch.tensor([100, 300, 600, 900])
    with torch.no_grad():
        wanted = hidden.customised(z, t)
    training = infusion.Training(
        model, text(3), photos(), "cat", replace(learn(), loop=loop.Settings(steps=25, lr=0.1))
    )
    training.trainer.loss = lambda step, generator: (training.customised(z, t) - wanted).square().mean()
    losses = []
    training.run(lambda progress: losses.append(progress.loss))
    assert losses[-1] < 0.5 * losses[0]


def test_masks_are_where_the_loss_looks(model):
    group, weight = photos(1)[0], torch.zeros(1, 1, 8, 8)
    weight[..., :4] = 1
    changed = group.data.clone()
    changed[..., 7] = 9
    # far pixels reach the near ones through the network; here the answer at a pixel is the pixel
    results = []
    for data in (group.data, changed):
        training = infusion.Training(model, text(3), [Group(data, weight)], "cat", learn())
        training.customised = lambda z, t: z
        results.append(training._loss(0, torch.Generator().manual_seed(0)))
        training.groups = [Group(data)]
        results.append(training._loss(0, torch.Generator().manual_seed(0)))
    assert results[0] == results[2] and results[1] != results[3]


def test_the_signal_to_noise_ratio_weights_the_loss_of_noisy_steps_more(model):
    found, at = [], []
    for snr in (False, True):
        training = infusion.Training(model, text(3), photos(1), "cat", replace(learn(snr=snr), batch=1))
        training.customised = lambda z, t: at.append(t) or z
        found.append([training._loss(0, torch.Generator().manual_seed(seed)) for seed in range(8)])
    alphas = model.schedule.alphas[torch.cat(at[8:])]
    snr = alphas / (1 - alphas)
    gain = torch.stack(found[1]) / torch.stack(found[0])
    torch.testing.assert_close(gain, (snr.clamp(0.25, 5) / snr).float())
    assert gain.min() < 1 < gain.max()  # noisy steps above one, clean ones below


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"word": "dog"}, "'dog' is not in the training prompt"),
        ({"groups": []}, "no picture to learn from"),
        ({"learn": learn(further=("hat",))}, "'hat' is not in the training prompt"),
        ({"learn": learn(layers="none")}, "layers is 'none'"),
        ({"learn": replace(learn(), batch=0)}, "batch is 0"),
    ],
)
def test_mistakes_are_named(model, fields, message):
    given = {"groups": photos(), "word": "cat", "learn": learn(), **fields}
    with pytest.raises(ValueError, match=message):
        infusion.Training(model, text(3), **given)


def test_a_loss_that_is_no_number_keeps_the_last_good(model, tmp_path):
    training = infusion.Training(model, text(3), photos(), "cat", learn(6), tmp_path / "x")
    honest = training.trainer.loss
    training.trainer.loss = lambda step, g: honest(step, g) * (float("nan") if step == 3 else 1)
    with pytest.raises(FloatingPointError, match="step 4; use a lower learning rate"):
        training.run()
    concept = training.concept()
    assert concept.settings["steps"] == 3 and all(r.isfinite().all() for r in concept.residuals.values())


def test_hooks_see_the_words_alone(model):
    """Columns of a word that stands twice are summed."""
    kept = infusion._Foundation(("cat",))
    with torch.no_grad():
        z = torch.randn(1, 4, 8, 8)
        model(z, 500, text(3, 9), hooks=Hooks(kept, words=("cat",)))
        single = [infusion._Foundation(("cat",)) for _ in range(2)]
        for foundation, at in zip(single, (3, 9)):
            model(z, 500, text(at), hooks=Hooks(foundation, words=("cat",)))
    for name, (_, columns) in kept.kept.items():
        torch.testing.assert_close(columns, single[0].kept[name][1] + single[1].kept[name][1])


def test_half_precision_keeps_its_gradients():
    """At a large picture's loss scale, half-precision gradients vanish unless the loss is scaled on its way back."""
    nets = [
        DiffusersDenoiser(random_unet("sd1").to(dtype), Schedule.scaled_linear())
        for dtype in (torch.float32, torch.half)
    ]
    z, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([100, 700])

    def gradient(net, scale):
        training = infusion.Training(net, text(3), photos(), "cat", learn(), scale=scale)
        training.trainer.loss = lambda step, g: (training.customised(z, t) - z).square().sum() / 65536**1.2
        training.trainer._gradients()
        return torch.cat([p.grad.flatten() for p in training.parameters.values()])

    exact = gradient(nets[0], 1.0)
    cosine = [float(torch.cosine_similarity(exact, gradient(nets[1], s), dim=0)) for s in (1.0, 2.0**16)]
    assert cosine[0] < 0.9 < 0.99 < cosine[1]


def test_a_scale_that_overflows_is_halved(model):
    training = infusion.Training(model, text(3), photos(), "cat", learn(2), scale=2.0**130)
    assert training.run().settings["steps"] == 2
    assert training.trainer.scale < 2.0**130
