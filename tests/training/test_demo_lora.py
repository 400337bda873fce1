"""The demo LoRAs' training, a few steps of it: resumable, repeatable, read by diffusers; and the LoRAs that ship."""

from dataclasses import replace

import pytest
import torch
from likeness.core import checkpoint, files
from likeness.core.demo import MODEL, judges, sheet, world
from likeness.core.metrics.similarity import masked, similarity
from likeness.training import demo_lora
from likeness.training.demo_lora import Config, duotone, kohya
from likeness.training.loop import Cancelled, Settings
from safetensors.torch import load_file

SHIPPED = MODEL.parent / "loras" / "duotone.safetensors"
CAR = SHIPPED.with_name("car.safetensors")
STEPS = Settings(steps=3, lr=1e-2, ema=0.9, every=1)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo-lora")
    threads = torch.get_num_threads()
    return Config(folder / "a.safetensors", folder / "a", pictures=6, rank=2, batch=3, loop=STEPS, threads=threads)


@pytest.fixture(scope="module")
def trained(config):
    return demo_lora.train(config)


@pytest.fixture
def model():
    return checkpoint.load(MODEL)


def adapt(unet, path):
    """A LoRA file as diffusers' pipelines load it."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    state, alphas = Loader.lora_state_dict(path, unet_config=unet.config)
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, adapter_name="style")


@torch.no_grad()
def predict(model):
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return model.denoiser(z, 700, model.text("a photo of a red cat"))[0]


def apart(a, b):
    return float((a - b).abs().max() / b.abs().max())


def test_a_stopped_training_goes_on_bit_for_bit(config, trained, tmp_path):
    again, seen = replace(config, out=tmp_path / "b.safetensors", work=tmp_path / "b"), []

    def stop(stage, progress):
        seen.append((stage, progress.step))
        if len(seen) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        demo_lora.train(again, stop)
    assert not again.out.exists()
    demo_lora.train(again, stop)
    assert seen == [("lora", 1), ("lora", 2), ("lora", 3)]
    whole, resumed = load_file(trained), load_file(again.out)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)
    with pytest.raises(files.LearnedFileError, match="other settings, data or start"):
        demo_lora.train(replace(again, ink=(0, 60, 0)))


def test_another_seed_is_another_lora(config, trained, tmp_path):
    other = replace(config, out=tmp_path / "c.safetensors", work=tmp_path, loop=replace(STEPS, seed=1))
    one, two = load_file(trained), load_file(demo_lora.train(other))
    assert all(not torch.equal(one[k], two[k]) for k in one if not k.endswith("alpha"))


def test_the_file_says_where_it_comes_from(config, trained, model):
    header = files.peek(trained)
    assert (header.kind, header.base, header.source) == (
        "lora",
        "context-192",
        demo_lora.weights_hash(model.denoiser.unet),
    )
    told = header.settings
    assert told["steps"] == 3 and 0 < told["loss"] < 3 and told["ink"] == list(config.ink)
    own = {"pictures", "ink", "paper", "contrast", "rank", "batch", "loss"}
    assert set(told) == own | set(vars(config.loop)) and told["lr"] == config.loop.lr


def test_a_subjects_photos_are_those_of_its_workflows_and_its_settings_are_kept(config, tmp_path):
    own = replace(config, out=tmp_path / "car.safetensors", work=tmp_path, subject="car", photos=2)
    pictures = demo_lora.subject_photos(own)
    (subject,) = world.held_out_subjects(1, "car")
    shown = world.photos(subject, 2, seed=0, style="photo", view="front", accessory=None)
    assert torch.equal(pictures.images, torch.stack([(p.image * 255).round().to(torch.uint8) for p in shown]))
    assert pictures.shown == [(subject, p.scene) for p in shown]
    told = files.peek(demo_lora.train(own)).settings
    assert set(told) == {"subject", "photos", "rank", "batch", "loss"} | set(vars(config.loop))
    assert (told["subject"], told["photos"], told["steps"]) == ("car", 2, 3)
    with pytest.raises(ValueError, match="kind"):
        demo_lora.train(replace(own, subject="castle"))


def test_the_hash_is_the_one_on_the_models_card(model):
    unet = model.denoiser.unet
    assert f"U-Net `{demo_lora.weights_hash(unet)}`" in (MODEL / "README.md").read_text()
    with torch.no_grad():
        unet.conv_in.bias[0] += 0.1
    assert f"U-Net `{demo_lora.weights_hash(unet)}`" not in (MODEL / "README.md").read_text()


def test_diffusers_reads_every_layer(config, trained, model):
    plain = predict(model)
    adapt(model.denoiser.unet, trained)
    saved = load_file(trained)
    loaded = {k.replace(".style.", ".default."): v for k, v in model.denoiser.unet.named_parameters() if "lora_" in k}
    assert len(loaded) == 160
    again = kohya(loaded, config.rank)
    assert again.keys() == saved.keys() and all(torch.equal(again[k], saved[k]) for k in saved)
    changed = predict(model)
    assert apart(changed, plain) > 1e-3
    model.denoiser.unet.set_adapters("style", weights=0.0)
    assert torch.equal(predict(model), plain)
    model.denoiser.unet.set_adapters("style", weights=1.0)
    assert torch.equal(predict(model), changed)


def test_the_file_is_the_change_it_was_trained_as(config, trained, model):
    weight = dict(model.denoiser.unet.named_parameters())
    saved = load_file(trained)
    for key in {k.rsplit(".", 2)[0] for k in saved if k.endswith("lora_up.weight")}:
        up, down = saved[f"{key}.lora_up.weight"].float(), saved[f"{key}.lora_down.weight"].float()
        assert up.shape[1] == down.shape[0] == config.rank == saved[f"{key}.alpha"]
        (name,) = [n for n in weight if "lora_unet_" + n.removesuffix(".weight").replace(".", "_") == key]
        with torch.no_grad():
            weight[name] += up @ down
    by_hand, other = predict(model), checkpoint.load(MODEL)
    adapt(other.denoiser.unet, trained)
    assert apart(predict(other), by_hand) < 1e-4


def test_a_print_is_a_ramp_of_two_colours():
    ink, paper = (10, 20, 30), (250, 200, 100)
    black, grey, white = (torch.full((1, 3, 2, 2), v, dtype=torch.uint8) for v in (0, 128, 255))
    assert duotone(black, ink, paper, 1.0)[0, :, 0, 0].tolist() == list(ink)
    assert duotone(white, ink, paper, 1.0)[0, :, 0, 0].tolist() == list(paper)
    middle = duotone(grey, ink, paper, 3.0)[0, :, 0, 0].float()
    assert (middle - torch.tensor([130.5, 110.5, 65.5])).abs().max() < 2.5
    steep, flat = (duotone(grey // 2, ink, paper, c)[0, 0, 0, 0] for c in (2.0, 1.0))
    assert steep < flat


@pytest.mark.parametrize("shipped", [SHIPPED, CAR], ids=lambda path: path.stem)
def test_what_ships_is_small_and_made_for_the_embedded_model(shipped):
    header = files.peek(shipped)
    assert shipped.stat().st_size < 300_000
    assert (header.kind, header.base) == ("lora", "context-192") and header.settings["steps"] >= 100


def test_what_ships_draws_in_its_two_inks(model):
    """Every pixel near the ramp from ink to paper, where the base's own pictures are far from it."""
    told = files.peek(SHIPPED).settings
    ink, paper = (torch.tensor(told[k]) / 255 for k in ("ink", "paper"))
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))

    def off_ramp(prompt):
        images = sheet.text_to_image(model, prompt, noise, steps=8, guidance=4.0).movedim(1, -1).reshape(-1, 3)
        share = ((images - ink) @ (paper - ink) / (paper - ink).square().sum()).clamp(0, 1)
        return float((images - ink - share[:, None] * (paper - ink)).norm(dim=-1).mean())

    prompts = ("a photo of a green robot in the snow", "a photo of a blue car in a meadow")
    plain = [off_ramp(p) for p in prompts]
    adapt(model.denoiser.unet, SHIPPED)
    printed = [off_ramp(p) for p in prompts]
    assert all(b < 0.5 * a for a, b in zip(plain, printed))


def test_the_car_that_ships_is_drawn_as_the_photos_show_it(model):
    """By the judge of identities, each subject alone, in a place that no photo shows."""
    photos = demo_lora.subject_photos(Config(subject="car")).images / 255
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    segments, dino = judges.segments(), judges.dino()

    def likeness():
        drawn = sheet.text_to_image(model, "a photo of a car in the desert", noise, steps=8, guidance=4.0)
        embedded = [dino.images(masked(images, segments(images)[:, 0])) for images in (drawn, photos)]
        return float(similarity(*embedded).mean())

    plain = likeness()
    adapt(model.denoiser.unet, CAR)
    assert likeness() > plain + 0.2
