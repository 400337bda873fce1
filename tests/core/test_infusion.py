"""Infusion: the shortcut against Eq. 7 written out, and everything that must change nothing."""

from dataclasses import replace

import pytest
import torch
from likeness.core import files
from likeness.core.denoiser import Hooks, guided
from likeness.core.diffusion import sample
from likeness.core.infusion import concept as concepts
from likeness.core.infusion.control import Infusion, Use, shrink
from likeness.core.infusion.sampling import draw

STEPS = [901, 601, 301, 1]


def where(*positions, tokens=77):
    marks = torch.zeros(tokens, dtype=torch.bool)
    marks[list(positions)] = True
    return marks


def random_concept(denoiser, *words, space="text", layers="all", bins=1, seed=0, size=1.0):
    g = torch.Generator().manual_seed(seed)
    blank = concepts.blank(denoiser.sites, words, space, layers, bins)
    return replace(blank, residuals={k: size * torch.randn(r.shape, generator=g) for k, r in blank.residuals.items()})


class WrittenOut:
    """Eq. 7 with whole maps: C's rows use F's softmax and values that have the residuals at the words' tokens."""

    def __init__(self, denoiser, uses):
        self.uses = uses
        self.projections = {site.name: module.to_v for site, module in denoiser._modules.items()}

    def wants(self, site):
        return site.kind == "cross"

    def __call__(self, site, q, k, v, rows, attend):
        maps = site.scores(q, k).softmax(-1)
        for use in self.uses:
            c = use.concept
            for i, word in enumerate(c.words):
                if site.name not in c.residuals:
                    continue
                for row in range(len(q)):
                    if rows.stream[row] == 1 and rows.conditional[row]:
                        delta = c.residuals[site.name][i, int(rows.timestep[row] * c.bins / 1000)] * use.strength
                        value = delta if c.space == "value" else self.projections[site.name](delta)
                        v = v.clone()
                        v[row] += rows.where(word, k.shape[1])[row][:, None] * value
        for row in range(len(q)):
            if rows.stream[row] == 1:
                twins = (rows.stream == 0) & (rows.conditional == rows.conditional[row])
                maps[row] = maps[(twins & (rows.picture == rows.picture[row])).nonzero()[0, 0]]
        return site.merge(maps @ site.split(v))


@pytest.fixture
def z():
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("space", concepts.SPACES)
@pytest.mark.parametrize("tokens", [77, 154])
def test_the_shortcut_is_eq_7(denoiser, make_text, z, space, tokens):
    cat = Use(random_concept(denoiser, "cat", space=space, bins=3), strength=0.7)
    hat = Use(random_concept(denoiser, "red hat", "sand", space=space, layers="mid+up", seed=1))
    places = {"cat": (3, 4, 60), "red hat": (7, 8), "sand": (tokens - 3,)}
    words = {word: where(*at, tokens=tokens) for word, at in places.items()}
    text, null = make_text(1, tokens=tokens, words=words), make_text(2)
    null = null.unconditional()
    infusion, t = Infusion([cat, hat]), torch.tensor([30, 700, 30, 700])
    naive = Hooks(WrittenOut(denoiser, [cat, hat]), streams=2, words=infusion.words)
    twice = torch.cat([z, z.flip(0)])  # the streams' latents differ, as they do after the first step
    for ours, theirs in zip(*(denoiser(twice, t, null, text, hooks=h) for h in (infusion.hooks, naive))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    plain = denoiser(twice, t, null, text)
    assert (ours[2:] - plain[1][2:]).abs().max() > 0.01


def test_foundation_is_the_plain_run(denoiser, make_text, z):
    text, null = make_text(1, words={"cat": where(3)}), make_text(2)
    infusion = Infusion([Use(random_concept(denoiser, "cat"))])
    both = torch.cat([z, z + 1])
    for t in (1, 500, 999):
        hooked = denoiser(both, t, null.unconditional(), text, hooks=infusion.hooks)
        for ours, plain in zip(hooked, denoiser(z, t, null, text)):
            assert (ours[:2] - plain).norm() < 1e-5 * plain.norm()


def test_a_blank_concept_changes_no_bit(denoiser, make_text, z):
    text, null = make_text(1, words={"cat": where(3)}), make_text(2)
    for space in concepts.SPACES:
        infusion = Infusion([Use(concepts.blank(denoiser.sites, ["cat"], space))])
        foundation, customised = draw(denoiser, text, null, infusion, z, STEPS, guidance=5)
        assert torch.equal(foundation, customised)
    plain = sample(denoiser.schedule, guided(denoiser, text, null, 5), z, STEPS)
    assert (foundation - plain).norm() < 1e-4 * plain.norm()
    for use in (
        Use(random_concept(denoiser, "cat"), strength=0),
        Use(random_concept(denoiser, "cat"), start_percent=1),
    ):
        assert torch.equal(*draw(denoiser, text, null, Infusion([use]), z, STEPS, guidance=5))


def test_a_prompt_without_the_word_is_drawn_alone(denoiser, make_text, z, monkeypatch):
    text, null = make_text(1, words={"dog": where(3)}), make_text(2)
    infusion = Infusion([Use(random_concept(denoiser, "cat"))])
    rows = []
    count = denoiser.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    foundation, customised = draw(denoiser, text, null, infusion, z, STEPS)
    count.remove()
    assert rows == [4] * len(STEPS)
    plain = sample(denoiser.schedule, guided(denoiser, text, null, 8), z, STEPS)
    assert torch.equal(foundation, plain) and torch.equal(customised, plain)
    # and inside a double run of another word's picture the rows without it are left alone
    both = denoiser(torch.cat([z, z]), 500, text, hooks=infusion.hooks)[0]
    assert torch.equal(both[:2], both[2:])


def test_rows_that_the_network_sees(denoiser, make_text, z):
    text, null = make_text(1, words={"cat": where(3)}), make_text(2)
    infusion, seen = Infusion([Use(random_concept(denoiser, "cat"))]), {}
    for name, options in {"plain": None, "exact": {}, "fast": {"fast": True}, "one": {"guidance": 1}}.items():
        rows = []
        hook = denoiser.unet.register_forward_pre_hook(lambda module, args, rows=rows: rows.append(len(args[0])))
        if options is None:
            sample(denoiser.schedule, guided(denoiser, text, null, 8), z, STEPS)
        else:
            draw(denoiser, text, null, infusion, z, STEPS, **options)
        hook.remove()
        seen[name] = sum(rows)
    assert (seen["exact"] / seen["plain"], seen["fast"] / seen["plain"], seen["one"] / seen["plain"]) == (2, 1.5, 1)


def test_fast_mode_reuses_the_foundations_unconditional(denoiser, make_text, z):
    text, null = make_text(1, words={"cat": where(3)}), make_text(2)
    infusion, t = Infusion([Use(random_concept(denoiser, "cat"))]), 601
    fast = draw(denoiser, text, null, infusion, z, [t], fast=True, guidance=4)
    exact = draw(denoiser, text, null, infusion, z, [t], guidance=4)
    for a, b in zip(fast, exact):  # in the first step both streams are at the same place
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    fast, exact = (draw(denoiser, text, null, infusion, z, STEPS, guidance=4, fast=f)[1] for f in (True, False))
    assert (fast - exact).norm() > 1e-3 * exact.norm()


def test_without_the_swap_the_customised_maps_are_its_own(denoiser, make_text, z):
    text = make_text(1, words={"cat": where(3, 4)})
    c = random_concept(denoiser, "cat", space="value")
    released = Infusion([Use(c)], swap=False)

    class OwnMaps:
        def wants(self, site):
            return site.kind == "cross"

        def __call__(self, site, q, k, v, rows, attend):
            v = v.clone()
            v[:, 3:5] += c.residuals[site.name][0, 0]
            return site.merge(site.scores(q, k).softmax(-1) @ site.split(v))

    ours = denoiser(z, 500, text, hooks=released.hooks)[0]
    torch.testing.assert_close(ours, denoiser(z, 500, text, hooks=Hooks(OwnMaps()))[0], rtol=1e-4, atol=1e-5)


def test_a_region_limits_the_concept(denoiser, make_text, z):
    text, both = make_text(1, words={"cat": where(3)}), torch.cat([z, z])
    c = random_concept(denoiser, "cat")

    def run(region, batch=both):
        return denoiser(batch, 500, text, hooks=Infusion([Use(c, mask=region)]).hooks)[0]

    everywhere, nowhere = torch.ones(1, 128, 128), torch.zeros(1, 128, 128)
    torch.testing.assert_close(run(everywhere), run(None))
    assert torch.equal(*run(nowhere).chunk(2))
    each = run(torch.cat([everywhere, nowhere]))
    torch.testing.assert_close(each[2], run(None)[2])
    assert torch.equal(each[3], each[1])


def test_a_region_in_half_precision():
    from likeness.core.diffusers import DiffusersDenoiser, Text
    from likeness.core.diffusion import Schedule
    from networks import random_prompt, random_unet

    half = DiffusersDenoiser(random_unet("sd1").half(), Schedule.scaled_linear())
    text = Text(**random_prompt("sd1", words={"cat": where(3)}))
    use = Use(random_concept(half, "cat"), mask=torch.ones(1, 64, 64))
    foundation, customised = half(torch.randn(2, 4, 8, 8), 500, text, hooks=Infusion([use]).hooks)[0]
    assert customised.isfinite().all() and not torch.equal(foundation, customised)


def test_columns_of_large_features_do_not_overflow():
    from likeness.core.attention import Site

    site = Site("x", "mid", 0, "cross", 0, 1, 8, 8)
    q, k = torch.full((1, 2, 8), 200.0).half(), torch.full((1, 4, 8), 100.0).half()
    columns = site.columns(q, k, torch.tensor([[[True, False, False, False]]]))
    assert torch.equal(columns, torch.full((1, 1, 2, 1), 0.25).half())


def test_a_region_at_layers_of_every_size():
    region = torch.zeros(1, 96, 160)
    region[:, :, 80:] = 1
    for height, width in ((12, 20), (6, 10), (3, 5)):
        small = shrink(region, height * width, (12, 20)).reshape(height, width)
        assert small.mean() == 0.5 and small[:, 0].max() == 0 and small[:, -1].min() == 1
    assert shrink(region, 7 * 3, (13, 5)).shape == (1, 21, 1)  # odd sizes are rounded up
    with pytest.raises(ValueError, match="leave the mask out"):
        shrink(region, 11, (12, 20))


def test_start_end_and_time_bins(denoiser, make_text, z):
    text, both = make_text(1, words={"cat": where(3)}), torch.cat([z, z])
    c = random_concept(denoiser, "cat", bins=2)

    def changed(t, use):
        foundation, customised = denoiser(both, t, text, hooks=Infusion([use]).hooks)[0].chunk(2)
        return not torch.equal(foundation, customised)

    late = Use(c, start_percent=0.5)
    assert [changed(t, late) for t in (999, 510, 490, 0)] == [False, False, True, True]
    assert [changed(t, Use(c, end_percent=0.25)) for t in (999, 760, 740)] == [True, True, False]
    first = replace(c, residuals={k: r * torch.tensor([0.0, 1.0])[:, None] for k, r in c.residuals.items()})
    assert [changed(t, Use(first)) for t in (999, 500, 499, 0)] == [True, True, False, False]


def test_two_concepts_on_one_token_are_refused(denoiser, make_text, z):
    cat, kitten = random_concept(denoiser, "cat"), random_concept(denoiser, "kitten")
    with pytest.raises(ValueError, match="share the word 'cat'"):
        Infusion([Use(cat), Use(cat)])
    text = make_text(1, words={"cat": where(3), "kitten": where(3, 4)})
    with pytest.raises(ValueError, match="stand on one token"):
        denoiser(torch.cat([z, z]), 500, text, hooks=Infusion([Use(cat), Use(kitten)]).hooks)


def test_layer_choices(denoiser):
    cross = [s for s in denoiser.sites if s.kind == "cross"]
    count = {name: len(concepts.blank(denoiser.sites, ["cat"], layers=name).residuals) for name in concepts.LAYERS}
    assert count["all"] == len(cross)
    assert count["down+mid"] + count["up"] == count["all"]
    for wrong, message in (({"layers": "some"}, "choose one of all"), ({"space": "key"}, "text or value")):
        with pytest.raises(ValueError, match=message):
            concepts.blank(denoiser.sites, ["cat"], **wrong)


def test_a_concept_on_disk(denoiser, tmp_path):
    c = replace(random_concept(denoiser, "cat", "sand", space="value", bins=2), settings={"steps": 7}, source="abc")
    path = concepts.save(tmp_path / "c.safetensors", c, dtype=torch.float32)
    again = concepts.load(path, base=c.base)
    assert (again.words, again.space, again.settings, again.source) == (c.words, c.space, {"steps": 7}, "abc")
    assert all(torch.equal(again.residuals[k], r) for k, r in c.residuals.items())
    with pytest.raises(files.LearnedFileError, match="load a context-32 model or train again"):
        concepts.load(path, base="sd1")
    header = files.peek(path)
    files.save(tmp_path / "bad.safetensors", {"x": torch.zeros(2)}, header)
    with pytest.raises(files.LearnedFileError, match="no whole concept"):
        concepts.load(tmp_path / "bad.safetensors")


def test_a_concept_of_another_model_is_refused(denoiser):
    c = random_concept(denoiser, "cat")
    c.check(denoiser.sites)
    with pytest.raises(ValueError, match="learned on sd1, but the model here is context-32"):
        replace(c, base="sd1").check(denoiser.sites)
    fewer = [s for s in denoiser.sites if s.part != "mid"]
    with pytest.raises(ValueError, match="the layer mid"):
        c.check(fewer)


def test_half_precision_size_for_stable_diffusion():
    from likeness.core.attention import Site

    widths = [320, 320, 640, 640, 1280, 1280, 1280, *[1280] * 3, *[640] * 3, *[320] * 3]
    sites = [Site(f"down.0.{i}.0.cross", "down", 0, "cross", i, 8, w, 768) for i, w in enumerate(widths)]
    for space, wanted in (("text", 16 * 768 * 2), ("value", sum(widths) * 2)):
        c = concepts.blank(sites, ["cat"], space)
        assert (c.base, 2 * c.parameters) == ("sd1", wanted)
        assert wanted <= 25 * 1024
