"""LoRA files load onto the embedded model as onto any checkpoint, and the pack's own is there without being copied."""

import pytest
import torch

STEPS = 30


def noise():
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(11))


@pytest.fixture(scope="module")
def base():
    """The embedded model, headless, with the schedule's end where ComfyUI has it."""
    from likeness.core import checkpoint, diffusion
    from likeness.core.demo import MODEL

    model = checkpoint.load(MODEL)
    return model, diffusion.Schedule(model.denoiser.schedule.alphas, final_alpha=1.0)


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory, base):
    from .inside.parent import Inside

    inside, timesteps = Inside(comfyui_path, tmp_path_factory.mktemp("lora")), base[1].timesteps(STEPS)
    return inside("lora.py", inference_mode=True, noise=noise().tolist(), timesteps=timesteps)


def test_lora_files(seen):
    assert seen["changed"] > 1e-2 and seen["untouched"]
    assert seen["kohya"] < 1e-4 and seen["kohya_diffusers"] < 1e-4


def test_the_packs_own_files_are_listed_after_the_users(seen):
    assert "duotone.safetensors" in seen["listed"]
    assert seen["first"] == {"loras": "loras", "likeness": "likeness", "controlnet": "controlnet"}
    assert seen["added"] == {"loras": ["loras"], "likeness": ["concepts"], "controlnet": []}
    assert seen["kept"] and seen["concept"]


def test_the_shipped_lora_is_the_same_in_both_runtimes(seen, base):
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    from likeness.core import diffusion
    from likeness.core.demo import MODEL
    from likeness.core.denoiser import guided

    model, schedule = base
    unet, timesteps = model.denoiser.unet, schedule.timesteps(STEPS)
    state, alphas = Loader.lora_state_dict(MODEL.parent / "loras" / "duotone.safetensors", unet_config=unet.config)
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, adapter_name="style")
    text, null = model.text("a photo of a red cat on the beach"), model.text("").unconditional()
    for strength, native in ((1.0, seen["shipped"]), (0.5, seen["half"]), (0.0, seen["plain"])):
        unet.set_adapters("style", weights=strength)
        z = noise() * (1 - schedule.alpha(timesteps[0])).sqrt().float()
        with torch.no_grad():
            headless = diffusion.sample(schedule, guided(model.denoiser, text, null, 5.0), z, timesteps)
        assert float((native - headless).abs().max() / headless.abs().max()) < 1e-3
    assert float((seen["shipped"] - seen["plain"]).abs().max()) > 0.5
