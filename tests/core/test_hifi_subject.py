"""A HiFi subject: the right rows in the right places at every step, and everything that must change nothing."""

from dataclasses import replace

import pytest
import torch
from hifi_cases import PREDICTIONS, last, latents, random_denoiser, random_subject, text
from likeness.core import files, prompts
from likeness.core.hifi import subject
from likeness.core.hifi.maps import SubjectMaps
from likeness.core.hifi.subject import SubjectText


@pytest.fixture(scope="module", params=PREDICTIONS)
def denoiser(request):
    return random_denoiser(request.param)


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


@pytest.mark.parametrize("size", [(8, 8), (24, 16)])
def test_maps_keep_the_layers_of_the_fewest_positions_at_any_size(denoiser, size):
    s, z = random_subject(), torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(3))
    marked, met = replace(text(1), words={s.mark: last()}), []

    class Meeting(SubjectMaps):
        def __call__(self, site, q, *args):
            met.append(q.shape[1])
            return super().__call__(site, q, *args)

    def watched(largest):
        maps = Meeting(s.mark, s.count, largest)
        for t in (901, 601):
            denoiser(z, t, marked, hooks=replace(SubjectText(s).hooks, attention=maps))
        return maps.seen

    none_fits, fewest_fit, all_fit = watched(1), watched(min(met)), watched(max(met))
    assert len(set(met)) > 1 and none_fits.keys() == fewest_fit.keys() == {901, 601}
    for t, maps in none_fits.items():
        assert maps.shape == (5, *size)
        torch.testing.assert_close(maps, fewest_fit[t])
        assert not torch.allclose(maps, all_fit[t])
