"""Vision models by folder: preprocessing is their image processor's, vectors are the transformers model's own."""

import json

import pytest
import torch
from likeness.core.demo import MODEL
from likeness.core.vision.clip import Clip
from likeness.core.vision.dino import Dino
from likeness.core.vision.preprocess import CLIP_MEAN, IMAGENET_MEAN, Preprocess

CLIP_NUMBERS = dict(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3])
# the processor rounds to 8 bits after rows and again after columns, whose weights' sizes add up to 1.4
ROUNDING = (0.5 + 1.4 * 0.5) / 255 / min(CLIP_NUMBERS["image_std"])
PROCESSORS = {
    "shortest side, crop": dict(size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40}, resample=3),
    "plain, bilinear": dict(size={"height": 56, "width": 40}, do_center_crop=False, resample=2),
    "crop larger than the picture": dict(do_resize=False, crop_size={"height": 120, "width": 50}),
    "no normalising": dict(size={"shortest_edge": 32}, do_center_crop=False, do_normalize=False),
}


def pictures(height=70, width=91, count=2):
    """8-bit pictures with edges, as floats in 0..1."""
    g = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 7, 9, generator=g)
    images = torch.nn.functional.interpolate(coarse, (height, width)) * 255
    return images.round() / 255


@pytest.mark.parametrize("name", PROCESSORS)
def test_preprocessing_is_the_image_processors(name, tmp_path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(**CLIP_NUMBERS, **PROCESSORS[name])
    processor.save_pretrained(tmp_path)
    images = pictures()
    theirs = processor([(x * 255).round().byte() for x in images], return_tensors="pt").pixel_values
    ours = Preprocess.read(tmp_path, Preprocess(999, None))(images)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("shape", [(70, 91), (91, 70), (40, 40), (30, 200)])
def test_every_shape_is_cropped_where_the_processor_crops(shape):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40}, **CLIP_NUMBERS)
    images = pictures(*shape)
    theirs = processor([(x * 255).round().byte() for x in images], return_tensors="pt").pixel_values
    ours = Preprocess(40, (40, 40), "bicubic", *(tuple(v) for v in CLIP_NUMBERS.values()))(images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)


def read(settings, folder, otherwise):
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return Preprocess.read(folder, otherwise)


def test_the_files_of_published_models_are_understood(tmp_path):
    """The settings of openai/clip-vit-base-patch32, facebook/dino-vits16 and facebook/dinov2-base, as published."""
    clip = dict(crop_size=224, do_center_crop=True, do_normalize=True, do_resize=True, resample=3, size=224)
    square, cropped = Preprocess((224, 224), None, "bilinear"), Preprocess(256, (224, 224))
    assert read(clip | {"image_mean": list(CLIP_MEAN)}, tmp_path, cropped) == Preprocess(
        224, (224, 224), "bicubic", CLIP_MEAN
    )
    dino = dict(do_normalize=True, do_resize=True, image_mean=list(IMAGENET_MEAN), resample=2, size=224)
    assert read(dino, tmp_path, square) == square
    v2 = dict(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=3, do_center_crop=True)
    assert read(v2, tmp_path, square) == cropped
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": {"shortest_edge": 12}}}))
    assert Preprocess.read(tmp_path, cropped).resize == 12
    (tmp_path / "processor_config.json").unlink()
    assert Preprocess.read(tmp_path, square) is square


def test_preprocessing_refuses_what_is_no_picture():
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"floats \(B, 3, H, W\)"):
            Preprocess()(wrong)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A random CLIP of 32 pixels with the demo model's tokenizer."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    size = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    words = dict(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    CLIPModel(
        CLIPConfig(
            text_config={**size, **words}, vision_config={**size, "image_size": 32, "patch_size": 8}, projection_dim=12
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clips_vectors_are_the_models_own(clip_folder):
    from transformers import CLIPModel, CLIPTokenizer

    clip, images = Clip(clip_folder), pictures(32, 32, count=3)
    texts = ["a photo of a cat", "a painting of a red car in the snow"]
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    pixels = Preprocess(32, (32, 32), mean=CLIP_MEAN, std=clip.preprocess.std)(images)
    with torch.no_grad():
        out = CLIPModel.from_pretrained(clip_folder).eval()(pixel_values=pixels, **tokens)
    torch.testing.assert_close(clip.images(images), out.image_embeds)
    torch.testing.assert_close(clip.texts(texts), out.text_embeds)
    assert clip.images(images).norm(dim=-1) == pytest.approx([1.0] * 3)


def test_clip_takes_many_and_long_texts(clip_folder):
    clip = Clip(clip_folder)
    texts = [f"a cat {'very ' * (i % 90)}red" for i in range(130)]
    vectors = clip.texts(texts)
    assert vectors.shape == (130, 12)
    torch.testing.assert_close(vectors[[5, 70]], clip.texts([texts[5], texts[70]]), rtol=0, atol=1e-5)


def dino_folder(kind, folder):
    """A random ViT or DINOv2 of 32 pixels and patches of 8."""
    import transformers

    torch.manual_seed(0)
    size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    config, model = {
        "vit": ("ViTConfig", "ViTModel"),
        "dinov2": ("Dinov2Config", "Dinov2Model"),
        "registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
    }[kind]
    extra = {"intermediate_size": 32} if kind == "vit" else {"mlp_ratio": 2}
    made = getattr(transformers, model)(getattr(transformers, config)(**size, **extra))
    made.save_pretrained(folder)
    settings = dict(size={"height": 32, "width": 32}, do_center_crop=False, resample=2)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return made.eval()


@pytest.mark.parametrize("kind", ["vit", "dinov2", "registers"])
def test_dinos_vectors_are_the_models_own(kind, tmp_path):
    model, dino, images = dino_folder(kind, tmp_path), Dino(tmp_path), pictures()
    with torch.no_grad():
        tokens = model(Preprocess((32, 32), None, "bilinear")(images)).last_hidden_state
    torch.testing.assert_close(dino.images(images), torch.nn.functional.normalize(tokens[:, 0], dim=-1))
    grid = dino.patches(images)
    assert grid.shape == (2, 4, 4, 16)
    torch.testing.assert_close(grid.flatten(1, 2), tokens[:, -16:])


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_patches_lie_where_the_picture_has_them(kind, tmp_path):
    dino_folder(kind, tmp_path)
    dino, images = Dino(tmp_path), pictures(32, 64)
    whole = dino.patches(images, size=(32, 64))
    assert whole.shape == (2, 4, 8, 16)
    changed = images.clone()
    changed[:, :, 8:16, 40:48] = 1 - changed[:, :, 8:16, 40:48]  # the patch in row 1, column 5
    moved = (dino.patches(changed, size=(32, 64)) - whole).norm(dim=-1)
    assert (moved.flatten(1).argmax(-1) == 1 * 8 + 5).all()
    with pytest.raises(ValueError, match=r"\(32, 60\).*multiples of 8"):
        dino.patches(images, size=(32, 60))


def test_a_model_that_is_not_there_is_named(tmp_path):
    for make, what in ((Clip, "CLIP"), (Dino, "DINO")):
        with pytest.raises(FileNotFoundError, match=f"no {what} model at .*missing; give a folder"):
            make(tmp_path / "missing")
        with pytest.raises(FileNotFoundError, match=f"is no {what} model.*no config.json"):
            make(tmp_path)
        (tmp_path / "half").mkdir(exist_ok=True)
        (tmp_path / "half" / "config.json").write_text(json.dumps({"model_type": {"CLIP": "clip"}.get(what, "vit")}))
        with pytest.raises(FileNotFoundError, match=f"the {what} model '.*half' can't be loaded .*model.safetensors"):
            _ = make(tmp_path / "half").model


def test_a_model_of_another_kind_is_refused(clip_folder, tmp_path):
    with pytest.raises(ValueError, match="is a clip model, but a DINO is needed"):
        Dino(clip_folder).images(pictures())
    dino_folder("vit", tmp_path)
    with pytest.raises(ValueError, match="is a vit model, but a CLIP model is needed"):
        Clip(tmp_path).images(pictures())


def test_nothing_is_loaded_before_it_is_used(clip_folder, monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", lambda *a, **k: pytest.fail("loaded"))
    assert Clip(clip_folder).name == str(clip_folder)
