"""The embedded model's training, a few steps of it: complete, resumable, and its tokenizer spells everything."""

from dataclasses import replace

import pytest
import torch
from likeness.core import checkpoint, files
from likeness.core.demo import MODEL, sheet, world
from likeness.core.diffusion import Schedule
from likeness.training import demo_export, demo_model
from likeness.training.loop import Settings
from likeness.training.tokenizer import make_tokenizer
from likeness.training.weighting import snr_weight


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo-model")
    config = demo_model.Config(
        out=folder / "model",
        work=folder / "work",
        pictures=6,
        vae=Settings(steps=2, ema=0.9),
        unet=Settings(steps=2, ema=0.9),
        vae_batch=2,
        vae_crop=32,
        unet_batch=3,
        threads=torch.get_num_threads(),
    )
    stages = []
    demo_model.train(config, lambda stage, progress: stages.append((stage, progress.step)))
    return config, stages


def test_every_stage_runs_and_the_result_draws(trained, tmp_path):
    config, stages = trained
    assert stages == [("vae", 1), ("vae", 2), ("unet", 1), ("unet", 2)]
    rows = sheet.draw(sheet.Config(out=tmp_path / "x.png", model=config.out, prompts=("a cat",), columns=2, steps=2))
    assert rows[0].images.shape == (2, 3, 128, 128) and rows[0].images.isfinite().all()


def test_a_second_run_only_goes_on(trained):
    config, _ = trained
    before = (config.out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    stages = []
    longer = replace(config, unet=replace(config.unet, steps=3))
    demo_model.train(longer, lambda stage, progress: stages.append((stage, progress.step)))
    assert stages == [("unet", 3)]
    assert (config.out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() != before


def test_it_goes_on_from_a_model(trained, tmp_path):
    config, _ = trained
    start = checkpoint.load(config.out)
    further = replace(config, out=tmp_path / "model", work=tmp_path / "work", init=config.out)
    further = replace(further, vae=replace(config.vae, steps=0), unet=replace(config.unet, steps=0))
    again = checkpoint.load(demo_model.train(further))
    for name in ("unet", "vae"):
        weights = [getattr(m.denoiser, name, None) or getattr(m, name) for m in (start, again)]
        assert files.fingerprint(weights[0].state_dict()) == files.fingerprint(weights[1].state_dict())


def test_a_decoder_trained_alone_leaves_the_latents(trained, tmp_path):
    config, _ = trained
    further = replace(config, out=tmp_path / "model", work=tmp_path / "work", init=config.out, keep_encoder=True)
    stages = []
    demo_model.train(replace(further, unet=replace(config.unet, steps=0)), lambda *p: stages.append(p[0]))
    before, after = (checkpoint.load(folder).vae.state_dict() for folder in (config.out, further.out))
    assert stages == ["decoder", "decoder"]
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}


def test_an_encoder_that_is_not_there_can_not_be_kept(trained):
    with pytest.raises(ValueError, match="keep_encoder"):
        demo_model.train(replace(trained[0], keep_encoder=True))


def test_pictures_of_an_older_world_are_drawn_anew(tmp_path):
    cache = tmp_path / "pictures.safetensors"
    fresh = demo_model.Pictures.render(3, cache).images
    files.save(cache, {"images": fresh.roll(1, 0)}, files.Header(kind="pictures"))
    assert torch.equal(demo_model.Pictures.render(3, cache).images, fresh)


def test_the_tokenizer_knows_the_worlds_words_and_spells_the_rest(tmp_path):
    tokenizer = make_tokenizer(tmp_path, world.words())
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in world.words())
    assert tokenizer.unk_token_id not in tokenizer("zebra café 猫 0_o {x}~ 🙂").input_ids
    assert 450 < len(tokenizer) < 560
    assert tokenizer.pad_token_id != tokenizer.bos_token_id


def test_the_embedded_tokenizer_is_this_one(tmp_path):
    make_tokenizer(tmp_path, world.words())
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (MODEL / "tokenizer" / name).read_bytes()


def test_snr_weights_are_the_formula():
    schedule = Schedule.scaled_linear()
    weight = snr_weight(schedule)
    snr = schedule.alphas / (1 - schedule.alphas)
    assert float(weight[-1]) == pytest.approx(0.25 / float(snr[-1]))
    assert float(weight[0]) == pytest.approx(5 / float(snr[0]))
    between = (snr < 5) & (snr > 0.25)
    assert 0 < between.sum() < 1000 and bool((weight[between] == 1).all())


def test_psnr_is_the_formula():
    class Off:
        """An autoencoder whose pictures are a constant 0.01 too bright or too dark."""

        def encode(self, x):
            return type("", (), {"latents": x})

        def decode(self, z):
            return type("", (), {"sample": z + 0.02 * (1 - 2 * (z > 0))})

    assert demo_export.psnr(Off(), [1, 2]) == pytest.approx(40.0, abs=1e-3)


def test_swapped_padding_leaves_the_words():
    tokens = torch.arange(12.0).reshape(3, 4, 1)  # two prompts and the null text
    ended = torch.tensor([[False, False, True, True], [False, True, True, True], [False, True, True, True]])

    def swap(*which):
        return demo_model.swap_padding(tokens, ended, torch.tensor(which))[..., 0].tolist()

    assert swap(True, False) == [[0, 1, 6, 7], [4, 5, 6, 7]]
    assert swap(False, True) == [[0, 1, 2, 3], [4, 9, 2, 3]]  # the null text's where the other still has words
