"""What the comparison's rows depend on, and what happens where one of them fails."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))  # plain modules beside each other

import retrinet_variants  # noqa: E402
import toffee_variants  # noqa: E402
from evidence import bar, claims, curves, measure, methods, ours, run, zero_shot  # noqa: E402
from evidence import bench as benches  # noqa: E402
from grid import Method, cell_path  # noqa: E402
from likeness.core import files  # noqa: E402
from likeness.core.toffee import adapter as adapters  # noqa: E402
from likeness.core.toffee import tokens  # noqa: E402
from likeness.training import comparison, report  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


@pytest.fixture
def bench(tmp_path):
    found = benches.demo(1, tmp_path, steps=2, seeds=1, milestones=(1,))
    return replace(found, prompts=found.prompts[:1])


def settings(bench, name):
    return methods.entries(bench)[name].settings


def toffeenet(bench, dino=tokens.EMBEDDED, name="toffeenet"):
    own = files.fingerprint(bench.model.denoiser.unet.state_dict())
    torch.manual_seed(0)
    wide = adapters.blank("toffeenet", bench.model.denoiser.sites, 160, dino=dino, source=own)
    return adapters.save(bench.weights / f"{name}.safetensors", wide)


# --- baselines -------------------------------------------------------------------------------------------------------


def test_instruct_pix2pix_is_shown_style_edits():
    prompts = [load().prompt for load in zero_shot.edits(8)]
    styled = [p for p in prompts if "painting" in p or "drawing" in p]
    assert len(styled) >= 8 // zero_shot.RESTYLED
    pair = zero_shot.edits(8)[0]()
    assert pair.mask is None and pair.subject.shape == pair.target.shape and not torch.equal(pair.subject, pair.target)
    assert torch.equal(pair.target, zero_shot.edits(8)[0]().target)


def test_the_image_prompts_scale_counts_and_is_tuned(bench, monkeypatch):
    denoiser = zero_shot.with_ip_adapter(bench, zero_shot.blank_ip_adapter(bench.model.denoiser.unet, 96))
    bench.weights.mkdir(parents=True)
    save_file(zero_shot.written_ip_adapter(denoiser.unet), bench.weights / zero_shot.IP_ADAPTER)
    drawn = []
    for scale in (0.0, 0.5, 1.0):
        row = methods.entries(bench, {"IP-Adapter": zero_shot.Scale(scale)})["IP-Adapter"]
        drawn.append(row.build(bench, bench.cases[0]).latents("a photo of a cat", bench.noise()))
    assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(drawn))
    monkeypatch.setattr(run, "_tried", lambda bench, case, name, recipe: recipe.scale)
    found = comparison.blank()
    run.tune(bench, found, ["IP-Adapter"], lambda: None, lambda text: None)
    tried = [t["recipe"] for t in found["tuning"]["IP-Adapter"]["tried"]]
    assert sorted(t["scale"] for t in tried) == [0.5, 1.0]
    assert run.chosen(found) == {"IP-Adapter": zero_shot.Scale(1.0)}


# --- keys ------------------------------------------------------------------------------------------------------------


def test_an_adapter_reads_the_dino_that_it_was_trained_with(bench, monkeypatch):
    assert bench.reader(tokens.EMBEDDED) is bench.models.dino and bench.reader("") is bench.models.dino
    asked = []

    def load(name):
        asked.append(name)
        return bench.models.dino

    monkeypatch.setattr(benches, "dino_named", load)
    real = replace(bench, name="real", models=replace(bench.models, dino=benches.Dino("facebook/dino-vits16")))
    assert real.reader("dino-vits16") is real.models.dino and not asked
    toffeenet(real, "facebook/dinov2-base")
    methods.entries(real)["Toffee"].build(real, real.cases[0])
    assert asked == ["facebook/dinov2-base"]


def test_toffees_rows_name_all_that_their_pictures_depend_on(bench, monkeypatch):
    toffeenet(bench)
    before = settings(bench, "Toffee"), settings(bench, "Toffee with Refiner")
    toffeenet(bench, "another")
    assert settings(bench, "Toffee") != before[0]
    toffeenet(bench)
    assert settings(bench, "Toffee") == before[0]
    save_file({"a": torch.ones(1)}, bench.weights / "controlnet.safetensors")
    assert settings(bench, "Toffee") != before[0]
    (bench.weights / "controlnet.safetensors").unlink()
    monkeypatch.setattr(ours, "NOISED", 0.1)
    assert settings(bench, "Toffee") == before[0] and settings(bench, "Toffee with Refiner") != before[1]
    monkeypatch.setattr(ours, "TOFFEE_GUIDANCE", 1.0)
    assert settings(bench, "Toffee") != before[0]


def test_rows_name_the_judges_that_they_read(bench):
    other = replace(bench, models=replace(bench.models, dino=bench.models.clip, clip=bench.models.dino))
    changed = {name for name in methods.entries(bench) if settings(bench, name) != settings(other, name)}
    assert {"IP-Adapter", "HiFi: guidance", "HiFi: DreamBooth with guidance", "Toffee"} <= changed
    assert not {"foundation", "Infusion", "HiFi: step-wise", "RetriNet"} & changed
    assert "each=10" in settings(bench, "HiFi: mask")  # how it is learned


def test_cells_of_other_masks_are_others(bench):
    case, method = bench.cases[0], Method("a", "b", None)
    paths = [
        cell_path(method, replace(case, masks=masks), ["x"], bench.noise(), Path())
        for masks in (case.masks, 1 - case.masks, None)
    ]
    assert len(set(paths)) == 3


def test_trained_variants_are_kept_under_what_they_learn_from(monkeypatch, tmp_path):
    modules = retrinet_variants, toffee_variants

    def known():
        for module in modules:
            module.learned_by.cache_clear()
        names = ("retrinet-b", "longer", "controlnet-b")
        return [retrinet_variants.learned_by(name) for name in names], toffee_variants.learned_by()

    def start(value):
        save_file({"a": torch.full((1,), value)}, tmp_path / "start.safetensors")

    start(1.0)
    monkeypatch.setattr(retrinet_variants, "SHIPPED", tmp_path / "start.safetensors")
    monkeypatch.setattr(toffee_variants, "DEPTH", tmp_path / "start.safetensors")
    references, toffee = known()
    assert references[0] == references[1] != references[2]  # the last goes on from nothing
    start(2.0)
    again, other = known()
    assert again[0] != references[0] and again[2] == references[2] and other != toffee
    for module in modules:
        monkeypatch.setattr(module, "LEARN", replace(module.LEARN, batch=3))
    changed, last = known()
    assert not set(changed) & set(again) and last != other
    for module in modules:
        module.learned_by.cache_clear()


def test_variants_have_the_metrics_that_claims_ask_for(bench, monkeypatch):
    def drawn(file, photo, prompts, *_, **__):
        return photo.expand(len(prompts), -1, -1, -1)

    monkeypatch.setattr(toffee_variants, "drawn", drawn)
    found = toffee_variants._scores(Path(), bench.cases[0], None, False, False)
    assert {"seg_dino", "clip_t", toffee_variants.AS_SEEN} <= set(found) and "dino" not in found


# --- failures --------------------------------------------------------------------------------------------------------


def test_what_fails_is_noted_and_what_was_measured_is_kept(bench, monkeypatch):
    def diverge(bench, case):
        raise FloatingPointError("the loss is nan")

    rows = {name: methods.Entry(name, "tuned", diverge) for name in ("foundation", "before", "missing")}
    rows["missing"] = replace(rows["missing"], missing=lambda bench: "no weights")
    monkeypatch.setattr(run, "entries", lambda *_: rows)
    found, told = comparison.blank(), []
    found["methods"]["before"] = found["methods"]["missing"] = {"subjects": {"cat 0": {"dino": [0.5]}}}
    run.grid(bench, found, [], lambda: None, told.append)
    assert found["methods"]["foundation"]["skipped"] == "FloatingPointError: the loss is nan" and len(told) == 3
    assert found["methods"]["before"] == found["methods"]["missing"] == {"subjects": {"cat 0": {"dino": [0.5]}}}


def test_curves_are_drawn_once_and_a_failing_one_leaves_the_others(bench, monkeypatch):
    asked = []

    def curve(bench, case, name, recipe, steps, shown):
        asked.append(name)
        if name == "DreamBooth":
            raise FloatingPointError("nan")
        return {str(s): {"w2": 1.0} for s in steps}

    monkeypatch.setattr(curves, "curve", curve)
    monkeypatch.setattr(curves, "floor", lambda *_: {"w2": 0.1})
    monkeypatch.setattr(curves, "captioned", lambda *_: [])
    found, names = comparison.blank(), ["DreamBooth", "Infusion"]
    for _ in range(2):
        run.draw_curves(bench, found, names, lambda: None, lambda text: None, steps=(1, 2))
    assert asked == ["DreamBooth", "Infusion", "DreamBooth"]
    assert set(found["curves"]["Infusion"]["cat 0"]) == {"1", "2"} and not found["curves"]["DreamBooth"]
    found["tuning"]["DreamBooth-LoRA"] = {"chosen": {"lr": 1e-3, "steps": 2}}
    for rate in (1e-3, 1e-4):
        found["tuning"]["DreamBooth-LoRA"]["chosen"]["lr"] = rate
        run.draw_curves(bench, found, ["DreamBooth-LoRA"], lambda: None, lambda text: None, steps=(1,))
    assert asked.count("DreamBooth-LoRA") == 2  # another recipe is another curve


def test_a_training_that_fails_leaves_the_other(bench, monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory")

    told = []
    monkeypatch.setattr(zero_shot, "train_ip_adapter", fail)
    monkeypatch.setattr(zero_shot, "train_pix2pix", lambda *_: "a folder")
    run.train(bench, told.append)
    assert told == ["ip-adapter.safetensors: not trained, RuntimeError: no memory", "wrote a folder"]


def test_places_without_a_found_subject_are_left_out(bench):
    case, real = bench.cases[0], bench.segmenter

    class Blind:
        def __init__(self, count):
            self.count = count

        def segment(self, images, text):
            masks = real.segment(images, text).clone()
            masks[: self.count] = 0
            return masks

    found = [measure.segmented(replace(bench, segmenter=Blind(n)), case) for n in (0, 2, 8)]
    assert [each["left out"] for each in found] == [0, 2, 8] and set(found[1]) == {"left out", "dino", "seg_dino"}
    results = {"segmented": {f"s{i}": each for i, each in enumerate(found)}}
    assert "10 pictures without a subject left out" in claims.segmented_less()(results)[0].text


# --- the bar ---------------------------------------------------------------------------------------------------------


def made_up(**rows):
    found = comparison.blank()
    for name, values in rows.items():
        subjects = {f"s{i}": {m: [v + 0.01 * (-1) ** i] for m, v in values.items()} for i in range(6)}
        found["methods"][name.replace("_", " ")] = {"subjects": subjects, "family": "x"}
    return found


def test_the_bar_tells_best_alongside_behind_and_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    assert [row["verdict"] for row in bar.judged(comparison.blank())] == ["not measured"] * 6
    rows = {name: {"clip_t": 0.4} for name in claims.BASELINES[:-1]}
    for own, verdict in ((0.5, "best"), (0.3, "behind")):
        first = bar.judged(made_up(**rows, Infusion={"clip_t": own}))[0]
        assert first["verdict"] == verdict and first["rival"].endswith("(not measured: Custom Diffusion)")
    close = made_up(**rows, Infusion={"clip_t": 0.4})
    for i, subject in enumerate(close["methods"]["Infusion"]["subjects"].values()):
        subject["clip_t"] = [0.39 + 0.1 * (-1) ** i]
    assert bar.judged(close)[0]["verdict"] == "within the interval of the best"


def test_the_bar_reads_curves_compositions_and_equal_prompt_following(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    alike, above = {"clip_t": 0.4, "seg_dino": 0.5}, {"clip_t": 0.2, "seg_dino": 0.9}
    found = made_up(DreamBooth=alike, Custom_Diffusion=above)
    found["methods"][bar.LED] = made_up(a={"clip_t": 0.41, "seg_dino": 0.6})["methods"]["a"]
    fidelity = bar.judged(found)[3]
    assert fidelity["verdict"] == "best" and fidelity["rival"] == "DreamBooth"  # the other follows prompts less
    ends = {"Infusion": (0.0, 1.0, 0.5), "DreamBooth": (0.2, 2.0, 0.6), "Custom Diffusion": (0.1, 0.5, 0.3)}
    for name, (fisher, w2, likeness) in ends.items():
        last = {"fisher": fisher, "w2": w2, "seg_dino": likeness}
        found["curves"][name] = {f"s{i}": {"100": last, "2000": last} for i in range(2)}
    _, fisher, w2, *_ = bar.judged(found)
    assert fisher["verdict"] == "best" and fisher["rival"].startswith("Custom Diffusion")
    assert w2["verdict"] == "best" and w2["rival"].startswith("DreamBooth")  # Custom Diffusion is less like the subject
    composed = {"composition": {"right": {bar.FACE: 0.4}, "chance": {bar.FACE: 0.1}}}
    (tmp_path / "retrinet.json").write_text(json.dumps({"quality": composed}))
    composition = bar.judged(found)[4]
    assert (composition["value"], composition["theirs"]) == ("0.400", "0.100")


def test_the_page_shows_the_bar_and_what_failed():
    found = comparison.blank()
    found["bar"] = bar.judged(found)
    found["tuning"]["a"] = {"tried": [{"recipe": {"lr": 1.0}, "skipped": "FloatingPointError: nan"}]}
    found["methods"]["a"] = {"subjects": {"s": {}}, "family": "x", "versions": {"torch": "1"}, "machine": "other"}
    page = report.page(found)
    assert "Where our methods should be best" in page and "zero-shot fidelity, Seg-DINO" in page
    assert "FloatingPointError: nan" in page and "torch 1; other" in page
