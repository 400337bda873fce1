"""The embedded model, as shipped."""

import pytest
import torch
from likeness.core import checkpoint, diffusion
from likeness.core.demo import MODEL, sheet, world
from likeness.core.denoiser import guided


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(MODEL)


def test_its_size(model):
    unet = model.denoiser.unet
    assert sum(p.numel() for p in unet.parameters()) <= 8_000_000
    assert sum(site.kind == "cross" for site in model.denoiser.sites) >= 9
    assert {site.level for site in model.denoiser.sites} == {0, 1, 2}
    assert all(skip.channels % 32 == 0 for skip in model.denoiser.skips)
    assert all(path.stat().st_size <= 16 * 2**20 for path in MODEL.rglob("*.safetensors"))


def test_diffusers_opens_the_folder_and_draws_the_same(model):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    prompt = "a photo of a red cat on the beach"
    asked = dict(num_inference_steps=8, guidance_scale=5.0, latents=noise, height=128, width=128, output_type="pt")
    theirs = pipe(prompt, negative_prompt="", **asked).images
    ours = sheet.text_to_image(model, prompt, noise, steps=8, guidance=5.0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_pictures_return_from_the_autoencoder(model):
    for seed in (10_000_001, 10_000_002, 10_000_003):
        picture = world.sample(seed).image[None]
        error = (model.decode(model.encode(picture)) - picture).square().mean()
        assert -10 * torch.log10(error) > 18


def test_inversion_returns_the_latents_ever_closer(model):
    """Relative error of inverting and sampling at w = 1 on real pictures, with the step count."""
    text = model.text("a photo of a cat")
    z = model.encode(torch.stack([world.sample(seed).image for seed in (10_000_004, 10_000_005)]))
    schedule, predict = model.denoiser.schedule, guided(model.denoiser, text, text, 1)
    errors = {}
    for steps in (10, 40, 160):
        timesteps = schedule.timesteps(steps)
        with torch.no_grad():
            noise = diffusion.invert(schedule, predict, z, timesteps)[-1]
            back = diffusion.sample(schedule, predict, noise, timesteps)
        errors[steps] = float((back - z).norm() / z.norm())
    assert errors[160] < errors[40] < errors[10], errors
    assert errors[160] < 0.1, errors
