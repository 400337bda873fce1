"""The training loop: resume is bit-identical, cancel keeps what was learned, averaging and rates are the formulas."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from likeness.core import files
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


def test_a_probe_counts_what_is_kept_and_changes_nothing():
    weight, trainer = problem(SETTINGS)
    trainer.run()
    probed, other = problem(SETTINGS)
    seconds, kept = other.probe()
    assert seconds > 0 and kept == (8 * 3 + 8) * 4  # the batch (8, 3) for the product, 8 numbers for the square
    other.run()
    assert torch.equal(probed, weight)


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
    reference = torch.nn.Parameter(start)
    losses = []
    for number in range(2):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
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
    with pytest.raises(LearnedFileError, match="of another model"):
        Trainer({"other": torch.nn.Parameter(torch.zeros(3))}, lambda s, g: 0, SETTINGS, path)
    with pytest.raises(LearnedFileError, match="of another model"):
        problem(SETTINGS, path, size=1)
    with pytest.raises(LearnedFileError, match="other settings, data or start"):
        problem(replace(SETTINGS, lr=0.1), path)
    assert problem(replace(SETTINGS, steps=50, every=3), path)[1].step == 40, "a longer run goes on"


def test_stopped_in_the_middle_of_an_update_the_last_whole_step_is_kept(tmp_path, monkeypatch):
    expected, trainer = problem(SETTINGS)
    trainer.run()
    path = tmp_path / "c.safetensors"
    _, first = problem(SETTINGS, path)
    update = first.optimiser.step

    def torn():
        update()
        if first.step == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(first.optimiser, "step", torn)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    weight, second = problem(SETTINGS, path)
    assert second.step == 14, "saved every 7 steps"
    second.run()
    assert torch.equal(weight, expected)


def test_a_loss_that_is_no_number_stops_before_it_is_learned(tmp_path):
    path = tmp_path / "c.safetensors"
    weight = torch.nn.Parameter(torch.ones(3))
    trainer = Trainer({"w": weight}, lambda step, g: weight.sum() * (float("nan") if step == 3 else 1), SETTINGS, path)
    with pytest.raises(FloatingPointError, match="nan at step 4"):
        trainer.run()
    assert weight.isfinite().all()
    assert files.load(path, kind="training-checkpoint")[1].settings["step"] == 3


def test_a_resumed_run_does_not_hold_its_file(tmp_path):
    path = tmp_path / "c.safetensors"
    problem(SETTINGS, path)[1].run()
    _, trainer = problem(SETTINGS, path)
    before = trainer.optimiser.state_dict()["state"][0]["exp_avg"].clone()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(trainer.optimiser.state_dict()["state"][0]["exp_avg"], before)


def test_two_processes_do_what_one_does_with_twice_the_accumulation(tmp_path):
    script = Path(__file__).with_name("two_processes.py")
    for name, processes, accumulation in (("one", 1, 2), ("two", 2, 1)):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command += [str(script), str(tmp_path / f"{name}.safetensors"), str(accumulation)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (files.load(tmp_path / f"{name}.safetensors", kind="x")[0] for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for name in ("average", "weight"):
        torch.testing.assert_close(one[name], two[name])


def test_an_accelerator_changes_no_bit():
    from accelerate import Accelerator

    weight, trainer = problem(SETTINGS)
    trainer.run()
    other, accelerated = problem(SETTINGS)
    accelerated = Trainer({"w": other}, accelerated.loss, SETTINGS, accelerator=Accelerator(cpu=True))
    accelerated.run()
    assert torch.equal(weight, other)
