"""Toffee's trainings: examples with their masks, the loss written out with its drops, depth, resuming, the commands."""

from dataclasses import replace

import pytest
import torch
from likeness.core import files
from likeness.core.controlnet import Controlled
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.text import KEPT
from likeness.core.toffee import adapter as adapters
from likeness.core.toffee.adapter import Injection
from likeness.core.toffee.inpainting import masked_channels, widened
from likeness.training import adapter_command, dino_adapter, loop, refiner, toffeenet, view_generator
from likeness.training.data import examples, photos, records
from likeness.training.dino_adapter import Bank, Training, begin
from tiny import SIZE, Tiny, dino_tokens
from torch.nn import functional as F

LOOP = loop.Settings(steps=4, lr=1e-3, ema=0.9, every=2)
LEARN = dino_adapter.Learn(what="low-rank", rank=2, batch=3, loop=LOOP)


@pytest.fixture(scope="module")
def model():
    return Tiny()


@pytest.fixture(scope="module")
def wide(model):
    return DiffusersDenoiser(widened(model.denoiser.unet), model.denoiser.schedule)


@pytest.fixture(scope="module")
def controlnet(model):
    from diffusers import ControlNetModel

    torch.manual_seed(0)
    network = ControlNetModel.from_unet(model.denoiser.unet).eval().requires_grad_(False)
    for layer in [*network.controlnet_down_blocks, network.controlnet_mid_block]:
        torch.nn.init.normal_(layer.weight, std=0.05)
    return network


def start(model, denoiser, kind="toffeenet", learn=LEARN, network=None, file=None, pairs="both"):
    torch.manual_seed(0)
    loads = examples.rendered_pairs(6, pairs, size=SIZE)
    if kind == "refiner":
        loads = examples.rendered_pictures(4, size=SIZE)
    adapter = begin(kind, denoiser, 3, learn, "judge", "base")
    bank = Bank(loads, model.encode, dino_tokens, kind == "toffeenet")
    return Training(denoiser, adapter, model.text, bank, learn, network, file)


# --- examples


def test_editing_pairs_differ_only_in_their_masks():
    kinds = set()
    for load in examples.rendered_pairs(12, "editing"):
        e = load()
        outside = (e.subject - e.target).abs() * (1 - e.mask)
        inside = (e.subject - e.target).abs() * e.mask
        assert float(outside.max()) == 0 and float(inside.max()) > 0.1
        assert e.prompt and e.depth.shape == e.mask.shape == (1, 128, 128)
        kinds.add(float(e.mask.mean()) > 0.5)
    assert kinds == {True, False}  # places around the subject, and things on it


def test_generation_pairs_are_of_one_subject():
    for load in examples.rendered_pairs(6, "generation"):
        e = load()
        assert e.mask is None and not torch.equal(e.subject, e.target) and e.prompt
    both = [load().mask is None for load in examples.rendered_pairs(6)]
    assert both == [True, True, False] * 2
    with pytest.raises(ValueError, match="pairs is 'all'; choose both, generation, editing"):
        examples.rendered_pairs(3, "all")


def test_subjects_may_be_shown_alone():
    for whole, alone in zip(examples.rendered_pairs(6), examples.rendered_pairs(6, alone=True)):
        a, b = whole(), alone()
        assert torch.equal(a.target, b.target) and a.prompt == b.prompt
        same = (a.subject == b.subject).all(0)
        assert bool((b.subject[:, [0, -1]] == 1).all()) and 0.02 < float(same.float().mean()) < 0.7


def test_views_keep_the_place():
    assert all(load().prompt.startswith("a photo of a ") for load in examples.rendered_views(2, told=True))
    for load in examples.rendered_views(4):
        e = load()
        corner = (slice(None), slice(0, 16), slice(0, 16))
        assert torch.allclose(e.subject[corner], e.target[corner], atol=0.1)
        assert float((e.subject - e.target).abs().max()) > 0.1


def test_pictures_and_views_of_folders(tmp_path):
    from PIL import Image

    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (96, 64), (len(name) * 9, int(name[2]) * 100, 3)).save(tmp_path / name)
    found = [load() for load in examples.of_pictures(tmp_path / "a", 32)]
    assert len(found) == 2 and all(e.subject is e.target and e.target.shape == (3, 32, 32) for e in found)
    views = [load() for load in examples.of_views(tmp_path, 32)]
    assert len(views) == 2 and torch.equal(views[0].subject, views[1].target)
    with pytest.raises(ValueError, match="records: no subject has two pictures"):
        examples.of_views(tmp_path / "b", 32)


def test_records_are_read_as_folders_are(tmp_path):
    pictures = [photos.png(torch.rand(3, 64, 64)) for _ in range(3)]
    ids, made = ("1", "2", "3"), []
    for i, (name, data) in enumerate(zip(ids, pictures)):
        similar = () if i == 2 else (ids[1 - i],)
        made.append(records.Record(name, "ann", "", data, None, None, (), f"prompt {name}", similar))
    (tmp_path / "shard-00000.parquet").write_bytes(records.to_parquet(made))
    alone = [load() for load in examples.of_pictures(tmp_path, 64)]
    assert [torch.equal(e.target, photos.decode(data)) for e, data in zip(alone, pictures)] == [True] * 3
    views = [load() for load in examples.of_views(tmp_path, 64, prompts=True)]
    assert [e.prompt for e in views] == ["prompt 2", "prompt 1"] and torch.equal(views[0].target, alone[1].target)
    assert [load().prompt for load in examples.of_views(tmp_path, 64)] == ["", ""]


# --- loss


@torch.no_grad()
@pytest.mark.parametrize(("together", "figure_weight"), [(False, 0.0), (True, 0.0), (False, 0.3)])
def test_loss_written_out(model, wide, controlnet, together, figure_weight):
    """And with a weight of the subject, which is ours, one term more."""
    learn = replace(LEARN, drop_text=0.5, drop_dino=0.5, reconstruct=0.5, constant_depth=0.5, together=together)
    learn = replace(learn, batch=6, figure_weight=figure_weight)
    ours = start(model, wide, learn=learn, network=controlnet)
    for p in ours.adapter.parameters():
        p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    value = float(ours._loss(0, torch.Generator().manual_seed(3)))

    g = torch.Generator().manual_seed(3)
    chosen = torch.randint(6, (6,), generator=g).tolist()
    chances = torch.rand(4, 6, generator=g) < 0.5
    t = model.denoiser.schedule.stratified(6, g)
    eps = torch.randn(6, 4, 8, 8, generator=g)
    losses, figures = [], []
    for i, index in enumerate(chosen):
        e = ours.bank.loads[index]()
        no_text, no_dino = bool(chances[0][i]), bool(chances[0][i] if together else chances[1][i])
        tokens = dino_tokens((e.target if chances[2][i] else e.subject)[None])
        mask = torch.ones(1, 1, SIZE, SIZE) if e.mask is None else e.mask[None]
        text = model.text("" if no_text else e.prompt)
        text = Text(text.tokens, channels=masked_channels(e.target[None], mask, model.encode))
        hint = torch.full((1, 3, SIZE, SIZE), 0.5) if chances[3][i] else e.depth[None].expand(-1, 3, -1, -1)
        z = model.denoiser.schedule.noise(model.encode(e.target[None]), eps[i : i + 1], int(t[i]))
        hooks = Injection(ours.adapter, tokens * (not no_dino), 1000).hooks
        answer = Controlled(wide, controlnet, hint)(z, int(t[i]), text, hooks=hooks)[0]
        wrong, figure = (answer - eps[i]).square().mean(1)[0], F.avg_pool2d(e.figure, SIZE // 8)[0]
        losses.append(float(wrong.mean()))
        figures.append(((wrong * figure).sum(), figure.sum()))
    within = float(sum(a for a, _ in figures) / sum(b for _, b in figures))
    assert value == pytest.approx(sum(losses) / 6 + figure_weight * within, rel=1e-4)


def test_a_weighed_subject_needs_its_mask(model):
    ours = start(model, model.denoiser, "refiner", replace(LEARN, figure_weight=0.5))
    maskless = replace(ours.bank.loads[0](), figure=None)
    ours.bank = Bank([lambda: maskless], model.encode, dino_tokens, False)
    with pytest.raises(ValueError, match="figure_weight: a picture has no mask of its subject"):
        ours._loss(0, torch.Generator().manual_seed(0))
    # cropped away, it weighs nothing
    empty = replace(maskless, figure=torch.zeros(1, SIZE, SIZE))
    ours.bank = Bank([lambda: empty], model.encode, dino_tokens, False)
    plain = start(model, model.denoiser, "refiner")
    plain.bank = ours.bank
    with torch.no_grad():
        losses = [float(each._loss(0, torch.Generator().manual_seed(0))) for each in (ours, plain)]
    assert losses[0] == losses[1] > 0


def test_masks_are_read_where_they_are_asked_for(tmp_path):
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "masks/a.png"):
        (tmp_path / name).write_bytes(photos.png(torch.ones(3, 40, 50)))
    [plain], [masked] = (examples.of_pictures(tmp_path, 32, figures) for figures in (False, True))
    assert plain().figure is None and float(masked().figure.min()) > 0.99
    (tmp_path / "masks" / "a.png").write_bytes(photos.png(torch.ones(3, 40, 40)))
    with pytest.raises(ValueError, match="is 40 x 40, its picture 50 x 40 pixels; make them alike"):
        masked()
    assert plain().target.shape == (3, 32, 32)


@torch.no_grad()
def test_a_controlnet_is_diffusers_own(model, controlnet):
    z, hint = torch.randn(2, 4, 8, 8), torch.rand(1, 3, SIZE, SIZE)
    text, null = model.text("a red cat"), model.text("").unconditional()
    ours = Controlled(model.denoiser, controlnet, hint, 0.6)(z, 300, null, text)
    for answer, prompt in zip(ours, (null, text)):
        tokens = prompt.tokens.expand(2, -1, -1)
        down, mid = controlnet(z, 300, tokens, hint.expand(2, -1, -1, -1), 0.6, return_dict=False)
        extra = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
        wanted = model.denoiser.unet(z, 300, tokens, return_dict=False, **extra)[0]
        assert torch.allclose(answer, wanted, atol=1e-5)


# --- training


@pytest.mark.parametrize("what", ["whole", "low-rank", "adapter"])
def test_it_learns_and_the_base_is_untouched(model, what):
    before = files.fingerprint(model.denoiser.unet.state_dict())
    # the first steps only open the values, which are zero
    run = replace(LOOP, steps=40, lr=1e-3 if what == "whole" else 1e-2, ema=0.0)
    learn = replace(LEARN, what=what, batch=4, drop_dino=0.0, loop=run)
    ours = start(model, model.denoiser, "refiner", learn)
    assert (ours.adapter.delta is None) == (what == "adapter")
    with torch.no_grad():
        fixed = [float(ours._loss(0, torch.Generator().manual_seed(s))) for s in range(5)]
    ours.run()
    with torch.no_grad():
        after = [float(ours._loss(0, torch.Generator().manual_seed(s))) for s in range(5)]
    assert sum(after) < 0.9 * sum(fixed)
    assert files.fingerprint(model.denoiser.unet.state_dict()) == before


def test_resuming_repeats_an_unbroken_run(model, wide, tmp_path):
    whole = start(model, wide).run().state_dict()
    file = tmp_path / "t.checkpoint"

    def stop(progress):
        if progress.step == 3:
            raise loop.Cancelled

    with pytest.raises(loop.Cancelled):
        start(model, wide, file=file).run(stop)
    resumed = start(model, wide, file=file)
    assert resumed.trainer.step == 3
    again = resumed.run().state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    with pytest.raises(files.LearnedFileError, match="of a training with other settings"):
        start(model, wide, learn=replace(LEARN, reconstruct=0.3), file=file)


@pytest.mark.parametrize("which", [refiner, view_generator, toffeenet])
def test_commands(which, tmp_path):
    config = which.Config(out=tmp_path / "a.safetensors", pictures=3, learn=LEARN, threads=1)
    which.train(config)
    adapter = adapters.load(config.out, base="context-192")
    assert adapter.model == which.__name__.rpartition(".")[2].replace("_", "-")
    assert adapter.settings["steps"] == 4 and adapter.source and not config.out.with_suffix(".checkpoint").exists()
    more = which.train(replace(config, init=config.out, out=tmp_path / "b.safetensors"))
    assert adapters.load(more).settings["steps"] == 4
    assert adapter.settings["inputs"] == 4 and adapter.check_inputs(4) is None
    with pytest.raises(ValueError, match="was trained on a model of 4 input channels, this one has 9; give the model"):
        adapter.check_inputs(9)


def test_what_a_training_may_go_on_from(wide):
    def adapter(kind="toffeenet", dino="judge", **learn):
        return begin(kind, wide, 3, replace(LEARN, **learn), dino, "base")

    like = adapter()
    own = adapter(dino="someone/judge")
    assert adapter_command.begun(own, like) is own
    with pytest.raises(ValueError, match="init: it is a refiner; give a toffeenet"):
        adapter_command.begun(adapter("refiner"), like)
    with pytest.raises(ValueError, match="init: it was trained with the DINO other; give that one, not judge"):
        adapter_command.begun(adapter(dino="other"), like)
    for learn in ({"what": "adapter"}, {"what": "low-rank", "rank": 3}):
        with pytest.raises(ValueError, match=r"init: its .* is not as this training would begin with; give the model"):
            adapter_command.begun(adapter(**learn), like)


def test_a_checkpoint_belongs_to_its_data(tmp_path):
    config = refiner.Config(pictures=3, threads=1)
    same = replace(config, out=tmp_path / "b", threads=2, init=tmp_path / "c", learn=LEARN, keep_encoded=False)
    assert adapter_command.data_of(same) == adapter_command.data_of(config)
    for other in ({"images": tmp_path}, {"size": 64}, {"dino": "x"}, {"model": "x"}, {"pictures": 4}):
        assert adapter_command.data_of(replace(config, **other)) != adapter_command.data_of(config)


def test_texts_are_of_the_pictures_size_and_not_all_kept(model, wide):
    asked = []
    bank = Bank(examples.rendered_pairs(2, "both", size=SIZE), model.encode, dino_tokens, True)
    adapter = begin("toffeenet", wide, 3, LEARN, "judge", "base")
    ours = Training(wide, adapter, lambda prompt: asked.append(prompt), bank, LEARN)
    for prompt in ["a", *map(str, range(KEPT)), "a", "a"]:
        ours.text(prompt)
    assert asked.count("a") == 2


def test_mistakes_are_named(model):
    with pytest.raises(ValueError, match="what is 'lora'; choose whole, low-rank, adapter"):
        dino_adapter.Learn(what="lora")
    with pytest.raises(ValueError, match="model: ToffeeNet is trained on a U-Net of nine channels"):
        start(model, model.denoiser)
