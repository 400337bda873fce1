"""What only a GPU can show. Run wherever one is at hand: `cd tests && pytest cuda`."""

import os
from pathlib import Path

import pytest
import torch
from networks import LAYOUTS, random_prompt, random_unet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class Everywhere:
    """Takes part in everything and changes nothing."""

    def wants(self, site):
        return True

    def __call__(self, site, *args):
        return args[4](*args[:3]) if len(args) == 5 else None


def to(value, device, dtype):
    if isinstance(value, dict):
        return {k: to(v, device, dtype) for k, v in value.items()}
    return value.to(device, dtype) if torch.is_tensor(value) else value


def denoiser(layout, device="cuda", dtype=torch.float32):
    from likeness.core.diffusers import DiffusersDenoiser
    from likeness.core.diffusion import Schedule

    return DiffusersDenoiser(random_unet(layout).to(device, dtype), Schedule.scaled_linear())


def text(layout, device="cuda", dtype=torch.float32, **fields):
    from likeness.core.diffusers import Text

    return Text(**to(random_prompt(layout, 1, **fields), device, dtype))


def latents(device="cuda", dtype=torch.float32):
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(7)).to(device, dtype)


def hooks():
    from likeness.core.denoiser import Hooks

    return Hooks(attention=Everywhere(), skips=Everywhere())


@pytest.fixture(autouse=True)
def exact_matmul():
    """TF32 off: these tests compare numbers."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cpu_and_gpu_agree(layout):
    here = denoiser(layout, "cpu")(latents("cpu"), 500, text(layout, "cpu"))[0]
    there = denoiser(layout)(latents(), 500, text(layout))[0].cpu()
    assert (here - there).abs().max() / here.abs().max() < 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close_and_hooks_leave_every_bit(layout, dtype):
    exact = denoiser(layout)(latents(), 500, text(layout))[0]
    half = denoiser(layout, dtype=dtype)
    plain = half(latents(dtype=dtype), 500, text(layout, dtype=dtype))[0]
    watched = half(latents(dtype=dtype), 500, text(layout, dtype=dtype), hooks=hooks())[0]
    assert torch.equal(plain, watched)
    assert (plain.float() - exact).abs().max() / exact.abs().max() < (0.02 if dtype == torch.float16 else 0.1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_takes_float32_latents_and_residuals(layout):
    from likeness.core.denoiser import Hooks

    class Residual(Everywhere):
        def __call__(self, site, *args):
            return torch.ones(args[0].shape, device="cuda") * 0.1

    half, exact = denoiser(layout, dtype=torch.float16), denoiser(layout)
    out = half(latents(), 500, text(layout), hooks=Hooks(skips=Residual()))[0]
    expected = exact(latents(), 500, text(layout), hooks=Hooks(skips=Residual()))[0]
    assert out.dtype == torch.float32 and (out - expected).abs().max() / expected.abs().max() < 0.02


def test_a_training_resumes_on_the_gpu(tmp_path):
    from likeness.training.loop import Cancelled, Settings, Trainer

    settings = Settings(steps=20, lr=0.05, ema=0.9, every=7)

    def trainer(path=None):
        weight = torch.nn.Parameter(torch.ones(3, device="cuda"))

        def loss(step, generator):
            return (weight - torch.randn(3, generator=generator).cuda()).square().mean()

        return weight, Trainer({"w": weight}, loss, settings, path)

    def stop(progress):
        if progress.step == 11:
            raise Cancelled

    expected, unbroken = trainer()
    unbroken.run()
    with pytest.raises(Cancelled):
        trainer(tmp_path / "c.safetensors")[1].run(stop)
    weight, resumed = trainer(tmp_path / "c.safetensors")
    resumed.run()
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("backend", ["MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION"])
def test_attention_back_ends_agree(backend):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    half, z, words = (
        denoiser("sd1", dtype=torch.float16),
        latents(dtype=torch.float16),
        text("sd1", dtype=torch.float16),
    )
    expected = half(z, 500, words)[0]
    try:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            plain, watched = half(z, 500, words)[0], half(z, 500, words, hooks=hooks())[0]
    except RuntimeError as e:
        pytest.skip(f"{backend} does not run on this GPU: {e}")
    assert torch.equal(plain, watched)
    assert (plain - expected).abs().max() / expected.abs().max() < 0.02


def test_offloaded_weights_give_the_same_numbers():
    import accelerate

    model = denoiser("sd1")
    plain = model(latents(), 500, text("sd1"))[0]
    accelerate.cpu_offload(model.unet, execution_device="cuda")
    assert torch.equal(model(latents(), 500, text("sd1"), hooks=hooks())[0], plain)


@pytest.mark.skipif(not os.environ.get("COMFYUI_PATH"), reason="set COMFYUI_PATH to run inside ComfyUI")
@pytest.mark.parametrize("memory", ["--highvram", "--normalvram", "--lowvram", "--novram"])
def test_inside_comfyui(memory, tmp_path):
    from comfyui.inside.parent import Inside

    inside = Inside(Path(os.environ["COMFYUI_PATH"]).resolve(), tmp_path)
    seen = inside("offload.py", inference_mode=True, arguments=[memory])
    assert seen["device"].startswith("cuda")
    assert seen["untouched"] and seen["weights_left"]
    assert seen["sampling"] < 0.02 and seen["gradient"] < 0.02
