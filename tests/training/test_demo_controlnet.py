"""The demo ControlNet's training, a few steps of it: resumable, and the file is what was trained."""

from dataclasses import replace

import pytest
import torch
from likeness.core import checkpoint, controlnet, files
from likeness.core.demo import MODEL, judges, sheet, world
from likeness.training import demo_controlnet
from likeness.training.demo_controlnet import Config
from likeness.training.demo_lora import weights_hash
from likeness.training.loop import Cancelled, Settings
from safetensors.torch import load_file

STEPS = Settings(steps=3, lr=1e-2, ema=0.9, every=1)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo-controlnet")
    threads = torch.get_num_threads()
    return Config(folder / "a.safetensors", folder / "a", pictures=4, rank=2, batch=2, loop=STEPS, threads=threads)


@pytest.fixture(scope="module")
def trained(config):
    return demo_controlnet.train(config)


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(MODEL)


def inputs():
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 16, 16, generator=g), torch.tensor([300, 700]), torch.randn(2, 9, 192, generator=g)


def under(unet, network):
    hint = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    return demo_controlnet.under(unet, network, *inputs(), hint)


def test_a_stopped_training_goes_on_bit_for_bit(config, trained, tmp_path):
    again, seen = replace(config, out=tmp_path / "b.safetensors", work=tmp_path / "b"), []

    def stop(stage, progress):
        seen.append((stage, progress.step))
        if len(seen) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        demo_controlnet.train(again, stop)
    assert not again.out.exists()
    demo_controlnet.train(again, stop)
    assert seen == [("controlnet", 1), ("controlnet", 2), ("controlnet", 3)]
    whole, resumed = load_file(trained), load_file(again.out)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert files.peek(trained) == files.peek(again.out)
    for other in (dict(silent=0.5), dict(batch=3), dict(loop=replace(STEPS, lr=1e-3))):
        with pytest.raises(files.LearnedFileError, match="other settings, data or start"):
            demo_controlnet.train(replace(again, **other))


def test_the_file_says_where_it_comes_from(config, trained, model):
    header, unet = files.peek(trained), model.denoiser.unet
    assert (header.kind, header.base, header.source) == ("controlnet", "context-192", weights_hash(unet))
    told = header.settings
    assert told["steps"] == 3 and 0 < told["loss"] < 3 and told["lr"] == config.loop.lr
    assert set(told) == {"pictures", "rank", "silent", "batch", "loss"} | set(vars(config.loop))


def test_what_was_learned_guides_the_base(trained, model):
    unet = model.denoiser.unet
    fresh, _ = demo_controlnet.begin(unet, 2, 0)
    with torch.no_grad():
        first, last = under(unet, fresh), under(unet, controlnet.load(trained, unet))
        plain = unet(*inputs(), return_dict=False)[0]
    assert torch.equal(first, plain)
    assert float((last - plain).abs().max() / plain.abs().max()) > 1e-3


def test_the_file_is_the_network_it_was_trained_as(model, tmp_path):
    """Every trained tensor counts, and the file's sums of weights do what low ranks beside the layers did."""
    from likeness.core.control_lora import ldm_names, pack

    unet = model.denoiser.unet
    network, parameters = demo_controlnet.begin(unet, 2, 0)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in parameters.values():
            p.copy_((p + 0.05 * torch.randn(p.shape, generator=g)).half())
    files.save(tmp_path / "a.safetensors", pack(parameters, ldm_names(network)), files.Header("controlnet"))
    answer = under(unet, network)
    answer.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters.values())
    assert all(p.grad is None for p in unet.parameters())
    loaded = controlnet.load(tmp_path / "a.safetensors", unet)
    with torch.no_grad():
        assert float((under(unet, loaded) - answer).abs().max() / answer.abs().max()) < 1e-4


def test_depth_is_the_worlds_and_near_is_bright(config, trained, tmp_path):
    cache = config.work / "depth-4.safetensors"
    pictures, depth = demo_controlnet.render(4, cache)
    assert depth.shape == (4, 1, 128, 128) and depth.dtype == torch.uint8
    hints = demo_controlnet.hints(depth)
    for i in range(4):
        drawn = world.sample(i)
        assert (hints[i] - drawn.depth).abs().max() < 0.5 / 255 + 1e-6
        assert (pictures.images[i] / 255 - drawn.image).abs().max() < 0.5 / 255 + 1e-6
        near = drawn.mask[0] > 0.5
        assert hints[i, 0][near].mean() > hints[i, 0][~near].mean()
    stale = tmp_path / "depth-4.safetensors"
    files.save(stale, {"images": torch.zeros(4, 4, 128, 128, dtype=torch.uint8)}, files.Header(kind="depth"))
    assert torch.equal(demo_controlnet.render(4, stale)[1], depth)


def test_the_hint_arrives_from_the_first_step(model):
    network, _ = demo_controlnet.begin(model.denoiser.unet, 2, 0)
    shown = torch.stack([world.sample(i).depth for i in range(4)]).expand(-1, 3, -1, -1)
    with torch.no_grad():
        assert network.controlnet_cond_embedding(shown).std(0).mean() > 1e-3  # diffusers' own start: 0


SHIPPED = MODEL.parent / "controlnet" / "depth.safetensors"


def test_what_ships_is_small_and_made_for_the_embedded_model(model):
    header = files.peek(SHIPPED)
    assert SHIPPED.stat().st_size < 2_500_000
    assert (header.kind, header.base) == ("controlnet", "context-192") and header.settings["steps"] >= 1000
    assert header.source == weights_hash(model.denoiser.unet)


def test_what_ships_draws_the_shapes_that_it_is_shown(model):
    """Subjects stand where the depth has them, and are as large, by the judge that finds subjects."""
    segments, overlap = judges.segments(), {"plain": [], "shown": []}
    for i, kind in enumerate(("cat", "car", "robot", "teapot")):
        (subject,) = world.held_out_subjects(1, kind)
        (photo,) = world.photos(subject, 1, i, style="photo", background="beach", view="front", accessory=None)
        network = controlnet.load(SHIPPED, model.denoiser.unet)
        hint = photo.depth[None].expand(-1, 3, -1, -1)
        drawer_of_depth = replace(model, denoiser=controlnet.Controlled(model.denoiser, network, hint))
        noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(i))
        for name, drawer in (("plain", model), ("shown", drawer_of_depth)):
            drawn = sheet.text_to_image(drawer, f"a photo of a {kind} on the beach", noise, steps=8, guidance=4.0)
            found, wanted = segments(drawn) > 0.5, photo.mask[None] > 0.5
            overlap[name].append(float((found & wanted).sum() / (found | wanted).sum()))
    plain, shown = (sum(values) / len(values) for values in overlap.values())
    assert shown > plain + 0.15, overlap
