"""RetriNet: what must change nothing, the network written out, and its files."""

import pytest
import torch
from likeness.core import files
from likeness.core.denoiser import Hooks, guided
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule, sample
from likeness.core.reach import Reach
from likeness.core.retrinet import network as retrinet
from likeness.core.retrinet.control import Retrieval
from likeness.core.retrinet.lookup import Lookup
from likeness.core.retrinet.reference import References
from networks import LAYOUTS, SCHEDULER, random_prompt, random_unet

SCHEDULE = Schedule.from_scheduler(SCHEDULER)
T = torch.tensor([500.0])


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(scope="module")
def denoiser(layout):
    return DiffusersDenoiser(random_unet(layout), SCHEDULE)


@pytest.fixture(scope="module")
def sd1():
    return DiffusersDenoiser(random_unet("sd1"), SCHEDULE)


def learned(denoiser, rank=None, seed=0, levels=None):
    """A RetriNet whose every tensor is random."""
    network = retrinet.blank(denoiser, rank, levels)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.05 * torch.randn(p.shape, generator=g)
    return network.eval().requires_grad_(False)


def text(layout="sd1", seed=0, **fields):
    return Text(**random_prompt(layout, seed, **fields))


def references(layout="sd1", count=2, batch=None, masks=None, seed=9):
    g = torch.Generator().manual_seed(seed)
    shape = (count,) if batch is None else (batch, count)
    prompts = [random_prompt(layout, 20 + i) for i in range(count)]
    extra = {}
    if layout == "sdxl":
        added = [p["extra"]["added_cond_kwargs"] for p in prompts]
        extra = {k: torch.cat([a[k] for a in added]) for k in added[0]}
    tokens = torch.cat([p["tokens"] for p in prompts])
    return References(torch.randn(*shape, 4, 8, 8, generator=g), tokens, masks, extra)


def latents(rows=1, seed=1):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def draw(denoiser, layout, hooks=None):
    times = SCHEDULE.timesteps(4)
    predict = guided(denoiser, text(layout, 1), text(layout, 2), 4.0, hooks)
    with torch.no_grad():
        return sample(SCHEDULE, predict, latents(), times)


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 2])
def test_blank_changes_nothing(denoiser, layout, rank):
    network = retrinet.blank(denoiser, rank)
    hooks = Retrieval(network, references(layout), 1000).hooks
    assert torch.equal(draw(denoiser, layout, hooks), draw(denoiser, layout))


@torch.no_grad()
def test_strength_zero_changes_nothing(denoiser, layout):
    hooks = Retrieval(learned(denoiser), references(layout), 1000, Reach(0.0)).hooks
    assert torch.equal(draw(denoiser, layout, hooks), draw(denoiser, layout))
    hooks = Retrieval(learned(denoiser), references(layout), 1000).hooks
    assert not torch.allclose(draw(denoiser, layout, hooks), draw(denoiser, layout), atol=1e-2)


@torch.no_grad()
def test_only_reached_rows_change(sd1):
    """Timesteps outside start..end, and rows of the negative prompt, are the base bit for bit."""
    hooks = Retrieval(learned(sd1), references(), 1000, Reach(1.0, 0.3, 0.6)).hooks
    z, prompts = latents(2), (text(seed=2).unconditional(), text(seed=1))
    for t, changed in ((999, False), (750, False), (600, True), (450, True), (100, False)):
        plain, ours = sd1(z, t, *prompts), sd1(z, t, *prompts, hooks=hooks)
        assert torch.equal(plain[0], ours[0])
        assert torch.equal(plain[1], ours[1]) is not changed
    mixed = torch.tensor([900, 500])
    plain, ours = sd1(z, mixed, prompts[1])[0], sd1(z, mixed, prompts[1], hooks=hooks)[0]
    assert torch.equal(plain[0], ours[0]) and not torch.equal(plain[1], ours[1])


@torch.no_grad()
def test_half_strength_lies_between(sd1):
    """To first order: the change of a small delta grows in proportion."""
    network = learned(sd1)
    for p in [*network.delta.parameters(), *(m.to_out.weight for m in network.lookups.values())]:
        p *= 1e-3
    for m in network.lookups.values():
        m.to_out.bias.zero_()
    prompt, plain = text(seed=1), sd1(latents(), 500, text(seed=1))[0]
    whole, half = (
        sd1(latents(), 500, prompt, hooks=Retrieval(network, references(), 1000, Reach(s)).hooks)[0] - plain
        for s in (1.0, 0.5)
    )
    assert (whole - 2 * half).abs().max() < 0.02 * whole.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 2])
def test_written_out(denoiser, layout, rank):
    """The copied encoder by itself, each level's attention spelled out, the decoder's weights really changed."""
    network, own = learned(denoiser, rank), references(layout, masks=(torch.rand(2, 8, 8) > 0.4).float())
    ours = denoiser(latents(), 500, text(layout, 1), hooks=Retrieval(network, own, 1000).hooks)[0]

    encoded = network.encode(own, T)
    changed = DiffusersDenoiser(random_unet(layout), SCHEDULE)
    seen = {}

    class See:
        def wants(self, skip):
            return True

        def __call__(self, skip, features, rows):
            seen[skip.name] = features.clone()

    changed(latents(), 500, text(layout, 1), hooks=Hooks(skips=See()))
    for name, layer in changed.unet.named_modules():
        if name not in network.delta.layers:
            continue
        parts = {k.split("/")[1]: v for k, v in network.delta.whole().items() if k.split("/")[0] == name}
        if rank:
            parts["weight"] = (parts["up"].flatten(1) @ parts["down"].flatten(1)).reshape(layer.weight.shape)
        layer.weight += parts["weight"]
        if "bias" in parts:
            layer.bias += parts["bias"]
    residuals = []
    for skip in denoiser.skips:
        level, f = network.lookup(skip.name), encoded.features[skip.name][0]
        tokens = f.permute(0, 2, 3, 1).reshape(-1, f.shape[1])
        where = torch.nn.functional.adaptive_max_pool2d(own.masks[0], f.shape[-2:]).flatten() > 0.5
        tokens = level.norm_kv(tokens[where])
        asking = seen[skip.name][0].flatten(1).T
        q, k, v = level.to_q(level.norm_q(asking)), level.to_k(tokens), level.to_v(tokens)
        heads = []
        for qh, kh, vh in zip(*(x.chunk(level.heads, -1) for x in (q, k, v))):
            heads.append((qh @ kh.T / qh.shape[-1] ** 0.5).softmax(-1) @ vh)
        out = level.to_out(torch.cat(heads, -1))
        residuals.append(out.T.reshape(seen[skip.name].shape))
    more = dict(down_block_additional_residuals=tuple(residuals[:-1]), mid_block_additional_residual=residuals[-1])
    prompt = random_prompt(layout, 1)
    wanted = changed.unet(latents(), 500, prompt["tokens"], return_dict=False, **prompt["extra"], **more)[0]
    assert (ours - wanted).abs().max() < 2e-5 * wanted.abs().max()


@torch.no_grad()
def test_references_in_any_order(denoiser, layout):
    network, own = learned(denoiser), references(layout, 4)
    order = [2, 0, 3, 1]
    other = References(own.latents[:, order], own.tokens[order], extra={k: v[order] for k, v in own.extra.items()})
    a, b = (draw(denoiser, layout, Retrieval(network, r, 1000).hooks) for r in (own, other))
    assert (a - b).abs().max() < 1e-5 * a.abs().max()


@torch.no_grad()
def test_every_picture_has_its_own(sd1):
    """A batch with references each is what its pictures are alone, timesteps of their own included."""
    network, own = learned(sd1), references(batch=3)
    z, times = latents(3), torch.tensor([700, 500, 20])
    together = sd1(z, times, text(seed=1), hooks=Retrieval(network, own, 1000).hooks)[0]
    for i in range(3):
        alone = References(own.latents[i], own.tokens)
        one = sd1(z[i : i + 1], int(times[i]), text(seed=1), hooks=Retrieval(network, alone, 1000).hooks)[0]
        assert (one - together[i : i + 1]).abs().max() < 1e-5


@torch.no_grad()
def test_cached_reads_once(sd1, monkeypatch):
    network, times = learned(sd1), []
    whole = network.encode
    monkeypatch.setattr(network, "encode", lambda r, t: times.append(float(t)) or whole(r, t))
    draw(sd1, "sd1", Retrieval(network, references(), 1000, time="cached").hooks)
    assert times == [0.0]
    times.clear()
    draw(sd1, "sd1", Retrieval(network, references(), 1000).hooks)
    assert times == [float(t) for t in SCHEDULE.timesteps(4)]


@torch.no_grad()
def test_masked_pixels_are_not_looked_at():
    torch.manual_seed(0)
    level = Lookup(16, 2)
    torch.nn.init.normal_(level.to_out.weight)
    asking, features = torch.randn(1, 16, 4, 4), torch.randn(1, 2, 16, 4, 4)
    mask = torch.rand(1, 32) > 0.5
    other = torch.where(mask.reshape(1, 2, 1, 4, 4), features, torch.randn(features.shape))
    masked = [level(asking, *level.keys(f, mask)) for f in (features, other)]
    assert torch.equal(*masked)
    k, v, _ = level.keys(features)
    torch.testing.assert_close(masked[0], level(asking, k, v, mask))
    assert not torch.equal(*(level(asking, *level.keys(f)) for f in (features, other)))


@torch.no_grad()
def test_a_faint_mask_is_a_mask(sd1):
    """What is not empty is looked at: no level is left without a pixel, which would give no numbers."""
    faint = torch.zeros(2, 64, 64)
    faint[:, 10:20, 10:20] = 0.3
    hooks = Retrieval(learned(sd1), references(masks=faint), 1000).hooks
    assert bool(sd1(latents(), 500, text(seed=1), hooks=hooks)[0].isfinite().all())


@torch.no_grad()
def test_chosen_levels(sd1):
    network = learned(sd1, levels=["skip.2", "mid"])
    assert set(network.levels) == {"skip.2", "mid"}
    control = Retrieval(network, references(), 1000, levels=["mid"])
    assert [s.name for s in sd1.skips if control.wants(s)] == ["mid"]
    with pytest.raises(ValueError, match=r"levels: skip.1 not in this RetriNet; it has skip.2, mid"):
        Retrieval(network, references(), 1000, levels=["skip.1"])
    with pytest.raises(ValueError, match=r"levels: top unknown; choose from skip\.0"):
        retrinet.blank(sd1, levels=["top"])
    with pytest.raises(ValueError, match="mode: 'once' is none of each, cached"):
        Retrieval(network, references(), 1000, time="once")


@torch.no_grad()
def test_what_is_looked_at(sd1):
    seen = []
    masks = torch.zeros(2, 8, 8)
    masks[:, :4] = 1
    control = Retrieval(learned(sd1), references(masks=masks), 1000, watch=lambda *one: seen.append(one))
    sd1(latents(2), 500, text(seed=2).unconditional(), text(seed=1), hooks=control.hooks)
    assert [name for name, _, _ in seen] == [s.name for s in sd1.skips]
    for _, t, looked in seen:
        assert t == 500 and looked.shape[:2] == (2, 2)
        assert torch.allclose(looked.sum((1, 2, 3)), torch.ones(2), atol=1e-5)
        assert float(looked[:, :, (looked.shape[2] + 1) // 2 :].sum()) == 0


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 2])
def test_file(sd1, tmp_path, rank):
    network = learned(sd1, rank)
    network.settings["steps"] = 5
    path = retrinet.save(tmp_path / "r.safetensors", network, torch.float32)
    back = retrinet.load(path, base="context-32")
    a, b = network.state_dict(), back.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert back.settings == {"steps": 5} and back.levels == network.levels
    with pytest.raises(files.LearnedFileError, match="was learned on context-32, but the model here is sd1"):
        retrinet.load(path, base="sd1")
    tensors, header = files.load(path, kind=retrinet.KIND)
    files.save(path, {k: v for k, v in tensors.items() if "conv_in" not in k}, header)
    with pytest.raises(files.LearnedFileError, match="is no whole RetriNet"):
        retrinet.load(path)


@torch.no_grad()
def test_recomputed_activations(sd1):
    """Saving memory changes no gradient: what takes part in a block takes part again."""
    grads = []
    for saving in (False, True):
        denoiser = DiffusersDenoiser(random_unet("sd1").train(), SCHEDULE)
        if saving:
            denoiser.save_memory()
        network = learned(sd1, 2).requires_grad_(True)
        with torch.enable_grad():
            hooks = Retrieval(network, references(), 1000).hooks
            denoiser(latents(), 500, text(seed=1), hooks=hooks)[0].square().sum().backward()
        grads.append({name: p.grad for name, p in network.named_parameters()})
    assert all(g is not None for name, g in grads[0].items() if "time_embedding.cond" not in name)
    assert all(torch.allclose(grads[0][k], grads[1][k], rtol=1e-4, atol=1e-6) for k in grads[0])
