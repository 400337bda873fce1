"""Toffee's core: injection that changes nothing where it should, written out; matching and blending; nine channels."""

import pytest
import torch
from likeness.core import files, weights
from likeness.core.denoiser import Hooks, guided
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule, sample
from likeness.core.reach import Reach
from likeness.core.toffee import adapter as adapters
from likeness.core.toffee.adapter import Injection
from likeness.core.toffee.inpainting import masked_channels, widened
from likeness.core.toffee.matching import blend, match, picture
from likeness.core.toffee.tokens import Tokens, blended, encode, same
from likeness.core.vision.preprocess import Preprocess
from networks import LAYOUTS, SCHEDULER, random_prompt, random_unet

SCHEDULE = Schedule.from_scheduler(SCHEDULER)
WIDTH = 24


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(scope="module")
def denoiser(layout):
    return DiffusersDenoiser(random_unet(layout), SCHEDULE)


@pytest.fixture(scope="module")
def sd1():
    return DiffusersDenoiser(random_unet("sd1"), SCHEDULE)


def learned(denoiser, rank=2, seed=0):
    """A ToffeeNet adapter whose every tensor is random."""
    torch.manual_seed(seed)
    delta = None if rank == 0 else weights.blank(weights.layers_of(denoiser.unet), rank)
    adapter = adapters.blank("toffeenet", denoiser.sites, WIDTH, delta, dino="some/dino", source="abc")
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.05 * torch.randn(p.shape, generator=g)
    return adapter.eval().requires_grad_(False)


def tokens(rows=1, seed=4):
    return torch.randn(rows, 17, WIDTH, generator=torch.Generator().manual_seed(seed))


def text(layout="sd1", seed=0):
    return Text(**random_prompt(layout, seed))


def latents(rows=1, seed=1):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def draw(denoiser, layout, hooks=None):
    predict = guided(denoiser, text(layout, 1), text(layout, 2), 3.0, hooks)
    with torch.no_grad():
        return sample(SCHEDULE, predict, latents(), SCHEDULE.timesteps(4))


# --- injection


@torch.no_grad()
def test_nothing_changes_without_it(denoiser, layout):
    plain = draw(denoiser, layout)
    blank = adapters.blank("refiner", denoiser.sites, WIDTH)
    assert torch.equal(draw(denoiser, layout, Injection(blank, tokens(), 1000).hooks), plain)
    random = learned(denoiser)
    assert torch.equal(draw(denoiser, layout, Injection(random, tokens(), 1000, Reach(0.0)).hooks), plain)
    assert not torch.allclose(draw(denoiser, layout, Injection(random, tokens(), 1000).hooks), plain, atol=1e-2)


@torch.no_grad()
def test_a_dropped_condition_is_the_branch_left_out(denoiser, layout):
    adapter = learned(denoiser, rank=0)
    dropped = draw(denoiser, layout, Injection(adapter, torch.zeros(1, 17, WIDTH), 1000).hooks)
    assert torch.equal(dropped, draw(denoiser, layout))


@torch.no_grad()
def test_only_reached_rows_change(sd1):
    adapter = learned(sd1)
    z, prompts = latents(2), (text(seed=2).unconditional(), text(seed=1))
    for t, changed in ((999, False), (600, True), (100, False)):
        plain = sd1(z, t, *prompts)
        ours = sd1(z, t, *prompts, hooks=Injection(adapter, tokens(), 1000, Reach(1.0, 0.3, 0.6)).hooks)
        assert all(torch.equal(a, b) is not changed for a, b in zip(plain, ours))


@torch.no_grad()
def test_the_negative_prompt_sees_the_trained_network_without_dino(sd1):
    """As training dropped both conditions: changed weights, no tokens."""
    adapter, z = learned(sd1), latents(2)
    ours = sd1(z, 500, text(seed=2).unconditional(), text(seed=1), hooks=Injection(adapter, tokens(), 1000).hooks)[0]
    dropped = Injection(adapter, torch.zeros(1, 17, WIDTH), 1000).hooks
    assert torch.allclose(ours, sd1(z, 500, text(seed=2), hooks=dropped)[0], atol=1e-6)
    alone = learned(sd1, rank=0)
    ours = sd1(z, 500, text(seed=2).unconditional(), text(seed=1), hooks=Injection(alone, tokens(), 1000).hooks)[0]
    assert torch.equal(ours, sd1(z, 500, text(seed=2).unconditional(), text(seed=1))[0])


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 2])
def test_written_out(denoiser, layout, rank):
    """Every layer's second attention by hand, inside a U-Net whose weights really are changed."""
    adapter, strength = learned(denoiser, rank), 0.7
    ours = denoiser(latents(), 500, text(layout, 1), hooks=Injection(adapter, tokens(), 1000, Reach(strength)).hooks)[0]

    changed = DiffusersDenoiser(random_unet(layout), SCHEDULE)
    for name, layer in changed.unet.named_modules():
        parts = {k.split("/")[1]: v for k, v in adapter.delta.whole().items() if k.split("/")[0] == name}
        if "up" in parts:
            parts["weight"] = (parts["up"].flatten(1) @ parts["down"].flatten(1)).reshape(layer.weight.shape)
        for key in ("weight", "bias"):
            if key in parts:
                getattr(layer, key).add_(parts[key])
    seen = adapter.project(tokens())

    class Beside:
        def wants(self, site):
            return site.kind == "cross"

        def __call__(self, site, q, k, v, rows, attend):
            name = site.name.replace(".", ":")
            keys, values = (seen @ m[name].weight.T for m in (adapter.to_k, adapter.to_v))
            heads = [
                (a @ b.transpose(1, 2) / a.shape[-1] ** 0.5).softmax(-1) @ c
                for a, b, c in zip(*(x.chunk(site.heads, -1) for x in (q, keys, values)))
            ]
            return attend(q, k, v) + strength * torch.cat(heads, -1)

    wanted = changed(latents(), 500, text(layout, 1), hooks=Hooks(attention=Beside()))[0]
    assert (ours - wanted).abs().max() < 3e-5 * wanted.abs().max()


@torch.no_grad()
def test_every_picture_has_its_own(sd1):
    adapter, own, z = learned(sd1), tokens(3), latents(3)
    together = sd1(z, 500, text(seed=1), hooks=Injection(adapter, own, 1000).hooks)[0]
    for i in range(3):
        alone = sd1(z[i : i + 1], 500, text(seed=1), hooks=Injection(adapter, own[i : i + 1], 1000).hooks)[0]
        assert (alone - together[i : i + 1]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("rank", [0, None, 2])
def test_file(sd1, tmp_path, rank):
    adapter = learned(sd1, rank)
    adapter.settings["steps"] = 7
    path = adapters.save(tmp_path / "a.safetensors", adapter, torch.float32)
    back = adapters.load(path, base="context-32")
    a, b = adapter.state_dict(), back.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    about = (back.model, back.dino, back.source, back.settings)
    assert about == ("toffeenet", "some/dino", "abc", {"steps": 7})
    with pytest.raises(files.LearnedFileError, match="was learned on context-32, but the model here is sd2"):
        adapters.load(path, base="sd2")
    kept, header = files.load(path, kind=adapters.KIND)
    files.save(path, {k: v for k, v in kept.items() if not k.startswith("to_k.mid")}, header)
    with pytest.raises(files.LearnedFileError, match="is no whole adapter"):
        adapters.load(path)


def test_mistakes_are_named(sd1):
    adapter = learned(sd1, 0)
    with pytest.raises(ValueError, match=r"dino: tokens of shape .* takes tokens of 24 numbers"):
        Injection(adapter, torch.zeros(1, 17, 32), 1000)
    other = DiffusersDenoiser(random_unet("sd2"), SCHEDULE)
    adapter.check(sd1.sites)
    adapter.base = "sd1"
    with pytest.raises(ValueError, match="the toffeenet was trained on sd1, but the model here is context-32"):
        adapter.check(other.sites)
    with pytest.raises(ValueError, match="model is 'refine'; choose refiner, view-generator, toffeenet"):
        adapters.blank("refine", sd1.sites, WIDTH)


# --- matching


def test_permuted_tokens_are_matched_back():
    g = torch.Generator().manual_seed(0)
    subject = torch.randn(64, 32, generator=g)
    order = torch.randperm(64, generator=g)
    found = match(subject[order] * 3.0, subject)  # cosine knows no length
    assert torch.equal(found.index, order)
    assert torch.allclose(found.similarity, torch.ones(64), atol=1e-6)


def test_matching_is_the_formula():
    g = torch.Generator().manual_seed(1)
    y, x = torch.randn(20, 8, generator=g), torch.randn(30, 8, generator=g)
    cosine = torch.nn.functional.cosine_similarity(y[:, None], x[None], dim=-1)
    found = match(y, x)
    assert torch.equal(found.index, cosine.argmax(1)) and torch.allclose(found.similarity, cosine.amax(1))
    mask = torch.arange(30) < 5
    assert int(match(y, x, mask).index.max()) < 5


def test_blending_is_the_formula():
    g = torch.Generator().manual_seed(2)
    y, x = torch.randn(17, 8, generator=g), torch.randn(17, 8, generator=g)
    mixed, found = blend(y, x, threshold=0.4, share=0.3)
    assert torch.equal(mixed[0], y[0])
    assert 0 < int((found.similarity > 0.4).sum()) < 16
    for i in range(16):
        wanted = y[1 + i]
        if found.similarity[i] > 0.4:
            wanted = 0.3 * x[1 + found.index[i]] + 0.7 * wanted
        assert torch.allclose(mixed[1 + i], wanted, atol=1e-6)
    assert torch.allclose(blend(y, y, 0.0, 0.8)[0], y, atol=1e-6)
    assert torch.equal(blend(y, x, 1.1, 0.8)[0], y) and torch.equal(blend(y, x, 0.0, 0.0)[0], y)


def test_matching_mistakes_are_named():
    with pytest.raises(ValueError, match="don't compare; encode both pictures with one DINO"):
        match(torch.zeros(4, 8), torch.zeros(4, 16))
    with pytest.raises(ValueError, match="mask: no patch of the subject lies in it"):
        match(torch.zeros(4, 8), torch.zeros(4, 8), torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"share is 1.5; it must lie within 0\.\.1"):
        blend(torch.zeros(4, 8), torch.zeros(4, 8), share=1.5)


def test_the_picture_of_matches():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(16, 8, generator=g)
    images = torch.full((2, 3, 32, 32), 0.5)
    shown = picture(images[0], images[1], match(x.flip(0), x), ((4, 4), (4, 4)), 0.5)
    assert shown.shape == (3, 32, 64)
    # matched patches share their colour: the generated side is the subject's turned by half
    assert torch.allclose(shown[:, :, 32:], shown[:, :, :32].flip(1, 2), atol=1e-6)


# --- nine channels


@torch.no_grad()
def test_five_more_channels_change_nothing_yet(denoiser, layout):
    wide = DiffusersDenoiser(widened(denoiser.unet), SCHEDULE)
    assert wide.unet.config.in_channels == 9 and denoiser.unet.config.in_channels == 4
    more = Text(**random_prompt(layout, 1), channels=torch.randn(1, 5, 8, 8))
    a, b = wide(latents(), 500, more)[0], denoiser(latents(), 500, text(layout, 1))[0]
    assert (a - b).abs().max() < 1e-5 * b.abs().max()
    assert widened(wide.unet).config.in_channels == 9
    with pytest.raises(ValueError, match="its U-Net takes 6 channels"):
        widened(random_unet("sd1", channels=6))


def test_what_is_under_the_mask_is_black():
    seen = []

    def encode(images):
        seen.append(images)
        return torch.zeros(len(images), 4, 4, 4)

    images, mask = torch.full((2, 3, 32, 32), 0.7), torch.zeros(1, 1, 32, 32)
    mask[..., 16:, :] = 1
    channels = masked_channels(images, mask, encode)
    assert channels.shape == (2, 5, 4, 4)
    assert torch.equal(channels[:, 0], torch.tensor([0.0, 0, 1, 1])[:, None].expand(2, 4, 4))
    assert torch.equal(seen[0][..., 16:, :], torch.zeros(2, 3, 16, 32)) and bool((seen[0][..., :16, :] == 0.7).all())
    with pytest.raises(ValueError, match="mask: it is empty"):
        masked_channels(images, torch.zeros(1, 1, 32, 32), encode)
    with pytest.raises(ValueError, match=r"mask: it is \(8, 8\), the picture \(32, 32\)"):
        masked_channels(images, torch.ones(1, 1, 8, 8), encode)


# --- pictures as a DINO describes them


class Grey:
    """A DINO that looks at the middle square and says of each of 4 x 4 patches how bright it is."""

    class model:
        class config:
            patch_size = 8

    preprocess = Preprocess(32, (32, 32), "bilinear")

    def tokens(self, images):
        places = torch.nn.functional.adaptive_avg_pool2d(self.preprocess.shown(images), 4).flatten(2).transpose(1, 2)
        return torch.cat([places.mean(1, keepdim=True), places], 1)


def test_patches_of_a_mask_are_those_that_the_dino_sees():
    mask = torch.zeros(1, 1, 64, 128)
    mask[..., :32, 32:64] = 1  # the upper left quarter of the middle square
    images = torch.full((2, 3, 64, 128), 0.25)
    tokens = encode(Grey(), "grey", images, mask)
    quarter = torch.zeros(4, 4, dtype=torch.bool)
    quarter[:2, :2] = True
    assert tokens.grid == (4, 4) and tokens.size == (64, 128) and tokens.pictures.shape == (2, 3, 32, 32)
    assert torch.equal(tokens.subject, quarter.flatten().expand(2, -1))
    assert torch.allclose(tokens.pictures[0, 0, 4:10, 4:10], torch.tensor(0.25))  # the rest is white
    assert bool((tokens.pictures[..., 20:, :] == 1).all())
    tiny = torch.zeros(1, 1, 64, 128)
    tiny[..., 2:5, 34:37] = 1  # less than half of any patch
    assert int(tokens.of(tiny).subject.sum()) == 2
    outside = torch.zeros(1, 1, 64, 128)
    outside[..., :20] = 1
    with pytest.raises(ValueError, match="mask: nothing of it lies in the middle of the picture"):
        tokens.of(outside)
    with pytest.raises(ValueError, match="mask: 1 of 64 x 64 pixels for 2 pictures of 128 x 64"):
        tokens.of(outside[..., :64])


def test_blended_tokens_of_a_batch():
    g = torch.Generator().manual_seed(3)
    tokens = [torch.randn(n, 17, 8, generator=g) for n in (2, 1)]
    generated, subject = (Tokens(t, (4, 4), "a/DINO", torch.zeros(len(t), 3, 8, 8), (8, 8), None) for t in tokens)
    mixed, pictures, shares = blended(generated, subject, 0.6, 0.6)
    for i in range(2):
        wanted, found = blend(tokens[0][i], tokens[1][0], 0.6, 0.6)
        assert torch.equal(mixed.tokens[i], wanted)
        assert shares[i] == pytest.approx(float((found.similarity > 0.6).float().mean())) and 0 < shares[i] < 1
    assert pictures.shape == (2, 3, 8, 16)
    assert same("a/DINO", "dino") and not same("a/dino", "a/dinov2")
    with pytest.raises(ValueError, match="subject: 2 pictures for 1 generated ones"):
        blended(subject, generated)


# --- rows


@torch.no_grad()
def test_fewer_subjects_than_pictures_repeat_in_turn(sd1):
    adapter, own, z = learned(sd1, 0), tokens(2), latents(4)
    four = sd1(z, 500, text(seed=1), hooks=Injection(adapter, own, 1000).hooks)[0]
    assert torch.equal(four, sd1(z, 500, text(seed=1), hooks=Injection(adapter, own.repeat(2, 1, 1), 1000).hooks)[0])
    with pytest.raises(ValueError, match="dino: tokens of 2 pictures for 3 that are drawn"):
        sd1(z[:3], 500, text(seed=1), hooks=Injection(adapter, own, 1000).hooks)


@torch.no_grad()
def test_rows_that_lie_apart_are_reached_as_those_that_lie_together(sd1):
    adapter, z = learned(sd1), latents(1)
    prompts = [text(seed=1), text(seed=2).unconditional(), text(seed=3)]
    apart = sd1(z, 500, *prompts, hooks=Injection(adapter, tokens(), 1000, Reach(0.7)).hooks)
    together = sd1(z, 500, *prompts[::2], prompts[1], hooks=Injection(adapter, tokens(), 1000, Reach(0.7)).hooks)
    assert max(float((a - b).abs().max()) for a, b in zip(apart, [together[i] for i in (0, 2, 1)])) < 1e-5


@torch.no_grad()
def test_what_a_run_kept_can_be_forgotten(sd1):
    injection = Injection(learned(sd1, 0), tokens(), 1000)
    first = sd1(latents(), 500, text(seed=1), hooks=injection.hooks)[0]
    assert len(injection._keys) == len(injection.adapter.sites)
    injection.forget()
    assert not injection._keys and torch.equal(sd1(latents(), 500, text(seed=1), hooks=injection.hooks)[0], first)
