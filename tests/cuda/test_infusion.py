"""Infusion on a GPU: the CPU's numbers, half precision, and what it costs in memory."""

from dataclasses import replace

import pytest
import torch
from networks import LAYOUTS, random_prompt, random_unet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def setting(layout, device="cuda", dtype=torch.float32, size=1.0):
    """A denoiser, a prompt with a word, and Infusion with a random concept."""
    from likeness.core.diffusers import DiffusersDenoiser, Text
    from likeness.core.diffusion import Schedule
    from likeness.core.infusion.concept import blank
    from likeness.core.infusion.control import Infusion, Use

    net = DiffusersDenoiser(random_unet(layout).to(device, dtype), Schedule.scaled_linear())
    marks = torch.zeros(77, dtype=torch.bool)
    marks[3] = True
    fields = random_prompt(layout, 1)
    move = lambda x: x.to(device, dtype) if torch.is_tensor(x) else {k: move(v) for k, v in x.items()}  # noqa: E731
    prompt = Text(move(fields["tokens"]), words={"cat": marks}, extra=move(fields["extra"]))
    empty, g = blank(net.sites, ["cat"]), torch.Generator().manual_seed(2)
    learned = {k: size * torch.randn(r.shape, generator=g) for k, r in empty.residuals.items()}
    return net, prompt, Infusion([Use(replace(empty, residuals=learned), mask=torch.ones(1, 64, 64))])


def latents(device, dtype=torch.float32):
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    return torch.cat([z, z]).to(device, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cpus_numbers(layout):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    out = []
    for device in ("cpu", "cuda"):
        net, prompt, infusion = setting(layout, device)
        out.append(net(latents(device), 500, prompt, hooks=infusion.hooks)[0].cpu())
    torch.testing.assert_close(*out, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_has_an_effect(dtype):
    net, prompt, infusion = setting("sd1", dtype=dtype)
    foundation, customised = net(latents("cuda", dtype), 500, prompt, hooks=infusion.hooks)[0].chunk(2)
    assert customised.isfinite().all() and not torch.equal(foundation, customised)


def test_no_effect_leaves_every_bit():
    net, prompt, infusion = setting("sd1", size=0.0)
    assert torch.equal(*net(latents("cuda"), 500, prompt, hooks=infusion.hooks)[0].chunk(2))


def test_learning_in_half_precision():
    from likeness.training import infusion, loop
    from likeness.training.data.photos import Group

    net, prompt, _ = setting("sd1", dtype=torch.float16)
    learn = infusion.Learn(batch=2, loop=loop.Settings(steps=4, lr=0.01, clip=0.0))
    groups = [Group(torch.randn(3, 4, 16, 16))]
    concept = infusion.Training(net, prompt, groups, "cat", learn, scale=4096.0).run()
    norms = list(concept.norms().values())
    assert all(0 < n < 10 for n in norms)


def test_memory_is_that_of_a_plain_batch_of_twice_the_size():
    net, prompt, infusion = setting("sd1")
    peaks = []
    for hooks in (None, infusion.hooks):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            net(torch.randn(8, 4, 64, 64, device="cuda"), 500, prompt, hooks=hooks)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] <= 1.1 * peaks[0]
