"""Retrieval without training: what must change nothing, and the self-attention written out."""

from dataclasses import replace

import pytest
import torch
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from likeness.core.reach import Reach
from likeness.core.retrinet.free import FreeRetrieval, levels_of
from likeness.core.retrinet.reference import References
from networks import LAYOUTS, SCHEDULER, random_prompt, random_unet

SCHEDULE = Schedule.from_scheduler(SCHEDULER)


def setup(layout="sd1", count=2, masks=None):
    denoiser = DiffusersDenoiser(random_unet(layout), SCHEDULE)
    prompts = [random_prompt(layout, 20 + i) for i in range(count)]
    extra = {}
    if layout == "sdxl":
        added = [p["extra"]["added_cond_kwargs"] for p in prompts]
        extra = {k: torch.cat([a[k] for a in added]) for k in added[0]}
    z = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    return denoiser, References(z, torch.cat([p["tokens"] for p in prompts]), masks, extra)


def text(layout, seed):
    return Text(**random_prompt(layout, seed))


def latents(rows=1, seed=1):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_reached_rows_change(layout):
    denoiser, references = setup(layout)
    z, prompts = latents(2), (text(layout, 2).unconditional(), text(layout, 1))

    def run(t, reach):
        free = FreeRetrieval(references, SCHEDULE, denoiser.sites, reach, time="each")
        return denoiser(z, t, *prompts, hooks=free.hooks)

    for t, reach, changed in (
        (500, Reach(0.0), False),
        (900, Reach(1.0, 0.3, 0.6), False),
        (500, Reach(1.0, 0.3, 0.6), True),
        (500, Reach(0.5), True),
    ):
        plain, ours = denoiser(z, t, *prompts), run(t, reach)
        assert torch.equal(plain[0], ours[0])
        assert torch.equal(plain[1], ours[1]) is not changed


@torch.no_grad()
def test_written_out():
    """Each decoder's self-attention with the reference's keys and values beside its own, by hand."""
    mask = torch.zeros(2, 8, 8)
    mask[0, :4], mask[1, :, 2:] = 1, 1
    denoiser, references = setup(masks=mask)
    free = FreeRetrieval(references, SCHEDULE, denoiser.sites, time="each")
    ours = denoiser(latents(), 500, text("sd1", 1), hooks=free.hooks)[0]

    kept, reading = {}, True
    noise = torch.randn(references.latents[0].shape, generator=torch.Generator().manual_seed(0))
    noisy = SCHEDULE.noise(references.latents[0], noise, 500)

    def look(name, layer):
        def hook(module, args, kwargs, output):
            x = args[0] if args else kwargs["hidden_states"]
            if reading:
                kept[name] = x
                return None
            # pixels of the references that lie in their masks at this layer's size
            side = int(x.shape[1] ** 0.5)
            share = torch.nn.functional.adaptive_avg_pool2d(mask, side).flatten(1)
            where = (share > 0.5) | (share == share.amax(1, keepdim=True))
            seen = torch.cat([x[0], kept[name][where]])
            heads = [
                (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v
                for q, k, v in zip(
                    *(t.chunk(layer.heads, -1) for t in (layer.to_q(x[0]), layer.to_k(seen), layer.to_v(seen)))
                )
            ]
            return layer.to_out[0](torch.cat(heads, -1))[None]

        return hook

    unet = denoiser.unet
    layers = {n: m for n, m in unet.named_modules() if n.startswith("up_blocks") and n.endswith("attn1")}
    handles = [m.register_forward_hook(look(n, m), with_kwargs=True) for n, m in layers.items()]
    unet(noisy, 500, references.tokens)
    reading = False
    wanted = unet(latents(), 500, random_prompt("sd1", 1)["tokens"], return_dict=False)[0]
    for handle in handles:
        handle.remove()
    assert (ours - wanted).abs().max() < 2e-5 * wanted.abs().max()


@torch.no_grad()
def test_references_in_any_order_and_read_once():
    denoiser, references = setup(count=3)
    order = [2, 0, 1]
    other = References(references.latents[0, order], references.tokens[order])
    a, b = (
        denoiser(latents(), 500, text("sd1", 1), hooks=FreeRetrieval(r, SCHEDULE, denoiser.sites, time="cached").hooks)[
            0
        ]
        for r in (references, other)
    )
    assert (a - b).abs().max() < 1e-5 * a.abs().max()
    free, times = FreeRetrieval(references, SCHEDULE, denoiser.sites, time="cached"), []
    whole = denoiser._alone
    denoiser._alone = lambda z, t, *args, **extra: times.append(int(t[0])) or whole(z, t, *args, **extra)
    for t in (900, 500, 100):
        denoiser(latents(), t, text("sd1", 1), hooks=free.hooks)
    assert times == [0]


@torch.no_grad()
def test_a_model_that_counts_more_timesteps_than_its_schedule_has():
    """Distilled samplings keep few noise levels: the share of the schedule is of the timesteps."""
    denoiser, references = setup()
    few = replace(SCHEDULE, alphas=SCHEDULE.alphas[::20])

    def draw(schedule, steps, t):
        reach = Reach(1.0, 0.0, 0.6)
        free = FreeRetrieval(references, schedule, denoiser.sites, reach, time="cached", steps=steps)
        return denoiser(latents(), t, text("sd1", 1), hooks=free.hooks)[0]

    for t in (900, 500, 100):
        assert torch.equal(draw(few, 1000, t), draw(SCHEDULE, None, t))


def test_groups_of_levels():
    sites = setup()[0].sites
    assert [levels_of(word, sites) for word in ("all", "deep", "shallow")] == [[0, 1], [1], [0]]
    # an odd one in the middle is in both
    more = [replace(site, level=level) for site in sites for level in (0, 1, 2)]
    assert [levels_of(word, more) for word in ("deep", "shallow")] == [[1, 2], [0, 1]]
    with pytest.raises(ValueError, match="levels: 'mid' is none of all, deep, shallow"):
        levels_of("mid", sites)


def test_mistakes_are_named():
    denoiser, references = setup()
    with pytest.raises(ValueError, match="levels: no layer of the decoder has self-attention there; choose from 0, 1"):
        FreeRetrieval(references, SCHEDULE, denoiser.sites, levels=[2])
    with pytest.raises(ValueError, match="mode: 'once' is none of each, cached"):
        FreeRetrieval(references, SCHEDULE, denoiser.sites, time="once")
