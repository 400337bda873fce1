"""HiFi Tuner: each algorithm against the paper's loop written out, and everything that must change nothing."""

from dataclasses import replace

import pytest
import torch
from likeness.core import files, prompts
from likeness.core.denoiser import guided
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule, sample
from likeness.core.hifi import guidance as leading
from likeness.core.hifi import replacement, subject
from likeness.core.hifi.inversion import invert, null_text
from likeness.core.hifi.subject import Subject, SubjectText
from networks import SCHEDULER, random_prompt, random_unet

STEPS = 10


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def denoiser(request):
    schedule = Schedule.from_scheduler({**SCHEDULER, "prediction_type": request.param})
    return DiffusersDenoiser(random_unet("sd1"), schedule)


@pytest.fixture(scope="module")
def timesteps(denoiser):
    return denoiser.schedule.timesteps(STEPS)


def text(seed, **fields):
    return Text(**random_prompt("sd1", seed, **fields))


def latents(seed, rows=1):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def random_subject(sets=4, width=32, seed=0, word="cat"):
    g = torch.Generator().manual_seed(seed)
    return Subject(torch.randn(sets, 5, width, generator=g), (901, 601, 301, 1)[:sets], word, "context-32")


def last(count=5, tokens=77):
    return subject.places(tokens, 10, count)


# --- the subject -----------------------------------------------------------------------------------------------------


def test_each_timestep_sees_its_own_rows_in_the_last_places(denoiser):
    s = random_subject()
    plain = text(1)
    marked = replace(plain, words={s.mark: last()})
    for t, nearest in ((990, 0), (760, 0), (740, 1), (400, 2), (200, 2), (140, 3), (0, 3)):
        by_hand = plain.with_tokens(torch.cat([plain.tokens[:, :-5], s.rows[nearest][None]], 1))
        ours = denoiser(latents(0), t, marked, hooks=SubjectText(s).hooks)[0]
        torch.testing.assert_close(ours, denoiser(latents(0), t, by_hand)[0], rtol=0, atol=0)


def test_rows_of_one_batch_may_have_other_timesteps_and_other_subjects(denoiser):
    s, other = random_subject(), random_subject(seed=1)
    positive = replace(text(1), words={s.mark: last(), other.mark: ~torch.ones(77, dtype=torch.bool)})
    z, t = latents(0, 2), torch.tensor([880, 20])
    both = denoiser(z, t, text(2).unconditional(), positive, hooks=SubjectText(s).hooks)
    for i in range(2):
        alone = denoiser(z[i : i + 1], int(t[i]), positive, hooks=SubjectText(s).hooks)[0]
        torch.testing.assert_close(both[1][i : i + 1], alone, rtol=1e-4, atol=1e-5)
    plain = denoiser(z, t, text(2), positive)
    torch.testing.assert_close(both[0], plain[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[1], plain[1], atol=1e-3)
    # a subject that stands nowhere changes nothing, bit for bit; nor does strength 0
    for hooks in (SubjectText(other).hooks, SubjectText(s, strength=0).hooks):
        again = denoiser(z, t, text(2), positive, hooks=hooks)
        assert torch.equal(again[0], plain[0]) and torch.equal(again[1], plain[1])


def test_half_a_strength_is_half_way():
    s, tokens = random_subject(1), torch.randn(2, 77, 32)
    where = last()[None].repeat(2, 1)
    half = subject.put(tokens, where, s.at(torch.zeros(2)), 0.5)
    torch.testing.assert_close(half[:, -5:], (tokens[:, -5:] + s.rows) / 2)
    assert torch.equal(half[:, :-5], tokens[:, :-5])


def test_repeated_text_has_the_rows_at_each_repeat():
    s = random_subject(1)
    doubled = subject.put(torch.zeros(1, 154, 32), last().repeat(2)[None], s.at(torch.zeros(1)))
    assert torch.equal(doubled[:, 72:77], s.rows) and torch.equal(doubled[:, 149:], s.rows)
    assert not doubled[:, 77:149].any()


def test_a_prompt_that_is_too_long_is_refused():
    assert subject.places(77, 72, 5).nonzero()[:, 0].tolist() == [72, 73, 74, 75, 76]
    assert subject.places(154, 100, 2).nonzero()[:, 0].tolist() == [152, 153]
    with pytest.raises(ValueError, match="its words fill 73 of 77 text tokens, but the subject takes the last 5"):
        subject.places(77, 73, 5)


def test_used_is_the_position_after_the_last_word():
    pieces = [prompts.Piece(i, f"{i}</w>") for i in range(80)]
    tokenize = lambda words: pieces[: int(words or 0)]  # noqa: E731
    assert [prompts.used(n, tokenize) for n in ("", "3", "75", "76")] == [1, 4, 76, 79]


def test_files(tmp_path):
    s = replace(random_subject(), settings={"steps": 3}, source="abc")
    path = subject.save(tmp_path / "s.safetensors", s, torch.float32)
    again = subject.load(path, base="context-32")
    assert torch.equal(again.rows, s.rows) and again.timesteps == s.timesteps and again.mark == s.mark
    assert (again.word, again.settings, again.source) == ("cat", {"steps": 3}, "abc")
    with pytest.raises(files.LearnedFileError, match="learned on context-32, but the model here is sd1"):
        subject.load(path, base="sd1")
    files.save(path, {"other": s.rows}, files.Header(subject.KIND))
    with pytest.raises(files.LearnedFileError, match="is no whole subject"):
        subject.load(path)


def test_a_subject_of_another_model_is_refused(denoiser):
    random_subject().check(denoiser.sites)
    with pytest.raises(ValueError, match="learned on sdxl, but the model here is context-32"):
        replace(random_subject(), base="sdxl").check(denoiser.sites)
    with pytest.raises(ValueError, match="as many falling timesteps"):
        replace(random_subject(), timesteps=(1, 301, 601, 901))


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
    empty = leading.reference_guided(*args, leading.Guidance(start=10, end=20))
    assert torch.equal(empty, plain[-1])


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


def test_more_steps_come_closer_and_early_stop_stops(denoiser, timesteps, scene):
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


def test_early_stop_takes_fewer_network_calls(denoiser, timesteps, scene):
    positive, negative, z, path, mask = scene

    class Counting:
        schedule, calls = denoiser.schedule, 0

        def __call__(self, *args, **kwargs):
            self.calls += 1
            return denoiser(*args, **kwargs)

    calls = []
    for stop in (0.0, 0.5):
        counting = Counting()
        settings = leading.Guidance(steps=6, stop=stop)
        leading.reference_guided(counting, positive, negative, z, timesteps, path, mask, 5.0, settings)
        calls.append(counting.calls)
    assert calls[0] == 10 + 7 * 7 and calls[1] < 0.7 * calls[0]


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


# --- replacement -----------------------------------------------------------------------------------------------------


class WrittenOut:
    """Algorithm 3's attention with whole maps: the conditional row's columns are the source's, but for the fresh."""

    def __init__(self, maps, mapper, fresh):
        self.maps, self.mapper, self.fresh = maps, mapper, fresh

    def wants(self, site):
        return site.kind == "cross"

    def __call__(self, site, q, k, v, rows, attend):
        maps = site.scores(q, k).softmax(-1)
        for row in rows.conditional.nonzero()[:, 0].tolist():
            for token in range(k.shape[1]):
                if token not in self.fresh:
                    source = self.maps[site.name][int(rows.picture[row])]
                    maps[row, :, :, token] = sum(w * source[:, :, j] for j, w in enumerate(self.mapper[token]) if w)
        return site.merge(maps @ site.split(v))


def where(*positions):
    marks = torch.zeros(77, dtype=torch.bool)
    marks[list(positions)] = True
    return marks


def test_algorithm_3_with_another_word_and_a_subject(denoiser):
    timesteps, s = denoiser.schedule.timesteps(3), random_subject()
    source, null = text(1), text(2)
    # "a cat ." -> "a big dog ." in tokens: position 2 becomes 2 and 3, the rest moves on by one
    mapper = torch.eye(77)[[0, 1, 2, 2, *range(3, 76)]]
    target = replace(text(3), words={"big dog": where(2, 3), s.mark: last()})
    path = null_text(denoiser, source, null, invert(denoiser, source, latents(0), timesteps), 5.0, steps=2)
    ours = replacement.replace_subject(
        denoiser, source, target, null, path, mapper, "big dog", hooks=SubjectText(s).hooks
    )
    z, hooks = path.noise, SubjectText(s).hooks
    with torch.no_grad():
        for i, (t, after) in enumerate(zip(timesteps, [*timesteps[1:], -1])):
            maps = replacement.Maps()
            denoiser(path.drawn[3 - i], t, source, hooks=replace(hooks, attention=maps))
            assert maps.bytes == 4 * sum(m.numel() for m in maps.kept.values())
            written = replace(hooks, attention=WrittenOut(maps.kept, mapper, {2, 3, 72, 73, 74, 75, 76}))
            eps = guided(denoiser, target, null.with_tokens(path.nulls[i]), 5.0, written)(z, t)
            z = denoiser.schedule.step(eps, z, t, after)
    torch.testing.assert_close(ours, z, rtol=1e-3, atol=1e-4)


def test_the_same_subject_gives_the_photo_back(denoiser):
    timesteps = denoiser.schedule.timesteps(4)
    source, null = replace(text(1), words={"cat": where(2)}), text(2)
    path = null_text(denoiser, source, null, invert(denoiser, source, latents(0, 2), timesteps), 5.0, steps=2)
    args = (denoiser, source, source, null, path, torch.eye(77), "cat")
    torch.testing.assert_close(replacement.replace_subject(*args), path.drawn[0], rtol=1e-3, atol=1e-4)
    # maps that sum to one already stay as they are
    again = replacement.replace_subject(*args, renormalise=True)
    torch.testing.assert_close(again, path.drawn[0], rtol=1e-3, atol=1e-4)


def test_replacement_says_what_it_lacks(denoiser, timesteps):
    source, null = text(1), text(2)
    path = invert(denoiser, source, latents(0), timesteps)
    with pytest.raises(ValueError, match="trajectory: it has no null texts"):
        replacement.replace_subject(denoiser, source, source, null, path, torch.eye(77), "cat")
    path = replace(path, nulls=torch.zeros(1), drawn=torch.zeros(1))
    with pytest.raises(ValueError, match="'cat' is not in the target prompt"):
        replacement.replace_subject(denoiser, source, source, null, path, torch.eye(77), "cat")
    assert replacement.with_word("a cat, on a cathedral", "cat", "big dog") == "a big dog, on a cathedral"
    with pytest.raises(ValueError, match="'cow' is not in the caption 'a cat on a mat'"):
        replacement.with_word("a cat on a mat", "cow", "dog")
