"""The pair factory's drawing, written out on small networks; its models by name; from the command to ToffeeNet."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch

pytest.importorskip("pyarrow", reason="the factory keeps what it makes in Parquet files")

from likeness.cli import main
from likeness.core import checkpoint
from likeness.core.controlnet import Controlled
from likeness.core.demo import MODEL, judges, world
from likeness.core.denoiser import guided
from likeness.core.diffusion import sample
from likeness.core.toffee import adapter as adapters
from likeness.core.toffee import tokens as described
from likeness.core.toffee.adapter import Injection
from likeness.core.toffee.matching import blend
from likeness.training.data import hub
from likeness.training.data.pairs import draw, models, prompts, table
from likeness.training.data.pairs.models import Names
from likeness.training.data.photos import decode
from tiny import SIZE, Tiny
from torch.nn import functional as F
from vision_models import shake

SETTINGS = draw.Settings(size=SIZE, steps=5, threshold=0.5, share=0.5)
PROMPTS, KEYS, WORDS = ["a red cat", "a dog"], ["0 pair 1", "0 pair 2"], ["cat", "dog"]


class Small(Tiny):
    def decode(self, latents):
        return F.interpolate(latents[:, :3], scale_factor=8).sigmoid()


@pytest.fixture(scope="module")
def base():
    return Small()


@pytest.fixture(scope="module")
def dino():
    return judges.dino()


@pytest.fixture(scope="module")
def adapted(base, dino):
    """A Refiner and a View Generator that do something."""
    found = {}
    for kind in ("refiner", "view-generator"):
        torch.manual_seed(len(kind))
        adapter = adapters.blank(kind, base.denoiser.sites, dino.model.config.hidden_size).requires_grad_(False)
        for p in adapter.parameters():
            p += 0.1 * torch.randn(p.shape)
        found[kind] = draw.Adapted(base, adapter.eval())
    return found


@pytest.fixture(scope="module")
def painter(base, dino, adapted):
    return draw.Painter(base, dino, adapted["refiner"], adapted["view-generator"], None, SETTINGS)


@pytest.fixture(scope="module")
def photos():
    """Two subjects, and where they are."""
    shots = [world.draw(*world.sample_scene(seed), size=SIZE) for seed in (1, 2)]
    return torch.stack([shot.image for shot in shots]), torch.stack([(shot.mask > 0.5).float() for shot in shots])


def noises(what):
    return torch.stack([draw.noise(f"{key} {what}", (4, 8, 8)) for key in KEYS])


# --- drawing written out


def test_drawing_is_ddim_from_noise_of_its_own(painter, base):
    schedule, timesteps = base.denoiser.schedule, base.denoiser.schedule.timesteps(5)
    got = painter.draw(PROMPTS, KEYS)
    for i, prompt in enumerate(PROMPTS):
        predict = guided(base.denoiser, base.text(prompt), base.text(""), 5.0)
        with torch.no_grad():
            wanted = base.decode(sample(schedule, predict, noises("drawn")[i : i + 1], timesteps))
        assert torch.allclose(got[i : i + 1], wanted, atol=1e-4)
        assert torch.allclose(painter.draw([prompt], KEYS[i : i + 1]), wanted, atol=1e-4)  # alone or beside others
    assert torch.equal(painter.draw(PROMPTS, KEYS), got)
    assert not torch.allclose(painter.draw(PROMPTS, KEYS[::-1]), got, atol=1e-2)


def test_an_edit_is_blended_diffusion(painter, base, photos):
    images, figures = photos
    got = painter.edit(images, figures, PROMPTS, KEYS, [1.0, 0.7])
    schedule, timesteps = base.denoiser.schedule, base.denoiser.schedule.timesteps(5)
    for i, prompt in enumerate(PROMPTS):
        image, figure, eps = images[i : i + 1], figures[i : i + 1], noises("drawn")[i : i + 1]
        latents, small = base.encode(image), F.adaptive_max_pool2d(figure, 8)
        predict = guided(base.denoiser, base.text(prompt), base.text(""), 5.0)
        # the second begins at the first time below 700, from the noised picture
        times = timesteps[i:]
        z = eps if i == 0 else schedule.noise(latents, eps, times[0])
        for t, s in zip(times, [*times[1:], -1]):
            with torch.no_grad():
                z = schedule.step(predict(z, t), z, t, s)
            z = torch.where(small > 0, z, schedule.noise(latents, eps, s))
        wanted = torch.where(figure > 0.5, base.decode(z), image)
        assert torch.allclose(got[i : i + 1], wanted, atol=1e-4)
    assert torch.equal(got * (1 - figures), images * (1 - figures))
    everywhere = painter.edit(images, torch.ones_like(figures), PROMPTS, KEYS, [1.0, 0.9])
    assert torch.allclose(everywhere[:1], painter.draw(PROMPTS, KEYS)[:1], atol=1e-5)
    assert not torch.allclose(everywhere[1:], painter.draw(PROMPTS, KEYS)[1:], atol=1e-3)  # 801 is its first time


@pytest.mark.parametrize("editing", [False, True])
def test_refining_is_the_papers(painter, base, dino, adapted, photos, editing):
    images, figures = photos
    drawn = painter.draw(PROMPTS, KEYS)
    masks = figures if editing else None
    got, shares = painter.refine(drawn, images, figures, KEYS, masks)
    schedule = base.denoiser.schedule
    timesteps = [t for t in schedule.timesteps(5) if t < 600]
    assert len(timesteps) == 3  # t_0 is 0.6
    for i in range(2):
        subject = described.encode(dino, "dino", images[i : i + 1]).of(figures[i : i + 1])
        mine = dino.tokens(drawn[i : i + 1])[0]
        tokens, found = blend(mine, subject.tokens[0], 0.5, 0.5, subject.subject[0])
        assert shares[i] == pytest.approx(float((found.similarity > 0.5).float().mean()))
        hooks = Injection(adapted["refiner"].adapter, tokens[None], 1000).hooks
        predict = guided(base.denoiser, base.text(""), base.text(""), 3.0, hooks)
        latents, eps = base.encode(drawn[i : i + 1]), noises("refined")[i : i + 1]
        z, original = schedule.noise(latents, eps, timesteps[0]), base.encode(images[i : i + 1])
        small = F.adaptive_max_pool2d(figures[i : i + 1], 8) if editing else torch.ones(1, 1, 8, 8)
        for t, s in zip(timesteps, [*timesteps[1:], -1]):
            with torch.no_grad():
                z = schedule.step(predict(z, t), z, t, s)
            z = torch.where(small > 0, z, schedule.noise(original, eps, s))
        wanted = base.decode(z)
        wanted = torch.where(figures[i : i + 1] > 0.5, wanted, images[i : i + 1]) if editing else wanted
        assert torch.allclose(got[i : i + 1], wanted, atol=1e-4)


def test_a_view_is_drawn_from_the_subjects_tokens(painter, base, dino, adapted, photos):
    images, _ = photos
    got = painter.view(images, KEYS, WORDS)
    hooks = Injection(adapted["view-generator"].adapter, dino.tokens(images), 1000).hooks
    predict = guided(base.denoiser, base.text(""), base.text(""), 3.0, hooks)
    schedule = base.denoiser.schedule
    with torch.no_grad():
        wanted = base.decode(sample(schedule, predict, noises("view"), schedule.timesteps(5)))
    assert torch.allclose(got, wanted, atol=1e-5)
    assert not torch.allclose(painter.view(images.flip(0), KEYS, WORDS), got, atol=1e-3)


def test_a_view_generator_that_is_told_what_it_draws(base, dino, adapted, photos):
    images, own = photos[0], adapted["view-generator"]
    told = copy.copy(own.adapter)
    told.settings = {"told": True}
    painter = draw.Painter(base, dino, None, draw.Adapted(own.model, told), None, SETTINGS)
    got = painter.view(images, KEYS, WORDS)
    hooks = Injection(told, dino.tokens(images), 1000).hooks
    texts = [base.text(f"a photo of a {word}") for word in WORDS]
    predict = guided(base.denoiser, texts[0].with_rows(texts[1:]), base.text(""), 3.0, hooks)
    schedule = base.denoiser.schedule
    with torch.no_grad():
        wanted = base.decode(sample(schedule, predict, noises("view"), schedule.timesteps(5)))
    assert torch.allclose(got, wanted, atol=1e-5)
    assert not torch.allclose(painter.view(images, KEYS, WORDS[::-1]), got, atol=1e-3)


def test_a_step_that_is_left_out_changes_nothing(base, dino, photos):
    images, figures = photos
    plain = draw.Painter(base, dino, None, None, None, SETTINGS)
    drawn = plain.draw(PROMPTS, KEYS)
    assert plain.refine(drawn, images, figures, KEYS)[0] is drawn and plain.view(images, KEYS, WORDS) is images


def test_depth_leads_through_a_controlnet(base, dino, photos):
    from diffusers import ControlNetModel

    torch.manual_seed(0)
    network = ControlNetModel.from_unet(base.denoiser.unet).eval().requires_grad_(False)
    for layer in [*network.controlnet_down_blocks, network.controlnet_mid_block]:
        torch.nn.init.normal_(layer.weight, std=0.05)
    led = draw.Painter(base, dino, None, None, network, replace(SETTINGS, control=0.7))
    depth = photos[1]
    got = led.draw(PROMPTS, KEYS, depth)
    controlled = Controlled(base.denoiser, network, depth.expand(-1, 3, -1, -1), 0.7)
    text = base.text(PROMPTS[0]).with_rows([base.text(PROMPTS[1])])
    schedule = base.denoiser.schedule
    with torch.no_grad():
        predict = guided(controlled, text, base.text(""), 5.0)
        wanted = base.decode(sample(schedule, predict, noises("drawn"), schedule.timesteps(5)))
    assert torch.allclose(got, wanted, atol=1e-5)
    assert not torch.allclose(led.draw(PROMPTS, KEYS), got, atol=1e-3)


# --- models by name


@pytest.fixture(scope="module")
def files(tmp_path_factory, dino):
    """Adapters for the embedded model, which change nothing yet."""
    folder, sites = tmp_path_factory.mktemp("adapters"), checkpoint.load(MODEL).denoiser.sites
    for kind in adapters.MODELS:
        torch.manual_seed(0)
        width = dino.model.config.hidden_size
        adapters.save(folder / f"{kind}.safetensors", adapters.blank(kind, sites, width, dino="the embedded judge"))
    adapters.save(folder / "giant.safetensors", adapters.blank("refiner", sites, 1536, dino="facebook/dinov2-giant"))
    return folder


def test_the_embedded_models_by_name(files, tmp_path, monkeypatch):
    names = Names(refiner=str(files / "refiner.safetensors"), view_generator="none")
    found = names.models(SETTINGS)
    found.load()
    assert found.painter.refiner.model is found.painter.base and found.painter.views is None and found.depth is None
    named = replace(names, refiner_base=str(shutil.copytree(MODEL, tmp_path / "other"))).models(SETTINGS)
    assert named.painter.refiner.model is not named.painter.base
    # once there are trained ones of the demo world they are found
    with pytest.raises(FileNotFoundError, match=r"models.refiner: no demo refiner is shipped; train one with"):
        monkeypatch.setattr(models, "ADAPTERS", tmp_path)
        Names().check()
    for kind in ("refiner", "view-generator"):
        shutil.copy(files / f"{kind}.safetensors", tmp_path / f"demo {kind}.safetensors")
    assert Names().check()["base"] == str(MODEL)


@pytest.mark.parametrize(
    "names, message",
    [
        (dict(refiner="missing.safetensors"), "models.refiner: no file missing.safetensors; give one that `likeness"),
        (dict(refiner="view-generator"), r"models.refiner: view-generator.safetensors is a view-generator"),
        (dict(refiner="giant"), r"models.dino: its tokens have 160 numbers, but giant.safetensors takes 1536.*giant"),
        (dict(clip="some/clip"), r"models.clip: some/clip is neither a folder .*--models.download to fetch it"),
        (dict(base="some/base"), r"models.base: some/base is neither"),
        (dict(clip="a clip"), r"models.clip: a clip is neither"),
        (dict(dino="./none"), r"no DINO model at ./none"),
        (dict(segmenter="sam.pth"), "models.detector: none is named"),
        (dict(controlnet="some/depth"), "models.depth: a ControlNet for depth needs a depth model"),
        (dict(controlnet=str(MODEL / "vae"), depth=str(MODEL / "unet")), "of the kind AutoencoderTiny, but a Con"),
        (dict(depth="demo"), "models.depth: there is no embedded one"),
    ],
)  # fmt: skip
def test_models_that_can_not_be_had_are_named(files, tmp_path, monkeypatch, names, message):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    named = {
        k: str(files / f"{v}.safetensors") if (files / f"{v}.safetensors").exists() else v for k, v in names.items()
    }
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        Names(**{"refiner": "none", "view_generator": "none", **named}).models(SETTINGS)


def test_nothing_is_downloaded_without_consent(tmp_path, monkeypatch):
    import socket

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("asked the network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("asked the network"))
    snapshot = tmp_path / "models--some--clip" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--some--clip" / "refs").mkdir()
    (tmp_path / "models--some--clip" / "refs" / "main").write_text("abc")
    with pytest.raises(FileNotFoundError, match=r"models.clip: some/clip was downloaded in part only; add --models"):
        hub.found("some/clip", "models.clip", False)
    (snapshot / "model.safetensors").write_bytes(b"")
    assert hub.found("some/clip", "models.clip", False) == str(snapshot)
    with pytest.raises(FileNotFoundError, match=r"models.clip: other/clip is neither"):
        hub.found("other/clip", "models.clip", False)


def test_with_consent_all_that_is_missing_is_fetched_but_no_pickle(monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: asked.append((name, how)) or "there")
    assert hub.found("other/clip", "models.clip", True) == "there"
    [(name, how)] = asked
    assert name == "other/clip" and "*.safetensors" in how["allow_patterns"] and "local_files_only" not in how
    assert not any("bin" in pattern or "pt" in pattern for pattern in how["allow_patterns"])


def test_a_depth_model_of_transformers(tmp_path, photos):
    import transformers as t

    sizes = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16)
    config = t.DPTConfig(
        **sizes,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    torch.manual_seed(0)
    shake(t.DPTForDepthEstimation(config), std=0.3).save_pretrained(tmp_path)
    t.DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = models.DepthModel(tmp_path)
    depth = model(photos[0])
    assert depth.shape == (2, 1, SIZE, SIZE) and model.model.dtype == torch.float32
    assert depth.amin((1, 2, 3)).tolist() == [0, 0] and depth.amax((1, 2, 3)).tolist() == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="is a dinov2 model, but a depth estimator is needed here"):
        models.DepthModel(judges.JUDGES / "dino").model  # noqa: B018


def test_a_language_model_of_transformers(tmp_path):
    import transformers as t

    tokenizer = t.CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    size = dict(n_embd=16, n_layer=1, n_head=2, n_positions=256, vocab_size=len(tokenizer))
    t.GPT2LMHeadModel(t.GPT2Config(**size)).save_pretrained(tmp_path)
    model = prompts.LanguageModel(str(tmp_path))
    before = torch.get_rng_state()
    answers = [model("a photo of", 12, seed) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2] and torch.equal(torch.get_rng_state(), before)
    with pytest.raises(FileNotFoundError, match="no language model at"):
        prompts.LanguageModel("./none")


# --- from the factory to ToffeeNet


def test_the_command_makes_what_toffeenet_learns_from(files, tmp_path, capsys):
    out, quick = tmp_path / "pairs", ["--draw.size", "64", "--draw.steps", "2", "--workers", "0", "--part", "3"]
    named = ["--models.refiner", str(files / "refiner.safetensors")]
    named += ["--models.view-generator", str(files / "view-generator.safetensors")]
    named += ["--filters.dino=-1", "--filters.quantile=0"]
    main(["build", "pairs", "--out", str(out), "--pairs", "6", "--subjects", "2", *quick, *named])
    text, bars = capsys.readouterr()
    assert f"wrote {out}" in text and "candidates: 100%" in bars and "worker hours of 1 M pairs" in text
    pairs = [pair for shard in sorted(out.glob("*.parquet")) for pair in table.each(shard, table.Pair)]
    assert 4 <= len(pairs) <= 6 and any(pair.editing for pair in pairs)
    assert all(decode(pair.target).shape == decode(pair.input).shape == (3, 64, 64) for pair in pairs)
    learn = [
        "--learn.loop.steps",
        "2",
        "--learn.batch",
        "2",
        "--learn.what",
        "low-rank",
        "--size",
        "64",
        "--threads",
        "1",
    ]
    adapter = tmp_path / "toffeenet.safetensors"
    main(["train", "toffeenet", "--pairs-from", str(out), "--out", str(adapter), *learn])
    learned = adapters.load(adapter)
    assert learned.model == "toffeenet" and learned.settings["steps"] == 2
    with pytest.raises(SystemExit, match="pairs_from: no shard in"):
        main(["train", "toffeenet", "--pairs-from", str(tmp_path), "--out", str(adapter), *learn])
