"""Learning a subject: the loss written out, Algorithm 1's order, resuming in both stages, messages, the command."""

import another_model
import pytest
import torch
from likeness.cli import main
from likeness.core import files
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from likeness.core.hifi import subject as subjects
from likeness.training import hifi, loop
from likeness.training.data.photos import Group
from networks import random_prompt, random_unet


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def model(request):
    return DiffusersDenoiser(random_unet("sd1"), Schedule.scaled_linear(prediction=request.param))


def text(seed=0, **fields):
    marks = torch.zeros(77, dtype=torch.bool)
    marks[3] = True
    return Text(**random_prompt("sd1", seed, words={"cat": marks}, **fields))


def pictures(count=3, seed=0, size=8, masked=False):
    g = torch.Generator().manual_seed(seed)
    weight = torch.rand(count, 1, size, size, generator=g) if masked else None
    return [Group(torch.randn(count, 4, size, size, generator=g), weight)]


def learn(steps=3, timesteps=2, each=2, **fields):
    settings = loop.Settings(steps=steps, lr=5e-3, clip=0.0, every=2)
    return hifi.Learn(batch=2, timesteps=timesteps, each=each, loop=settings, **fields)


def begin(model, settings, file=None, groups=None, **fields):
    return hifi.Training(model, text(), text(1), groups or pictures(), "cat", settings, checkpoint=file, **fields)


@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_equation_6(model, masked):
    groups = pictures(masked=masked)
    training = begin(model, learn(regularisation=0.3), groups=groups)
    rows = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(9))
    ours = training._loss(700, rows, 0, torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    torch.multinomial(torch.tensor([3.0]), 1, generator=g)
    chosen = torch.randint(3, (2,), generator=g)
    x0, eps = groups[0].data[chosen], torch.randn(2, 4, 8, 8, generator=g)
    xt, target = model.schedule.noise(x0, eps, 700), model.schedule.target(x0, eps, 700)
    tokens = torch.cat([text().tokens[:, :72], rows], 1)
    wrong = (model(xt, 700, text().with_tokens(tokens))[0] - target).square()
    mask = groups[0].weight[chosen].expand_as(wrong) if masked else torch.ones_like(wrong)
    distance = (rows - text(1).tokens[:, 72:]).square().mean()
    torch.testing.assert_close(ours, (wrong * mask).sum() / mask.sum() + 0.3 * distance)


def test_algorithm_1(model):
    """All timesteps first, then one after the other from noisy to clean, each from the one before, Adam afresh."""
    settings = learn()
    training = begin(model, settings)
    subject = training.run()
    rows = torch.nn.Parameter(text(1).tokens[:, 72:].clone())
    sets = []
    for stage, time in enumerate([None, *model.schedule.timesteps(2)]):
        optimiser = torch.optim.Adam([rows], lr=5e-3)
        for step in range(3 if time is None else 2):
            seed = ((stage) * 1_000_003 + step) * 4099
            optimiser.zero_grad()
            training._loss(time, rows, step, torch.Generator().manual_seed(seed)).backward()
            optimiser.step()
        sets.append(rows.detach().clone())
    torch.testing.assert_close(subject.rows, torch.cat(sets[1:]), rtol=1e-4, atol=1e-4)
    assert subject.timesteps == tuple(model.schedule.timesteps(2)) == (501, 1)
    assert (subject.word, subject.base, subject.settings["steps"]) == ("cat", "context-32", 7)


def test_it_starts_from_the_null_text_and_is_held_there(model):
    untouched = begin(model, learn(timesteps=0)).subject()
    assert torch.equal(untouched.rows, text(1).tokens[:, 72:]) and untouched.timesteps == (999,)
    start = torch.full((1, 5, 32), 6.0)
    assert torch.equal(begin(model, learn(timesteps=0), start=start).subject().rows, start)
    # far from the null text, a strong hold moves it towards it at Adam's full rate, whatever the pictures say
    held = begin(model, learn(4, 0, regularisation=1e6), start=start).run().rows
    towards = (text(1).tokens[:, 72:] - start).sign() * 4 * 5e-3
    torch.testing.assert_close(held - start, towards, rtol=0, atol=2e-4)


@pytest.mark.parametrize("stop_at", [2, 3, 4, 6])
def test_resumes_bit_for_bit_in_both_stages(model, tmp_path, stop_at):
    unbroken = begin(model, learn()).run()
    file, seen = tmp_path / "s.checkpoint", []

    def stop(progress):
        seen.append((progress.step, progress.steps))
        if progress.step == stop_at:
            raise loop.Cancelled

    with pytest.raises(loop.Cancelled):
        begin(model, learn(), file).run(stop)
    assert seen == [(i + 1, 7) for i in range(stop_at)]
    again = begin(model, learn(), file)
    assert again.step == (stop_at if stop_at <= 3 else 3 + (stop_at - 4) // 2 * 2)
    resumed = again.run()
    assert torch.equal(resumed.rows, unbroken.rows) and resumed.settings == unbroken.settings
    again.remove()
    assert not list(tmp_path.iterdir())


def test_until_stops_between_timesteps_and_goes_on(model):
    unbroken, training = begin(model, learn()).run(), begin(model, learn())
    steps = []
    while training.step < training.learn.steps:
        training.run(until=training.step + 1)
        steps.append(training.step)
    assert steps == [1, 2, 3, 5, 7]
    assert torch.equal(training.subject().rows, unbroken.rows)


def test_a_subject_under_way_has_the_rows_that_it_has(model):
    training = begin(model, learn())
    early = training.run(until=2)
    assert early.rows.shape == (1, 5, 32) and early.timesteps == (501,)
    later = training.run(until=5)
    assert len(later.rows) == 1 and not torch.equal(later.rows, early.rows)


def test_the_losses_are_those_of_both_stages_also_after_a_stop(model, tmp_path):
    unbroken, file, seen = begin(model, learn()), tmp_path / "s.checkpoint", []
    unbroken.run(lambda progress: seen.append(progress.loss))
    assert unbroken.losses == seen and len(seen) == 7

    def stop(progress):
        if progress.step == 6:
            raise loop.Cancelled

    with pytest.raises(loop.Cancelled):
        begin(model, learn(), file).run(stop)
    again = begin(model, learn(), file)
    assert again.losses == seen[:5]
    again.run(until=6)
    assert again.losses == seen and begin(model, learn(), file).losses == seen


def test_checkpoints_of_before_the_second_stages_losses_go_on(model, tmp_path):
    file, unbroken = tmp_path / "s.checkpoint", begin(model, learn())
    old = begin(model, learn(), file)
    old.run(until=5)
    old.trainer.losses += old._later  # where they were kept
    file.unlink()
    old.trainer.save()
    tensors, header = files.load(tmp_path / "s.timesteps", kind=hifi.KIND)
    files.save(tmp_path / "s.timesteps", {"sets": tensors["sets"].clone()}, header)
    again = begin(model, learn(), file)
    assert again.step == 5 and torch.equal(again.run().rows, unbroken.run().rows)
    assert again.losses == unbroken.losses[:3] + unbroken.losses[5:]


def test_a_thousand_timesteps(model):
    training = begin(model, learn(steps=1, timesteps=1000, each=1))
    training.sets = [torch.zeros(1, 5, 32)] * 1000
    assert len(training.subject().timesteps) == 1000


def test_another_training_is_refused(model, tmp_path):
    file = tmp_path / "s.checkpoint"
    begin(model, learn(), file).run()
    with pytest.raises(ValueError, match="of a training with other settings, data or start"):
        begin(model, learn(regularisation=0.7), file)
    # more steps of the first stage make the second stage's rows void
    longer = begin(model, learn(steps=4), file)
    assert longer.step == 3 and not longer.sets


def test_mistakes_are_named(model):
    with pytest.raises(ValueError, match="there is no picture"):
        begin(model, learn(), groups=[Group(torch.zeros(0, 4, 8, 8))])
    with pytest.raises(ValueError, match="'dog' is not in the training prompt"):
        hifi.Training(model, text(), text(1), pictures(), "dog", learn())
    with pytest.raises(ValueError, match="must be at least 1"):
        hifi.Learn(rows=0)


def test_saving_memory_changes_no_gradient():
    model = DiffusersDenoiser(random_unet("sd1"), Schedule.scaled_linear())
    plain = begin(model, learn(1, 0)).run()
    model.save_memory()
    torch.testing.assert_close(begin(model, learn(1, 0)).run().rows, plain.rows)


def photograph(folder):
    from likeness.core.demo import world
    from PIL import Image

    for i, shot in enumerate(world.photos(world.held_out_subjects(1, "cat")[0], 2)):
        for name, pixels in (("photos", shot.image), ("masks", shot.mask.expand(3, -1, -1))):
            (folder / name).mkdir(exist_ok=True)
            array = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(array).save(folder / name / f"{i}.png")


def test_another_models_checkpoint_is_refused_by_the_command(tmp_path, monkeypatch):
    photograph(tmp_path)
    config = hifi.Config(tmp_path / "photos", "a photo of a cat", "cat", tmp_path / "s.safetensors", learn=learn())
    another_model.is_refused(lambda watch: hifi.train(config, watch), monkeypatch)


def test_the_command(tmp_path, monkeypatch, capsys):
    photograph(tmp_path)
    monkeypatch.chdir(tmp_path)
    common = ["train", "hifi", "--images", "photos", "--masks", "masks", "--prompt"]
    settings = {"--learn.loop.steps": "2", "--learn.timesteps": "2", "--learn.each": "1", "--learn.batch": "1"}
    rest = ["--word", "cat", *(each for pair in settings.items() for each in pair)]
    main([*common, "a photo of a cat", *rest])
    subject = subjects.load("subject.safetensors")
    assert subject.rows.shape == (2, 5, 192) and subject.settings["steps"] == 4
    assert "wrote subject.safetensors" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masks", "photos", "subject.safetensors"]
    main([*common, "a photo of a cat", *rest, "--start", "word", "--out", "word.safetensors"])
    word = subjects.load("word.safetensors")
    assert word.source == subject.source and not torch.allclose(word.rows, subject.rows, atol=0.1)
    with pytest.raises(SystemExit, match="its words fill 73 of 77 text tokens"):
        main([*common, "a photo of a cat " + "on the beach " * 22 + "now", *rest])
