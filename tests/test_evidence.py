"""The comparison of everything, very small: each method learns, draws and is measured; cells repeat; claims are judged.

Numbers of a few training steps say nothing about methods; what is checked is that each does what it says.
"""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))  # plain modules beside each other

from evidence import bench as benches  # noqa: E402
from evidence import (  # noqa: E402
    claims,
    claims_curves,
    command,
    curves,
    learned,
    measure,
    methods,
    ours,
    perfusion,
    results,
    run,
    zero_shot,
)
from evidence.claims_list import CLAIMS  # noqa: E402
from evidence.learned import Recipe, tuned  # noqa: E402
from likeness.core import files  # noqa: E402
from likeness.core.retrinet import network as retrinet  # noqa: E402
from likeness.core.toffee import adapter as adapters  # noqa: E402
from likeness.training import comparison, loop, report  # noqa: E402
from likeness.training.data.photos import png  # noqa: E402

QUICK = Recipe(1e-2, 2, batch=2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    found = benches.demo(1, tmp_path_factory.mktemp("evidence"), steps=2, seeds=1, milestones=(1,))
    return replace(found, prompts=found.prompts[::4])


@pytest.fixture(scope="module")
def case(bench):
    return bench.cases[0]


@pytest.fixture(scope="module")
def plain(bench, case):
    return learned.foundation(bench, case).latents(bench.asked(case)[0], bench.noise())


def draw(bench, case, build):
    return build(bench, case).latents(bench.asked(case)[0], bench.noise())


# --- tuned methods ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["Textual Inversion", "DreamBooth", "DreamBooth-LoRA", "Custom Diffusion", "Infusion"])
def name(request):
    return request.param


RECIPES = {"DreamBooth": dict(lr=1e-3), "DreamBooth-LoRA": dict(rank=2)}


def begun(bench, case, name, **fields):
    return methods.BEGIN[name](bench, case, replace(QUICK, **{**RECIPES.get(name, {}), **fields}))


def learn(tuning, lr=1e-2):
    """Two steps, and what it is then."""
    loop.Trainer(tuning.parameters, tuning.loss, loop.Settings(steps=2, lr=lr, clip=0.0)).run()
    return tuning.use({})


def test_a_tuned_method_begins_as_the_foundation_and_leaves_it(bench, case, plain, name):
    tuning, drawn = begun(bench, case, name), lambda known: known.latents(bench.asked(case)[0], bench.noise())
    if name != "Custom Diffusion":  # which begins with another word beside the class word
        assert (drawn(tuning.use({})) - plain).abs().max() < 1e-4 * plain.abs().max()
    after = drawn(learn(tuning))
    assert (after - plain).abs().max() > 1e-3 * plain.abs().max() and bool(after.isfinite().all())
    # the foundation itself has stayed as it was
    assert torch.equal(drawn(learned.foundation(bench, case)), plain)


def test_what_was_learned_is_kept_with_its_costs_and_gone_on_with(bench, case):
    name, begin = "Textual Inversion", methods.BEGIN["Textual Inversion"]
    bench = replace(bench, work=bench.work / "kept")
    known = tuned(bench, case, name, begin, replace(QUICK, steps=3))
    assert known.costs["storage"] == 2 * 192 and known.costs["train_seconds"] > 0 and known.costs["train_memory"] > 1e6
    folder = bench.work / "learned"
    assert sorted(p.suffix for p in folder.iterdir()) == [".checkpoint", ".safetensors", ".safetensors"]
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    again = tuned(bench, case, name, begin, replace(QUICK, steps=3))
    assert again.costs == known.costs and before == {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    milestone = tuned(bench, case, name, begin, replace(QUICK, steps=1))  # kept on the way
    assert milestone.costs["train_seconds"] < known.costs["train_seconds"]
    with pytest.raises(ValueError, match="gone on to step 3; remove it to go back to 2"):
        tuned(bench, case, name, begin, replace(QUICK, steps=2))


def test_textual_inversion_learns_one_word_and_only_prompts_with_it_change(bench, case):
    known = learn(begun(bench, case, "Textual Inversion"))
    other = known.read("a photo of a dog on the beach").tokens
    assert torch.allclose(other, bench.text("a photo of a dog on the beach").tokens, atol=1e-5)
    own = f"a photo of a {case.word} on the beach"
    assert (known.read(own).tokens - bench.text(own).tokens).abs().max() > 1e-3


def test_custom_diffusion_changes_keys_and_values_alone(bench, case):
    tuning = begun(bench, case, "Custom Diffusion")
    names = set(tuning.parameters) - {"word"}
    assert len(names) == 20 and all("custom_diffusion" in n and (".to_k_" in n or ".to_v_" in n) for n in names)
    tuning.loss(0, torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tuning.parameters.values())


def test_the_prior_is_a_loss_of_its_own(bench, case, monkeypatch):
    monkeypatch.setattr("evidence.baselines.CLASS_PICTURES", 2)
    losses = []
    for prior in (0.0, 1.0, 3.0):
        tuning = begun(bench, case, "DreamBooth-LoRA", prior=prior)
        losses.append(float(tuning.loss(0, torch.Generator().manual_seed(0)).detach()))
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-4) and losses[1] > losses[0]


def test_perfusion_is_left_out_without_its_package_and_learns_with_it(bench, case, monkeypatch):
    monkeypatch.setattr(perfusion, "find_spec", lambda name: None)
    assert perfusion.missing(bench) == "perfusion-pytorch is not installed (pip install perfusion-pytorch)"
    pytest.importorskip("perfusion_pytorch")
    monkeypatch.setattr(perfusion, "CAPTIONS", 20)
    tuning = begun(bench, case, "Perfusion")
    before = {name: p.detach().clone() for name, p in tuning.parameters.items()}
    z = learn(tuning).latents(bench.asked(case)[0], bench.noise())
    assert len(tuning.parameters) == 1 + 3 * 20 and bool(z.isfinite().all())
    assert all(not torch.equal(p, before[name]) for name, p in tuning.parameters.items())


# --- zero-shot -------------------------------------------------------------------------------------------------------

LOOP = loop.Settings(steps=2, lr=1e-2, ema=0.5)


def test_ip_adapter_learns_reads_the_photo_and_lies_as_the_published_one(bench, case, plain):
    path = zero_shot.train_ip_adapter(bench, LOOP, 2, 3)
    shapes = {k: tuple(v.shape) for k, v in zero_shot.load_file(path).items()}
    assert shapes["image_proj.proj.weight"] == (4 * 192, 96) and shapes["ip_adapter.19.to_k_ip.weight"][1] == 192
    assert len(shapes) == 4 + 2 * 10 and not path.with_suffix(".checkpoint").exists()
    known = zero_shot.ip_adapter(bench, case, path)
    z = known.latents(bench.asked(case)[0], bench.noise())
    other = zero_shot.ip_adapter(bench, replace(case, images=case.images.flip(0)), path)
    assert (z - plain).abs().max() > 1e-3 and not torch.equal(z, other.latents(bench.asked(case)[0], bench.noise()))
    start = zero_shot.blank_ip_adapter(bench.model.denoiser.unet, 96)
    trained = zero_shot.read_ip_adapter(path)
    assert trained["ip_adapter"].keys() == start["ip_adapter"].keys()
    assert all(not torch.equal(trained["ip_adapter"][k], v) for k, v in start["ip_adapter"].items())


def test_pix2pix_begins_as_the_foundation_in_diffusers_own_pipeline(bench, case, plain, tmp_path):
    """Without training the new channels do nothing, so its two guidances are the one of plain DDIM."""
    zero_shot.eight_channels(bench.model.denoiser.unet).save_pretrained(tmp_path / "unet")
    known = zero_shot.pix2pix(bench, case, tmp_path, image_guidance=1.5)
    z = known.latents(bench.asked(case)[0], bench.noise())
    assert (z - plain).abs().max() < 1e-3 * plain.abs().max()
    assert known.costs["storage"] == 2 * sum(
        p.numel() for p in zero_shot.eight_channels(bench.model.denoiser.unet).parameters()
    )


def test_pix2pix_learns_and_reads_the_photo(bench, case):
    folder = zero_shot.train_pix2pix(bench, LOOP, 2, 3)
    known, other = (zero_shot.pix2pix(bench, c, folder, 1.5) for c in (case, replace(case, images=case.images.flip(0))))
    a, b = (m.latents(bench.asked(case)[0], bench.noise()) for m in (known, other))
    assert (a - b).abs().max() > 1e-4


# --- ours ------------------------------------------------------------------------------------------------------------


def test_hifis_rows_differ_from_each_other(bench, case, plain, monkeypatch):
    short = learned.loop.Settings(steps=2, lr=0.1, clip=0.0)
    monkeypatch.setattr(ours.loop, "Settings", lambda **_: short)
    rows, drawn = methods.TABLE, {}
    monkeypatch.setattr(ours, "GUIDE", replace(ours.GUIDE, steps=1))
    for name in ("+ step-wise", "+ guidance"):
        own = replace(rows[name], timesteps=min(2, rows[name].timesteps))
        drawn[name] = draw(bench, case, partial(ours.learned_rows, row=own, steps=2))
    every = [plain, *drawn.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(every) for b in every[:i])
    _, costs = ours.subject_of(bench, case, replace(rows["+ step-wise"], timesteps=2), 2)
    assert costs["storage"] == 2 * 2 * 5 * 192 and costs["train_seconds"] > 0


@pytest.fixture(scope="module")
def networks(bench):
    """Networks that have learned nothing, in the weights' folder."""
    own = files.fingerprint(bench.model.denoiser.unet.state_dict())
    retrinet.save(bench.weights / "retrinet.safetensors", retrinet.blank(bench.model.denoiser, source=own))
    retrinet.save(bench.weights / "retrinet-a.safetensors", retrinet.blank(bench.model.denoiser, source="another"))
    for model, file in (("toffeenet", "toffeenet"), ("refiner", "refiner")):
        wide = adapters.blank(model, bench.model.denoiser.sites, 160, dino="the embedded judge", source=own)
        adapters.save(bench.weights / f"{file}.safetensors", wide)
    return methods.entries(bench)


def test_networks_are_picked_up_where_they_are(bench, case, plain, networks, tmp_path, monkeypatch):
    nowhere = replace(bench, weights=tmp_path)
    assert ours.weights_of(nowhere, "toffeenet.safetensors").name == "demo toffeenet.safetensors"  # comes with the pack
    monkeypatch.setattr(ours, "MODEL", tmp_path / "model")
    assert "no retrinet.safetensors in" in methods.entries(nowhere)["RetriNet"].missing(nowhere)
    assert "no toffeenet.safetensors in" in methods.entries(nowhere)["Toffee with Refiner"].missing(nowhere)
    assert "IP-Adapter" in methods.entries(nowhere) and "--parts train" in methods.entries(nowhere)[
        "IP-Adapter"
    ].missing(nowhere)
    assert not networks["RetriNet"].missing(bench) and not networks["Toffee with Refiner"].missing(bench)
    assert "was trained on another U-Net (another)" in networks["RetriNet a"].missing(bench)
    # blank ones change nothing, without the depth that they are drawn by
    monkeypatch.setattr(ours, "DEPTH", tmp_path / "none")
    assert (draw(bench, case, networks["RetriNet"].build) - plain).abs().max() < 1e-4
    assert (draw(bench, case, networks["RetriNet, cached"].build) - plain).abs().max() < 1e-4
    toffee = draw(replace(bench, guidance=ours.TOFFEE_GUIDANCE), case, learned.foundation)
    assert (draw(bench, case, networks["Toffee"].build) - toffee).abs().max() < 1e-4
    for name, before in (("Toffee with Refiner", toffee), ("foundation with Refiner", plain)):
        assert (draw(bench, case, networks[name].build) - before).abs().max() > 1e-3


def test_a_depth_controlnet_is_used_where_there_is_one(bench, tmp_path):
    from diffusers import ControlNetModel

    own = replace(bench, name="another", weights=tmp_path)
    assert ours.depth_of(own) is None
    assert bool(ours.depth_of(replace(bench, weights=tmp_path)).controlnet_mid_block.weight.any())
    ControlNetModel.from_unet(bench.model.denoiser.unet).save_pretrained(tmp_path / "controlnet")
    assert not bool(ours.depth_of(own).controlnet_mid_block.weight.any())


def test_training_free_retrieval_needs_nothing(bench, case, plain, networks):
    row = networks["Retrieval, training-free"]
    assert not row.missing(bench) and (draw(bench, case, row.build) - plain).abs().max() > 1e-3


def test_rows_name_what_they_depend_on(bench, networks):
    settings = {name: row.method(bench).settings for name, row in networks.items()}
    assert len(set(settings.values())) == len(settings)
    assert all(bench.base in s for s in settings.values())
    assert {row.family for row in networks.values()} == set(methods.FAMILIES)
    other = methods.entries(bench, {"DreamBooth": QUICK})
    assert other["DreamBooth"].settings != networks["DreamBooth"].settings
    assert other["HiFi: DreamBooth with guidance"].settings != networks["HiFi: DreamBooth with guidance"].settings


# --- cells and metrics -----------------------------------------------------------------------------------------------


def test_a_cell_drawn_again_has_the_same_numbers(bench, case):
    numbers, bench = [], replace(bench, prompts=bench.prompts[:1])
    for work in ("once", "again"):
        own = replace(bench, work=bench.work / work)
        row = methods.tuned_entry("Textual Inversion", QUICK)
        images, costs = run.drawn(own, row, case)
        numbers.append((images, measure.kept(measure.measured(own, case, images))))
        assert costs["threads"] == torch.get_num_threads() and costs["memory"] > 1e6 and costs["storage"] == 384
    assert torch.equal(numbers[0][0], numbers[1][0]) and numbers[0][1] == numbers[1][1]
    run.drawn(replace(bench, work=bench.work / "once", base="another"), row, case)
    assert len(list((bench.work / "once" / "cells").iterdir())) == 2, "another model's cells are others"


def test_a_method_that_cant_take_a_subject_is_left_out_with_its_reason(bench, monkeypatch):
    def refuse(bench, case):
        raise ValueError("class: two tokens")

    rows = {"foundation": methods.Entry("foundation", "foundation", learned.foundation)}
    rows |= {
        "odd": methods.Entry("odd", "tuned", refuse),
        "none": methods.Entry("none", "ours", refuse, "", lambda b: "x"),
    }
    monkeypatch.setattr(run, "entries", lambda *_: rows)
    found, saved = comparison.blank(), []
    run.grid(replace(bench, prompts=bench.prompts[:1]), found, [], lambda: saved.append(1), lambda text: None)
    assert found["methods"]["odd"]["skipped"] == "class: two tokens" and found["methods"]["none"]["skipped"] == "x"
    assert len(found["methods"]["foundation"]["subjects"]["cat 0"]["dino"]) == 1 and saved
    assert {"storage", "train_seconds", "seconds", "memory", "torch", "threads"} == set(
        found["methods"]["foundation"]["costs"]
    )


def test_words_are_learned_in_one_text_encoder_only(bench):
    two = replace(bench.model, text=replace(bench.model.text, towers=bench.model.text.towers * 2))
    wide = replace(bench, model=two)
    rows = methods.entries(bench)
    assert [n for n in rows if rows[n].missing(wide) == methods.one_text(wide)] == [
        "Textual Inversion",
        "Custom Diffusion",
    ]
    assert not methods.one_text(bench)


def test_photos_are_as_their_subject_and_as_their_places(bench, case):
    """The subject's own photos instead of drawn pictures: everything that the judges read of them is known."""
    images = case.images[:2, None]
    found = measure.measured(bench, case, images)
    assert min(found[name].mean() for name in ("agreement", "colour")) > 0.8
    assert found["seg_dino"].mean() > 0.7 and found["dino"].shape == (2, 1)
    assert torch.allclose(found["swd clip_i x clip_t"], found["clip_i"] * found["clip_t"])
    beside = measure.beside(bench, case, images, images)
    assert float(beside["layout"].min()) == 1 and float(beside["surroundings"].min()) == 1
    moved = measure.beside(bench, case, images, images.roll(24, -1))
    assert float(moved["layout"].max()) < 0.95


def test_asked_attributes_are_read(bench, case):
    from likeness.core.demo import world

    subject = world.held_out_subjects(1, "cat")[0]
    shots = [
        world.draw(subject, world.Scene("beach", "photo")),
        world.draw(subject, world.Scene("snow", "photo", accessory="hat")),
    ]
    wanted = [benches._demo("a {}", "", "beach"), benches._demo("a {}", "", "snow", accessory="scarf")]
    found = measure.read(bench, case, torch.stack([s.image for s in shots]), wanted)
    assert found["background"].tolist() == [1, 1] and found["accessory"].tolist() == [1, 0]
    assert found["style"].tolist() == [1, 1]


def test_variety_is_how_far_pictures_of_one_prompt_are_apart():
    x = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert measure.variety(x, 2).tolist() == [0, 0, 1, 1]
    assert measure.variety(x, 4).tolist() == pytest.approx([0.5] * 4) and measure.variety(x, 1).tolist() == [0] * 4


def test_pictures_of_the_page_are_small():
    assert run.small(torch.zeros(2, 3, 512, 512)).shape == (2, 3, 192, 192)
    images = torch.rand(1, 3, 128, 128)
    assert run.small(images) is images


def test_the_projection_keeps_the_largest_components():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 12, generator=g) * torch.arange(12, 0, -1)
    onto = curves.projection(x, 3)
    values, vectors = np.linalg.eigh(np.cov(x.double().numpy(), rowvar=False))
    assert np.allclose(np.cov(onto(x).numpy(), rowvar=False), np.diag(values[::-1][:3]), atol=1e-8)
    assert np.allclose(np.abs(onto(x).numpy()), np.abs(x.double().numpy() @ vectors[:, ::-1][:, :3]), atol=1e-8)


def test_infusion_leaves_other_prompts_alone_and_a_lora_does_not(bench, case):
    shown = curves.captioned(bench, case, 2)
    assert all(not c.text.holds(case.word) for c in shown)
    values = {}
    for name in ("Infusion", "DreamBooth-LoRA"):
        values[name] = curves.fisher(bench, learn(begun(bench, case, name)), shown)
    assert values["Infusion"] == 0 and values["DreamBooth-LoRA"] > 1e-6


def test_a_curve_has_a_point_a_number_of_steps(bench, case, monkeypatch):
    monkeypatch.setattr(curves, "SAMPLES", 4)
    shown, bench = curves.captioned(bench, case, 1), replace(bench, prompts=bench.prompts[:1])
    found = curves.curve(bench, case, "Infusion", QUICK, (1, 2), shown)
    assert list(found) == ["1", "2"] and set(found["1"]) == {"w2", "fisher", "clip_t", "clip_i", "dino", "seg_dino"}
    assert found["1"]["w2"] > 0 and found["1"] != found["2"] and curves.floor(bench, case)["w2"] > 0


# --- folders ---------------------------------------------------------------------------------------------------------


def dreambench(root, masks=False):
    for name, count in (("dog2", 2), ("bear_plushie", 3)):
        for tree in ("photos", "masks") if masks else ("photos",):
            (root / tree / name).mkdir(parents=True)
            for i in range(count):
                picture = torch.rand(3 if tree == "photos" else 1, 40, 60, generator=torch.Generator().manual_seed(i))
                (root / tree / name / f"{i:02}.png").write_bytes(png(picture))
    return root / "photos"


def test_folders_in_dreambenchs_layout(tmp_path):
    root = dreambench(tmp_path, masks=True)
    plain = benches.folders(root, 64)
    assert [(c.name, c.word, tuple(c.images.shape)) for c in plain] == [
        ("bear_plushie", "bear plushie", (3, 3, 64, 64)),
        ("dog2", "dog", (2, 3, 64, 64)),
    ] and plain[0].masks is None
    (root / "prompts_and_classes.txt").write_text(
        "Classes\nsubject_name,class\nbear_plushie,stuffed animal\n\na, b, c\n"
    )
    listed = benches.folders(root, 64, tmp_path / "masks", only=["bear_plushie"])
    assert [(c.name, c.word) for c in listed] == [("bear_plushie", "stuffed animal")]
    assert listed[0].masks.shape == (3, 1, 64, 64)
    with pytest.raises(FileNotFoundError, match="has no folder with photos named cat"):
        benches.folders(root, 64, only=["cat"])
    with pytest.raises(FileNotFoundError, match="no folder"):
        benches.folders(tmp_path / "missing", 64)


def test_the_same_command_takes_a_checkpoint_and_folders(tmp_path, capsys):
    """The embedded model and judges by their folders' names, as any other's."""
    from likeness.core.demo import MODEL, judges

    root = dreambench(tmp_path)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of a {} on the beach\n")
    where = ["--model", str(MODEL), "--references", str(root), "--only", "dog2", "--prompts", str(prompts)]
    judged = ["--clip", str(judges.JUDGES / "clip"), "--dino", str(judges.JUDGES / "dino"), "--size", "128"]
    quick = [
        "--steps",
        "2",
        "--seeds",
        "1",
        "--work",
        str(tmp_path / "work"),
        "--threads",
        str(torch.get_num_threads()),
    ]
    out = ["--results", str(tmp_path / "r.json"), "--report", str(tmp_path / "r.html")]
    rows = ["--methods", "foundation", "Retrieval, training-free", "HiFi: guidance", "Toffee"]
    command.main([*where, *judged, *quick, *out, *rows, "--parts", "grid", "claims", "report"])
    found = comparison.read(tmp_path / "r.json")
    assert found["setting"]["subjects"] == ["dog2"] and found["setting"]["bench"] == MODEL.stem
    shown = found["methods"]["Retrieval, training-free"]["subjects"]["dog2"]
    assert {"clip_i", "clip_t", "dino", "swd clip_i x clip_t"} <= set(shown) and "agreement" not in shown
    assert "needs masks of the photos" in found["methods"]["HiFi: guidance"]["skipped"]
    assert "no toffeenet.safetensors" in found["methods"]["Toffee"]["skipped"]
    page = (tmp_path / "r.html").read_text()
    assert "data:image/jpeg" in page and "needs masks of the photos" in page
    with pytest.raises(SystemExit, match="there is no 'Magic'; choose from foundation, Textual Inversion"):
        command.main([*where, *judged, *quick, *out, "--parts", "grid", "--methods", "Magic"])
    with pytest.raises(SystemExit, match="measured with another model, prompts, sampling or judges"):
        command.main([*where, *judged, *quick, *out, "--parts", "grid", "--guidance", "3"])
    sheet = ["--parts", "claims", "--methods", "foundation", "--picture", str(tmp_path / "sheet.jpg"), "--pictured"]
    command.main([*where, *judged, *quick, *out, *sheet, "dog2"])
    assert (tmp_path / "sheet.jpg").read_bytes()[:2] == b"\xff\xd8"
    with pytest.raises(SystemExit, match="--pictured: no subject 'dog'; choose from dog2"):
        command.main([*where, *judged, *quick, *out, *sheet, "dog"])


def test_mistakes_are_named(tmp_path):
    with pytest.raises(SystemExit, match="--model and --references: give both"):
        command.main(["--model", "x", "--results", str(tmp_path / "r.json")])
    with pytest.raises(SystemExit, match="give --work, --results, --report of their own"):
        command.main(["--limit", "2"])
    elsewhere = ["--results", str(tmp_path / "r.json"), "--report", str(tmp_path / "r.html")]
    with pytest.raises(SystemExit, match="give --work of their own"):
        command.main(["--limit", "2", *elsewhere])
    (tmp_path / "p.txt").write_text("a photo of a dog\n")
    with pytest.raises(ValueError, match=r"has no \{\} for the subject's word"):
        command.read_prompts(tmp_path / "p.txt")


# --- tuning and claims -----------------------------------------------------------------------------------------------


def test_tuning_chooses_the_best_and_the_grid_uses_it(bench, monkeypatch):
    monkeypatch.setattr(run, "tuning_cases", lambda: benches.tuning_cases(1))
    asked = []

    def scored(bench, case, name, recipe):
        asked.append(recipe)
        if name == "Textual Inversion" and (recipe.lr, recipe.steps) == (2e-2, 250):
            raise FloatingPointError("nan")
        return recipe.lr * recipe.steps if name == "Textual Inversion" else recipe.scale

    monkeypatch.setattr(run, "_tried", scored)
    found = comparison.blank()
    run.tune(bench, found, ["Textual Inversion"], lambda: None, lambda text: None)
    tuning = found["tuning"]["Textual Inversion"]
    grid = methods.grid_of(bench, "Textual Inversion")
    assert {r.steps for r in methods.grid_of(replace(bench, limit=200), "DreamBooth")} == {100, 200}
    assert len(tuning["tried"]) == len(grid) and tuning["chosen"]["steps"] == max(r.steps for r in grid)
    assert [t["skipped"] for t in tuning["tried"] if "score" not in t] == ["FloatingPointError: nan"]
    count = len(asked)
    run.tune(bench, found, ["Textual Inversion"], lambda: None, lambda text: None)
    assert len(asked) == count + 1 and found["tuning"]["Textual Inversion"] == tuning  # only what failed is tried again
    best = run.chosen(found)["Textual Inversion"]
    assert methods.entries(bench, run.chosen(found))["Textual Inversion"].settings == repr(best)
    with pytest.raises(ValueError, match="at most 400"):
        benches.demo(401)
    assert [case.name for case in benches.tuning_cases()] == ["cat 50", "car 50"]  # a run of 400 ends with number 49


def made_up(**methods_values):
    """Results with a number a subject for "clip_t" and for other metrics as given."""
    found = comparison.blank()
    for name, values in methods_values.items():
        subjects = {f"s{i}": {m: [v + 0.001 * i] for m, v in values.items()} for i in range(6)}
        found["methods"][name] = {"family": "ours", "subjects": subjects, "costs": {}}
    return found


def test_claims_are_judged_by_their_intervals():
    check = claims.above(("a", "b", "clip_t"))
    claim = claims.Claim(1, "x", "y", "z", check)
    assert claim.judged(made_up(a={"clip_t": 0.5}, b={"clip_t": 0.4}))["verdict"] == "reproduced"
    assert claim.judged(made_up(a={"clip_t": 0.3}, b={"clip_t": 0.4}))["verdict"] == "not reproduced"
    assert claim.judged(made_up(a={"clip_t": 0.3}))["verdict"] == "not yet measured"
    unsure = made_up(a={"clip_t": 0.4}, b={"clip_t": 0.4})
    for i, subject in enumerate(unsure["methods"]["a"]["subjects"].values()):
        subject["clip_t"] = [0.4 + 0.1 * (-1) ** i]
    judged = claim.judged(unsure)
    assert judged["verdict"] == "not reproduced" and "[-" in judged["found"][0] and judged["holds"] == [False]
    alike = claims.kept(("a", "b", "clip_t"))
    assert alike(made_up(a={"clip_t": 0.41}, b={"clip_t": 0.4}))[0].holds
    assert not alike(made_up(a={"clip_t": 0.43}, b={"clip_t": 0.4}))[0].holds
    no_more = claims.not_more("a", "b", "clip_t")
    assert no_more(made_up(a={"clip_t": 0.41}, b={"clip_t": 0.4}))[0].holds  # alike is no more, if not surely less
    assert not no_more(made_up(a={"clip_t": 0.43}, b={"clip_t": 0.4}))[0].holds
    assert no_more(made_up(a={"clip_t": 0.43}))[0].holds is None


def test_perfusion_counts_among_the_baselines_where_it_was_measured():
    values = {name: {"clip_t": 0.4} for name in claims.BASELINES} | {"Infusion": {"clip_t": 0.5}}
    first = next(claim for claim in CLAIMS if claim.number == 1)
    assert first.judged(made_up(**values))["verdict"] == claims.REPRODUCED
    beaten = first.judged(made_up(**values, Perfusion={"clip_t": 0.6}))
    assert beaten["verdict"] == claims.NOT and "less Perfusion" in beaten["found"][-1]
    skipped = made_up(**values)
    skipped["methods"]["Perfusion"] = {"skipped": "not installed"}
    assert first.judged(skipped)["verdict"] == claims.REPRODUCED


def test_there_are_the_32_claims_and_nothing_is_claimed_without_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    assert [c.number for c in CLAIMS] == list(range(1, 33))
    judged = claims.judged(comparison.blank())
    assert all(c["verdict"] in ("not testable here", "not yet measured") for c in judged)
    assert [c["number"] for c in judged if c["verdict"] == "not testable here"] == [7, 8]
    assert all(c["note"] for c in judged if c.get("verdict") == "not testable here")


def test_every_claim_that_has_a_check_is_judged_once_all_rows_are_measured(bench, tmp_path, monkeypatch):
    """Rows are named alike in claims and roster: with all of them measured what other benchmarks tell stays open."""
    shutil.copy(claims.RESULTS / "toy.json", tmp_path)
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    rows = methods.entries(bench)
    found = made_up(**{row: dict.fromkeys(report.METRICS, 0.1 + 0.01 * i) for i, row in enumerate(rows)})
    for method in found["methods"].values():
        method["costs"] = {"train_seconds": 1.0}
    for subject, own in found["methods"]["Toffee"]["subjects"].items():  # compared at the same faith to the prompt
        own["clip_t"] = found["methods"]["InstructPix2Pix 1.5"]["subjects"][subject]["clip_t"]
    values = dict.fromkeys(("w2", "fisher", "clip_t", "clip_i", "dino"), 1.0)
    found["curves"] = {row: {"cat 0": {"100": values, "2000": values}} for row in methods.CURVED}
    found["segmented"] = {f"s{i}": {"dino": 0.5, "seg_dino": 0.9} for i in range(3)}
    verdicts = {c["number"]: c["verdict"] for c in claims.judged(found)}
    still_open = [n for n, verdict in verdicts.items() if verdict == "not yet measured"]
    assert still_open == [*range(14, 23), 27, 28, 31, 32]
    assert verdicts[26] == verdicts[9] == "reproduced"


def test_claims_about_runs_of_another_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    by_number = {claim.number: claim for claim in CLAIMS}
    assert by_number[18].judged(comparison.blank())["verdict"] == claims.OPEN
    subjects = {"a": (0.9, 0.1), "b": (0.4, 0.8)}
    rows = {
        f"controlnet-{pipeline}": {
            "base": "x",
            "steps": 2,
            "subjects": {str(i): {"clip_i": [x + 0.01 * i], "clip_t": [y - 0.01 * i]} for i in range(4)},
        }
        for pipeline, (x, y) in subjects.items()
    }
    levels = {"levels, fine to coarse": {"skip.0": 0.9, "mid": 0.5}, "steps, noise to clean": {"900": 0.9, "20": 0.95}}
    (tmp_path / "retrinet-claims.json").write_text(json.dumps({"methods": rows, "maps": levels}))
    found = by_number[18].judged(comparison.blank())
    assert found["verdict"] == claims.REPRODUCED
    assert "controlnet-b less controlnet-a: -0.500 [-0.500, -0.500]" in found["found"][0]
    for key, other in (("base", "y"), ("steps", 3)):
        apart = {**rows, "controlnet-a": {**rows["controlnet-a"], key: other}}
        (tmp_path / "retrinet-claims.json").write_text(json.dumps({"methods": apart, "maps": levels}))
        assert by_number[18].judged(comparison.blank())["verdict"] == claims.OPEN
    (tmp_path / "retrinet-claims.json").write_text(json.dumps({"methods": rows, "maps": levels}))
    maps = by_number[22].judged(comparison.blank())
    assert maps["verdict"] == claims.NOT and "0.900 to 0.500" in maps["found"][0]
    seen = {"subjects": {str(i): {"photo's view": [1.0]} for i in range(3)}}
    turned = {"subjects": {str(i): {"photo's view": [0.5]} for i in range(3)}}
    variants = {"methods": {"both, photo's depth": seen, "both, constant depth": turned}}
    (tmp_path / "toffee-variants.json").write_text(json.dumps(variants))
    assert by_number[31].judged(comparison.blank())["verdict"] == claims.REPRODUCED
    for apart, verdict in ((0.01, claims.REPRODUCED), (0.1, claims.NOT)):
        rows = {"both, constant depth": 0.7, "segmented, constant depth": 0.7 - apart}
        variants = {
            name: {"subjects": {str(i): {"seg_dino": [v + 0.01 * i], "clip_t": [v]} for i in range(4)}}
            for name, v in rows.items()
        }
        (tmp_path / "toffee-variants.json").write_text(json.dumps({"methods": variants}))
        assert by_number[32].judged(comparison.blank())["verdict"] == verdict


def test_claims_about_curves_and_other_results(tmp_path):
    found = comparison.blank()
    curve = {"100": {"w2": 1.0, "fisher": 0.0, "clip_t": 0.5}, "2000": {"w2": 2.0, "fisher": 0.0, "clip_t": 0.4}}
    steady = {"100": {"w2": 1.0, "fisher": 0.0, "clip_t": 0.5}, "2000": {"w2": 1.1, "fisher": 0.0, "clip_t": 0.5}}
    found["curves"] = {"a": {"cat 0": curve}, "b": {"cat 0": steady}}
    assert (
        claims_curves.grows("a", "w2", "W2")(found)[0].holds
        and not claims_curves.grows("a", "clip_t", "")(found)[0].holds
    )
    assert claims_curves.ends_below("b", ["a"], "w2", "W2")(found)[0].holds
    assert claims_curves.falls_less("b", ["a"], "clip_t")(found)[0].holds
    assert (
        claims_curves.zero("a", "fisher", "")(found)[0].holds and not claims_curves.zero("a", "w2", "")(found)[0].holds
    )
    assert claims_curves.zero("c", "fisher", "")(found)[0].holds is None
    read = claims.from_file("x.json", lambda data: [claims.Finding("", data["a"]["b"] == 1)], tmp_path)
    assert read(found)[0].holds is None
    for text, holds in (("{}", None), ('{"a": {"b": 1}}', True)):
        (tmp_path / "x.json").write_text(text)
        assert read(found)[0].holds is holds


def test_the_closest_in_prompt_is_compared_in_likeness():
    found = made_up(
        a={"dino": 0.5, "clip_t": 0.3}, near={"dino": 0.6, "clip_t": 0.31}, far={"dino": 0.1, "clip_t": 0.5}
    )
    apart = claims.matched_above("a", ("far",), "dino", "clip_t")(found)[0]
    assert apart.holds is None and "CLIP-T of a and far, the closest, are 0.200 apart" in apart.text
    assert not claims.matched_above("a", ("near", "far"), "dino", "clip_t")(found)[0].holds
    assert "a less near" in claims.matched_above("a", ("near", "far"), "dino", "clip_t")(found)[0].text


def test_results_are_written_in_full_and_read_again(bench, tmp_path):
    found = comparison.blank() | {"setting": results.setting(bench)}
    found["methods"]["a"] = {"subjects": {"cat 0": {"dino": [0.5, float("nan")]}}}
    path = results.save(tmp_path / "r.json", found)
    assert json.loads(path.read_text())["methods"]["a"]["subjects"]["cat 0"]["dino"] == [0.5, None]
    assert results.load(path)["setting"] == json.loads(json.dumps(found["setting"]))
    assert results.same_setting(results.load(path), bench)
    assert not results.same_setting(results.load(path), replace(bench, steps=3))
    other_judge = replace(bench, models=replace(bench.models, dino=bench.models.clip))
    assert not results.same_setting(results.load(path), other_judge)
    assert results.begun(results.load(path), replace(bench, cases=())) == results.load(path)["setting"]
    more = results.begun(results.load(path), replace(bench, cases=(replace(bench.cases[0], name="dog 3"),)))
    assert more["subjects"] == ["cat 0", "dog 3"] and more["machine"] == found["setting"]["machine"]
    assert results.load(tmp_path / "none.json") == comparison.blank()


# --- metrics against others' -----------------------------------------------------------------------------------------


def test_clip_scores_are_those_of_transformers_own_model():
    from likeness.core.demo import judges
    from likeness.training.evaluate import Models, score
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder, prompts = judges.JUDGES / "clip", ["a photo of a cat on the beach", "a drawing", "a red car"]
    shots = (torch.rand(5, 3, 128, 128, generator=torch.Generator().manual_seed(3)) * 255).round() / 255
    images, references = shots[:3], shots[3:]
    clip = judges.clip()
    found = score(Models(clip, clip), images, references, prompts).each
    model, tokenizer = (
        CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(),
        CLIPTokenizer.from_pretrained(folder),
    )
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    pixels = processor([(s.permute(1, 2, 0) * 255).byte().numpy() for s in shots], return_tensors="pt").pixel_values
    with torch.no_grad():
        out = model(pixel_values=pixels, **tokenizer(prompts, padding=True, return_tensors="pt"))
    cosine = out.logits_per_image / model.logit_scale.exp()
    assert torch.allclose(found["clip_t"], cosine[:3].diagonal(), atol=1e-4)
    theirs = torch.nn.functional.cosine_similarity(out.image_embeds[:3, None], out.image_embeds[None, 3:], dim=-1)
    assert torch.allclose(found["clip_i"], theirs.mean(1), atol=1e-4)


def test_w2_of_projected_samples_is_scipys():
    import scipy.linalg
    from likeness.core.metrics.overfitting import wasserstein2

    g = torch.Generator().manual_seed(4)
    mix = torch.randn(30, 30, generator=g)
    a, b = (torch.randn(50, 30, generator=g) @ mix * scale + scale for scale in (1.0, 0.7))
    onto = curves.projection(a, 8)
    x, y = onto(a).numpy(), onto(b).numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s)
    cross = scipy.linalg.sqrtm(root @ t @ root).real
    wanted = np.sqrt(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * cross))
    assert wasserstein2(onto(a), onto(b)).w2 == pytest.approx(float(wanted), rel=1e-6)
