"""Both hooks over diffusers U-Nets of all layouts, against the untouched network and diffusers' own means."""

from dataclasses import replace

import pytest
import torch
from likeness.core.attention import MuteWord, Rows, base_of
from likeness.core.denoiser import Denoiser, Hooks, guided
from networks import random_unet


class Watch:
    """Takes part everywhere and changes nothing; remembers what it was shown."""

    def __init__(self):
        self.seen = []

    def wants(self, site):
        return True

    def __call__(self, site, *args):
        self.seen.append((site, *args))
        if len(args) == 5:
            q, k, v, _, attend = args
            return attend(q, k, v)
        return None


@pytest.fixture
def z():
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(7))


def test_it_is_a_denoiser_and_passes_the_network_through(denoiser, make_text, z):
    assert isinstance(denoiser, Denoiser)
    text = make_text(1)
    extra = {k: {n: v.expand(2, -1) for n, v in d.items()} for k, d in text.extra.items()}
    plain = denoiser.unet(z, 500, text.tokens.expand(2, -1, -1), **extra).sample
    assert torch.equal(denoiser(z, 500, text)[0], plain)


def test_hooks_that_change_nothing_leave_every_bit(denoiser, make_text, z):
    texts = make_text(1), make_text(2, conditional=False)
    attention, skips = Watch(), Watch()
    plain = denoiser(z, 500, *texts)
    watched = denoiser(z, 500, *texts, hooks=Hooks(attention=attention, skips=skips))
    assert all(torch.equal(a, b) for a, b in zip(plain, watched))
    assert [s for s, *_ in attention.seen] == list(denoiser.sites)
    assert [s for s, *_ in skips.seen] == list(denoiser.skips)
    for site, q, k, v, *_ in attention.seen:
        assert q.shape[-1] == v.shape[-1] == site.width
        assert k.shape[1] == (77 if site.kind == "cross" else q.shape[1])
        assert q.shape[1] == (16 // 2**site.level) ** 2
    for skip, features, _ in skips.seen:
        assert features.shape == (4, skip.channels, 16 // 2**skip.level, 16 // 2**skip.level)
    again = denoiser(z, 500, *texts)
    assert torch.equal(again[0], plain[0]), "hooks must leave with the call"


def test_rows_say_which_is_which(denoiser, make_text, z):
    attention = Watch()
    word = torch.zeros(77, dtype=torch.bool)
    word[3:5] = True
    texts = make_text(1, words={"cat": word}), make_text(2, tokens=154, conditional=False)
    denoiser(z, 321, *texts, hooks=Hooks(attention=attention, streams=2, words=("cat", "dog")))
    rows: Rows = attention.seen[0][4]
    assert rows.conditional.tolist() == [True, True, False, False]
    guided(denoiser, make_text(1), make_text(2), 2.0, Hooks(attention=attention))(z, 9)
    assert attention.seen[-1][4].conditional.tolist() == [False, False, True, True], "guidance knows the roles"
    assert rows.stream.tolist() == [0, 1, 0, 1]
    assert rows.timestep.tolist() == [321.0] * 4
    assert rows.where("cat", 154).nonzero().tolist() == [[r, i] for r in (0, 1) for i in (3, 4, 80, 81)]
    assert not rows.where("dog", 154).any() and not rows.where("bird", 77).any()


def test_positions_repeat_as_tokens_do(denoiser, make_text, z):
    attention, word = Watch(), torch.zeros(154, dtype=torch.bool)
    word[100] = True
    texts = make_text(1, tokens=154, words={"cat": word}), make_text(2, tokens=231)
    denoiser(z, 321, *texts, hooks=Hooks(attention=attention, words=("cat",)))
    where = next(call for call in attention.seen if call[0].kind == "cross")[4].where("cat", 462)
    assert where.nonzero().tolist() == [[row, i] for row in (0, 1) for i in (100, 254, 408)]


def test_texts_of_different_length_do_not_disturb_each_other(denoiser, make_text, z):
    short, long = make_text(1), make_text(2, tokens=154)
    together = denoiser(z, 500, short, long)
    torch.testing.assert_close(together[0], denoiser(z, 500, short)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[1], denoiser(z, 500, long)[0], rtol=1e-4, atol=1e-5)


def test_skip_residuals_are_diffusers_controlnet_residuals(denoiser, make_text, z):
    g = torch.Generator().manual_seed(8)
    residuals = [torch.randn(2, s.channels, *[16 // 2**s.level] * 2, generator=g) for s in denoiser.skips]

    class Add:
        def wants(self, skip):
            return True

        def __call__(self, skip, features, rows):
            return residuals[skip.order]

    text = make_text(1)
    ours = denoiser(z, 500, text, hooks=Hooks(skips=Add()))[0]
    extra = {k: {n: v.expand(2, -1) for n, v in d.items()} for k, d in text.extra.items()}
    theirs = denoiser.unet(
        z,
        500,
        text.tokens.expand(2, -1, -1),
        **extra,
        down_block_additional_residuals=tuple(residuals[:-1]),
        mid_block_additional_residual=residuals[-1],
    ).sample
    assert torch.equal(ours, theirs)


def test_skip_features_are_those_before_a_controlnet(denoiser, make_text, z):
    clean, controlled = Watch(), Watch()
    text = make_text(1)
    residuals = tuple(torch.ones(1, s.channels, *[16 // 2**s.level] * 2) for s in denoiser.skips)
    control = dict(down_block_additional_residuals=residuals[:-1], mid_block_additional_residual=residuals[-1])
    denoiser(z, 500, text, hooks=Hooks(skips=clean))
    with_control = type(text)(text.tokens, extra={**text.extra, **control})
    denoiser(z, 500, with_control, hooks=Hooks(skips=controlled))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(clean.seen, controlled.seen))


def test_a_muted_word_has_no_column(denoiser, make_text, z):
    site = next(s for s in denoiser.sites if s.kind == "cross")
    g = torch.Generator().manual_seed(9)
    q, k, v = (torch.randn(1, n, site.width, generator=g) for n in (6, 77, 77))
    where = torch.zeros(1, 1, 77, dtype=torch.bool)
    where[..., 4] = True
    rows = Rows(torch.ones(1, dtype=torch.bool), torch.zeros(1), torch.zeros(1), where, torch.zeros(1), ("cat",))
    maps = site.scores(q, k).softmax(-1)
    torch.testing.assert_close(site.columns(q, k, where), maps[..., 4:5])
    maps[..., 4] = 0

    def attend(q, k, v):
        return site.merge(site.scores(q, k).softmax(-1) @ site.split(v))

    muted = MuteWord("cat")(site, q, k, v, rows, attend)
    torch.testing.assert_close(muted, site.merge(maps @ site.split(v)))
    word = where[0, 0]
    text, hooks = make_text(1, words={"cat": word}), Hooks(attention=MuteWord("cat"), words=("cat",))
    assert not torch.equal(denoiser(z, 500, text, hooks=hooks)[0], denoiser(z, 500, text)[0])
    assert torch.equal(denoiser(z, 500, make_text(1), hooks=hooks)[0], denoiser(z, 500, make_text(1))[0])


def test_one_timestep_a_row(denoiser, make_text, z):
    text, times = make_text(1), torch.tensor([10, 700])
    both = denoiser(z, times, text)[0]
    for i, t in enumerate(times.tolist()):
        torch.testing.assert_close(both[i], denoiser(z, t, text)[0][i], rtol=1e-4, atol=1e-5)


def test_conditionings_with_different_extras(denoiser, make_text, z):
    plain, text = make_text(2), make_text(1)
    residuals = tuple(torch.ones(1, s.channels, *[16 // 2**s.level] * 2) for s in denoiser.skips)
    control = dict(down_block_additional_residuals=residuals[:-1], mid_block_additional_residual=residuals[-1])
    controlled = type(text)(text.tokens, extra={**text.extra, **control})
    together = denoiser(z, 500, plain, controlled)
    assert torch.equal(together[0], denoiser(z, 500, plain)[0])
    assert torch.equal(together[1], denoiser(z, 500, controlled)[0])
    assert not torch.allclose(together[1], denoiser(z, 500, text)[0])


def test_a_half_precision_network_takes_and_gives_float32(layout, denoiser, make_text, z):
    from likeness.core.diffusers import DiffusersDenoiser

    class Residual(Watch):
        def __call__(self, site, *args):
            return torch.zeros(args[0].shape) if len(args) == 2 else super().__call__(site, *args)

    half = DiffusersDenoiser(random_unet(layout).to(torch.bfloat16), denoiser.schedule)
    plain = half(z, 500, make_text(1))[0]
    watched = half(z, 500, make_text(1), hooks=Hooks(attention=Watch(), skips=Residual()))[0]
    assert plain.dtype == torch.float32 and torch.equal(plain, watched)
    assert (plain - denoiser(z, 500, make_text(1))[0]).abs().max() < 0.1


def test_the_base_is_told_by_the_text(denoiser):
    assert base_of(denoiser.sites) == "context-32"
    widths = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
    for name, width in widths.items():
        assert base_of([replace(site, context=width) for site in denoiser.sites]) == name


def test_guidance_is_the_formula(denoiser, make_text, z):
    c, u = make_text(1), make_text(2, conditional=False)
    cond, uncond = denoiser(z, 500, c)[0], denoiser(z, 500, u)[0]
    torch.testing.assert_close(guided(denoiser, c, u, 7.5)(z, 500), 7.5 * cond - 6.5 * uncond, rtol=1e-3, atol=1e-4)
    assert torch.equal(guided(denoiser, c, u, 1)(z, 500), cond)


def test_errors_say_what_was_wrong(denoiser, make_text, z):
    with pytest.raises(ValueError, match="3 rows for a batch of 2"):
        denoiser(z, 500, make_text(1, rows=3))
    with pytest.raises(ValueError, match="2 latents can't hold 3"):
        denoiser(z, 500, make_text(1), hooks=Hooks(attention=Watch(), streams=3))


def test_a_failing_method_leaves_the_network_untouched(denoiser, make_text, z):
    class Fail(Watch):
        def __call__(self, site, *args):
            raise RuntimeError("stop")

    plain = denoiser(z, 500, make_text(1))[0]
    for hooks in (Hooks(attention=Fail()), Hooks(skips=Fail())):
        with pytest.raises(RuntimeError, match="stop"):
            denoiser(z, 500, make_text(1), hooks=hooks)
        assert torch.equal(denoiser(z, 500, make_text(1))[0], plain)
