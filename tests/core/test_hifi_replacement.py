"""Subject replacement: Algorithm 3 with whole maps written out."""

from dataclasses import replace

import pytest
import torch
from hifi_cases import PREDICTIONS, last, latents, random_denoiser, random_subject, text
from likeness.core.denoiser import guided
from likeness.core.hifi import replacement
from likeness.core.hifi.inversion import invert, null_text
from likeness.core.hifi.subject import SubjectText


@pytest.fixture(scope="module", params=PREDICTIONS)
def denoiser(request):
    return random_denoiser(request.param)


@pytest.fixture(scope="module")
def timesteps(denoiser):
    return denoiser.schedule.timesteps(10)


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
    shown, cleans = [], []
    ours = replacement.replace_subject(
        denoiser, source, target, null, path, mapper, "big dog", hooks=SubjectText(s).hooks,
        shown=lambda i, clean: shown.append(clean),
    )  # fmt: skip
    z, hooks = path.noise, SubjectText(s).hooks
    with torch.no_grad():
        for i, (t, after) in enumerate(zip(timesteps, [*timesteps[1:], -1])):
            maps = replacement.Maps()
            denoiser(path.drawn[3 - i], t, source, hooks=replace(hooks, attention=maps))
            assert maps.bytes == 4 * sum(m.numel() for m in maps.kept.values())
            written = replace(hooks, attention=WrittenOut(maps.kept, mapper, {2, 3, 72, 73, 74, 75, 76}))
            eps = guided(denoiser, target, null.with_tokens(path.nulls[i]), 5.0, written)(z, t)
            cleans.append(denoiser.schedule.x0(eps, z, t))
            z = denoiser.schedule.step(eps, z, t, after)
    torch.testing.assert_close(ours, z, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.stack(shown), torch.stack(cleans), rtol=1e-3, atol=1e-3)


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
