"""`likeness train infusion` as a user runs it, in one process and in two."""

import subprocess
import sys

import another_model
import pytest
import torch
from likeness.core.demo import world
from likeness.core.infusion import concept
from likeness.training import infusion, loop
from PIL import Image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, picture in enumerate(world.photos(world.held_out_subjects(1, "cat")[0], 2)):
        pixels = (picture.image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def learn(photos, out, processes, accumulation):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command += ["likeness.cli", "train", "infusion", "--images", str(photos), "--prompt", "a photo of a cat"]
    command += ["--word", "cat", "--out", str(out), "--learn.loop.steps", "2", "--learn.batch", "1"]
    command += ["--learn.loop.accumulation", str(accumulation)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    return concept.load(out)


def test_two_processes_learn_what_one_does_with_twice_the_accumulation(photos, tmp_path):
    two = learn(photos, tmp_path / "two.safetensors", 2, 1)
    one = learn(photos, tmp_path / "one.safetensors", 1, 2)
    assert two.settings["steps"] == one.settings["steps"] == 2
    for name, residual in one.residuals.items():
        assert residual.abs().max() > 0
        torch.testing.assert_close(two.residuals[name], residual, atol=1e-3, rtol=1e-3)
    assert not list(tmp_path.glob("*.checkpoint"))  # nothing to go on from when it is done


def test_another_models_checkpoint_is_refused(photos, tmp_path, monkeypatch):
    learn = infusion.Learn(batch=1, loop=loop.Settings(steps=3))
    config = infusion.Config(photos, "a photo of a cat", "cat", tmp_path / "c.safetensors", learn=learn)
    another_model.is_refused(lambda watch: infusion.train(config, watch), monkeypatch)
