"""The training loop: resume is bit-identical, cancel keeps what was learned, averaging and rates are the formulas."""

import pytest
import torch
from likeness.core.files import LearnedFileError
from likeness.training.loop import Cancelled, Settings, Trainer


def problem(settings, checkpoint=None, size=3):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(size))

    def loss(step, generator):
        x = torch.randn(8, size, generator=generator)
        return ((x * weight).sum(1) - x.sum(1)).square().mean()

    return weight, Trainer({"w": weight}, loss, settings, checkpoint)


SETTINGS = Settings(steps=40, lr=0.05, warmup=5, decay=0.5, weight_decay=0.01, ema=0.9, accumulation=2, seed=3, every=7)


def test_it_learns():
    _weight, trainer = problem(Settings(steps=300, lr=0.05))
    assert trainer.run()["w"] == pytest.approx([1.0] * 3, abs=0.02)


@pytest.mark.parametrize("stop", [1, 7, 23])
def test_stopped_and_resumed_equals_unbroken_bit_for_bit(tmp_path, stop):
    weight, trainer = problem(SETTINGS)
    average = trainer.run()["w"].clone()

    def cancel(progress):
        if progress.step == stop:
            raise Cancelled

    path = tmp_path / "c.safetensors"
    _, first = problem(SETTINGS, path)
    with pytest.raises(Cancelled):
        first.run(cancel)
    resumed_weight, second = problem(SETTINGS, path)
    assert second.step == stop
    assert torch.equal(second.run()["w"], average)
    assert torch.equal(resumed_weight, weight)


def test_a_finished_run_is_not_run_again(tmp_path):
    path = tmp_path / "c.safetensors"
    weight, trainer = problem(SETTINGS, path)
    trainer.run()
    again, trainer = problem(SETTINGS, path)
    trainer.run(lambda p: pytest.fail("ran"))
    assert torch.equal(again, weight)


def test_accumulation_is_the_mean_of_the_losses():
    weight, trainer = problem(Settings(steps=1, lr=0.1, accumulation=2, clip=0))
    start = weight.detach().clone()
    trainer.run()
    generator = torch.Generator().manual_seed(0)
    reference = torch.nn.Parameter(start)
    losses = []
    for _ in range(2):
        x = torch.randn(8, 3, generator=generator)
        losses.append(((x * reference).sum(1) - x.sum(1)).square().mean())
    optimiser = torch.optim.AdamW([reference], lr=0.1, weight_decay=0.0)
    (sum(losses) / 2).backward()
    optimiser.step()
    torch.testing.assert_close(weight, reference)


def test_rates_are_the_formula():
    s = Settings(steps=100, lr=1.0, warmup=10, decay=0.5)
    assert s.rate(0) == pytest.approx(0.1) and s.rate(9) == 1.0 and s.rate(50) == 1.0
    assert s.rate(75) == pytest.approx(0.5) and s.rate(100) == pytest.approx(0.0, abs=1e-9)


def test_another_trainings_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    problem(SETTINGS, path)[1].run()
    with pytest.raises(LearnedFileError, match="another training"):
        Trainer({"other": torch.nn.Parameter(torch.zeros(3))}, lambda s, g: 0, SETTINGS, path)
