"""Loading and text to image against diffusers' own pipelines, on small random SD1.x, SD2.x and SDXL checkpoints."""

import pytest
import torch
from likeness.core import checkpoint, diffusion
from likeness.core.demo import MODEL, sheet
from likeness.core.denoiser import guided
from networks import SCHEDULER, random_unet


def text_encoder(tokenizer, width, projected=False, layers=3):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(width)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


@pytest.fixture(scope="module")
def pipeline(layout, tmp_path_factory):
    """A diffusers pipeline with small random parts, and the folder it was saved to."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    torch.manual_seed(5)
    vae = AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        sample_size=128,
    )
    prediction = "v_prediction" if layout == "sd2" else "epsilon"
    parts = dict(unet=random_unet(layout), vae=vae, scheduler=DDIMScheduler(**SCHEDULER, prediction_type=prediction))
    if layout == "sdxl":
        parts |= dict(text_encoder=text_encoder(tokenizer, 16), text_encoder_2=text_encoder(tokenizer, 16, True))
        pipe = StableDiffusionXLPipeline(**parts, tokenizer=tokenizer, tokenizer_2=tokenizer)
    else:
        parts |= dict(text_encoder=text_encoder(tokenizer, 32), safety_checker=None, feature_extractor=None)
        pipe = StableDiffusionPipeline(**parts, tokenizer=tokenizer, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp(layout)
    pipe.save_pretrained(folder)
    return pipe, folder


def test_text_to_image_is_the_pipelines(pipeline):
    pipe, folder = pipeline
    model = checkpoint.load(folder)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    asked = dict(prompt="a red cat in the snow", negative_prompt="", num_inference_steps=10, guidance_scale=5.0)
    theirs = pipe(**asked, latents=noise, height=128, width=128, output_type="latent").images
    words = model.text(asked["prompt"], size=(128, 128)), model.text("", size=(128, 128))
    schedule = model.denoiser.schedule
    with torch.no_grad():
        ours = diffusion.sample(schedule, guided(model.denoiser, *words, 5.0), noise, schedule.timesteps(10))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        pixels = pipe.vae.decode(theirs / pipe.vae.config.scaling_factor).sample
        torch.testing.assert_close(model.decode(theirs), (pixels / 2 + 0.5).clamp(0, 1))


def test_pictures_go_in_as_they_come_out(pipeline):
    pipe, folder = pipeline
    model = checkpoint.load(folder)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        theirs = pipe.vae.encode(images * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    torch.testing.assert_close(model.encode(images), theirs)


def test_the_wanted_precision(pipeline):
    model = checkpoint.load(pipeline[1], dtype=torch.bfloat16)
    assert {p.dtype for m in (model.denoiser.unet, model.vae) for p in m.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.denoiser.unet.parameters())


def test_what_can_not_be_loaded_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no model_index\.json"):
        checkpoint.load(tmp_path)
    (tmp_path / "old.ckpt").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"old\.ckpt is not a \.safetensors file"):
        checkpoint.load(tmp_path / "old.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"cut\.safetensors can't be read as safetensors"):
        checkpoint.load(tmp_path / "cut.safetensors")


def test_contact_sheets(tmp_path):
    from PIL import Image

    rows = [("a cat", torch.zeros(3, 3, 32, 32)), ("a dog", torch.ones(2, 3, 32, 32))]
    picture = Image.open(sheet.contact_sheet(rows, tmp_path / "sheet.png", gap=4, label=10))
    assert picture.size == (4 + 3 * 36, 4 + 2 * 46)
    assert picture.getpixel((6, 16)) == (0, 0, 0) and picture.getpixel((6, 62)) == (255, 255, 255)
    with pytest.raises(ValueError, match="at least one row"):
        sheet.contact_sheet([], tmp_path / "none.png")


def test_a_single_file_is_its_folder(pipeline, layout, tmp_path):
    if layout != "sd1":
        pytest.skip("one original layout is enough: diffusers itself converts them")
    from ldm import single_file
    from safetensors.torch import save_file

    pipe, folder = pipeline
    save_file(single_file(pipe.unet, pipe.vae, pipe.text_encoder), tmp_path / "model.safetensors")
    model, same = checkpoint.load(tmp_path / "model.safetensors", config=str(folder)), checkpoint.load(folder)
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(6))
    ours, theirs = model.text("a (red:1.2) cat"), same.text("a (red:1.2) cat")
    assert torch.equal(ours.tokens, theirs.tokens)
    with torch.no_grad():
        torch.testing.assert_close(model.denoiser(z, 300, ours)[0], same.denoiser(z, 300, theirs)[0])
        torch.testing.assert_close(model.decode(z), same.decode(z))
