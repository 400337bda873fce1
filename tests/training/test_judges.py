"""The judges' training, a few steps of it: complete, resumable, learning; what it learns from is true."""

import json
import random
from dataclasses import replace

import pytest
import torch
from likeness.core import files
from likeness.core.demo import MODEL, world
from likeness.core.demo import judges as shipped
from likeness.core.demo.truth import VALUES
from likeness.training import judge_captions, judge_export, judge_losses, judge_measures, judges
from likeness.training import judge_pictures as pictures_of
from likeness.training.judge_pictures import SCENES, JudgePictures
from likeness.training.loop import Cancelled, Settings
from torch.nn.functional import cross_entropy

TINY = Settings(steps=2, lr=1e-3, ema=0.9)


@pytest.fixture(scope="module", autouse=True)
def quick_cards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_export, "_PICTURES", 3)
        patch.setattr(judge_export, "_TRIPLES", 3)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    config = judges.Config(
        out=folder / "out",
        work=folder / "work",
        subjects=5,
        twins=3,
        attributes=TINY,
        dino=TINY,
        clip=TINY,
        segments=TINY,
        attributes_batch=4,
        clip_batch=4,
        segments_batch=4,
        groups=2,
        group=2,
        threads=torch.get_num_threads(),
    )
    stages = []
    judges.train(config, lambda stage, progress: stages.append((stage, progress.step)))
    return config, stages


@pytest.fixture(scope="module")
def pictures(trained):
    config = trained[0]
    return JudgePictures.render(config.subjects, config.twins, config.vae, config.work)


def test_every_judge_is_trained_and_opens(trained):
    config, stages = trained
    assert stages == [(name, step) for name in judges.PARTS for step in (1, 2)]
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    clip, dino = shipped.clip(config.out), shipped.dino(config.out)
    assert clip.images(images).shape == clip.texts(["a cat", "a dog"]).shape == (2, judges.SPACE)
    assert dino.patches(images).shape == (2, 8, 8, judges.DINO["hidden_size"])
    torch.testing.assert_close(dino.preprocess(images), images * 2 - 1)
    torch.testing.assert_close(clip.preprocess(images), images * 2 - 1)
    assert set(shipped.attributes(config.out)(images)) == set(VALUES)
    masks = shipped.segments(config.out)(images[..., :96])
    assert masks.shape == (2, 1, 128, 96) and set(masks.unique().tolist()) <= {0.0, 1.0}


def test_they_are_small_and_hold_no_pickle(trained):
    paths = [path for path in trained[0].out.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) <= 8 * 2**20
    assert {path.suffix for path in paths} == {".safetensors", ".json", ".txt", ".md"}


def test_the_card_tells_sizes_steps_and_hashes(trained):
    config, card = trained[0], (trained[0].out / "README.md").read_text()
    for name in judges.PARTS:
        record = json.loads((config.out / name / judge_export.RECORD).read_text())
        assert record["steps"] == 2 and 0.6e6 < record["parameters"] < 1.25e6
        assert f"{record['parameters']:,}" in card and record["hash"] in card and record["measured"] in card


@pytest.mark.parametrize("name", judges.PARTS)
def test_stopped_and_resumed_equals_unbroken_bit_for_bit(trained, tmp_path, name):
    config = replace(trained[0], which=name, **{name: replace(TINY, steps=3)})

    def weights(work, watch=None):
        for cache in trained[0].work.glob("judge-*.safetensors"):
            (work / cache.name).parent.mkdir(exist_ok=True)
            (work / cache.name).write_bytes(cache.read_bytes())
        judges.train(replace(config, work=work, out=work / "out"), watch)
        return files.load(work / f"{name}.safetensors", kind="training-checkpoint")[0]

    def stop(stage, progress):
        if progress.step == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        weights(tmp_path / "b", stop)
    unbroken, resumed = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert unbroken.keys() == resumed.keys() and any(key.startswith("average.") for key in unbroken)
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)


def test_they_go_on_from_judges(trained, tmp_path):
    still = {name: replace(TINY, steps=0) for name in judges.PARTS}
    config = replace(trained[0], init=trained[0].out, out=tmp_path / "out", work=tmp_path / "work", **still)
    judges.train(config)
    for name in judges.PARTS:
        before, after = (json.loads((c.out / name / "training.json").read_text()) for c in (trained[0], config))
        assert before["hash"] == after["hash"]


def test_other_pictures_are_another_training(trained, tmp_path):
    config = replace(trained[0], twins=2, which="clip", out=tmp_path / "out")
    with pytest.raises(files.LearnedFileError, match="other settings, data or start"):
        judges.train(config)


def test_dino_needs_its_average(trained):
    with pytest.raises(ValueError, match=r"dino\.ema is 0"):
        judges.train(replace(trained[0], dino=replace(TINY, ema=0.0)))


@pytest.mark.parametrize("name", judges.PARTS)
def test_losses_fall(trained, tmp_path, name):
    steps, lr = {"attributes": (14, 1e-3), "dino": (10, 3e-4), "clip": (24, 1e-3), "segments": (24, 3e-3)}[name]
    settings = {
        name: Settings(steps=steps, lr=lr, ema=0.8),
        "clip_batch": 8,
        "segments_batch": 8,
        "groups": 4,
        "group": 1,
    }
    config = replace(trained[0], which=name, work=tmp_path, out=tmp_path / "out", **settings)
    for cache in trained[0].work.glob("judge-*.safetensors"):
        (tmp_path / cache.name).write_bytes(cache.read_bytes())
    values = []
    judges.train(config, lambda stage, progress: values.append(progress.loss))
    assert sum(values[-5:]) < 0.85 * sum(values[:5]), values


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_their_subjects_in_their_scenes(pictures):
    assert pictures.images.shape == (5 * SCENES, 3, 128, 128) and pictures.images.dtype == torch.uint8
    for i in (0, 7):
        subject, scene = pictures.shown[i]
        assert subject == pictures.shown[i - i % SCENES][0]
        assert torch.equal(pictures.images[i], (world.draw(subject, scene).image * 255).round().byte())
        values = {name: VALUES[name][k] for name, k in zip(VALUES, pictures.labels[i].tolist()) if k >= 0}
        assert values["kind"] == subject.word and values["style"] == scene.style


def test_no_subject_is_held_out_and_no_scene_is_the_bases():
    shown = [pictures_of.scene_of(i) for i in range(400)]
    assert not any(world.held_out(subject) for subject, _ in shown)
    assert not {scene for _, scene in shown} & {world.sample_scene(seed)[1] for seed in range(400)}
    assert len({scene for _, scene in shown}) == 400


def test_twins_are_round_trips(pictures):
    vae = pictures_of.open_vae(MODEL / "vae")
    numbers = pictures_of.shuffled(len(pictures.images))[:3]
    expected = pictures_of.round_trip(vae, pictures.images[numbers] / 255)
    torch.testing.assert_close(pictures.twins / 255, expected, rtol=0, atol=0.51 / 255)
    g = torch.Generator().manual_seed(0)
    alone, paired = (pictures.some(200, g, twins=share).unique() for share in (0.0, 1.0))
    assert len(alone) > 3 and set(paired.tolist()) == set(numbers.tolist())
    as_they_are, as_twins = (
        pictures.batch(numbers, torch.Generator().manual_seed(1), share=share) for share in (0.0, 1.0)
    )
    assert (as_they_are - as_twins).abs().mean() > 0.005


def test_masks_are_their_pictures(pictures):
    images, masks = pictures.masked(6, torch.Generator().manual_seed(1))
    assert images.shape == (6, 3, 128, 128) and masks.shape == (6, 1, 64, 64)
    for image, mask in zip(images, masks):
        found = [torch.equal(mask, m / 255) or torch.equal(mask, m.flip(-1) / 255) for m in pictures.masks]
        assert any(found) and 0.02 < mask.mean() < 0.6 and image.isfinite().all()
    whole = torch.nn.functional.avg_pool2d(world.draw(*pictures.shown[2]).mask, 2)
    assert (pictures.masks[2] / 255 - whole).abs().max() <= 0.5 / 255 + 1e-6


def test_the_overlap_loss_is_the_formula():
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., :4] = 1
    sure = torch.where(torch.nn.functional.avg_pool2d(masks, 2) > 0.5, 20.0, -20.0)
    assert judge_losses.subject(sure, masks) < 1e-6
    nothing = torch.full_like(sure, -20.0)
    assert float(judge_losses.subject(nothing, masks)) == pytest.approx(10 + 1 - 1 / 9, abs=1e-3)


def test_jitter_keeps_hues():
    colours = torch.tensor([[0.8, 0.2, 0.2], [0.1, 0.4, 0.7]])[:, :, None, None].expand(2, 3, 128, 128)
    out = pictures_of.jitter(colours, torch.Generator().manual_seed(0))
    assert not torch.equal(out, colours) and out.min() >= 0 and out.max() <= 1
    ratio = out.mean((2, 3)) / colours[..., 0, 0]
    torch.testing.assert_close(ratio, ratio.mean(1, keepdim=True).expand(2, 3), rtol=0, atol=0.01)


def test_several_processes_draw_the_same(pictures, trained, tmp_path):
    again = JudgePictures.render(5, 0, trained[0].vae, tmp_path, workers=2)
    assert torch.equal(again.images, pictures.images) and torch.equal(again.labels, pictures.labels)


def test_pictures_of_an_older_world_are_drawn_anew(tmp_path):
    fresh = JudgePictures.render(1, 0, MODEL / "vae", tmp_path)
    cache = tmp_path / "judge-pictures-1.safetensors"
    for wrong in ({"images": fresh.images.roll(1, 0)}, {"labels": fresh.labels.roll(1, 0)}):
        kept = {"images": fresh.images, "labels": fresh.labels} | wrong
        files.save(cache, kept, files.Header(kind=pictures_of.KIND))
        again = JudgePictures.render(1, 0, MODEL / "vae", tmp_path)
        assert torch.equal(again.images, fresh.images) and torch.equal(again.labels, fresh.labels)


# --- captions --------------------------------------------------------------------------------------------------------


def test_a_caption_fits_its_picture_and_an_altered_one_does_not():
    for seed in range(300):
        pair = world.sample_scene(seed)
        true, wrong = world.caption(*pair, random.Random(f"{seed}")), judge_captions.altered(*pair, f"{seed}")
        facts = torch.tensor([judge_captions.facts(*pair)])
        assert judge_captions.fits([true, wrong], facts).tolist() == [[True, False]], (true, wrong)
        claims = zip(judge_captions.claims(true), judge_captions.claims(wrong))
        assert sum(a != b for a, b in claims) == 1, (true, wrong)


def test_claims_are_what_a_caption_says():
    said = dict(zip(judge_captions.SAID, judge_captions.claims("a drawing of the back view of a red cat at night")))
    named = {name: VALUES[name][k] for name, k in said.items() if k >= 0}
    assert named == dict(kind="cat", colour="red", background="night", style="drawing", view="back", accessory="none")
    said = dict(zip(judge_captions.SAID, judge_captions.claims("side view of a figure waving with a balloon")))
    named = {name: VALUES[name][k] for name, k in said.items() if k >= 0}
    assert named == dict(kind="person", style="photo", accessory="balloon", pose="waving")


# --- losses ----------------------------------------------------------------------------------------------------------


def test_answers_count_only_what_is_visible():
    g = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(3, len(values), generator=g) for name, values in VALUES.items()}
    labels = torch.full((3, len(VALUES)), -1)
    labels[0, 0], labels[2, 0], labels[1, 4] = 3, 1, 2
    names = list(VALUES)
    kind = cross_entropy(logits[names[0]][[0, 2]], torch.tensor([3, 1]))
    view = cross_entropy(logits[names[4]][[1]], torch.tensor([2]))
    torch.testing.assert_close(judge_losses.answers(logits, labels), (kind + view) / 2)


def test_a_caption_that_is_true_of_another_picture_is_no_wrong_answer():
    images = torch.eye(3)
    texts = torch.cat([torch.eye(3), torch.eye(3)[:1]])
    none = torch.eye(3, 4, dtype=torch.bool)
    strict = judge_losses.captions(images, texts, none, torch.tensor(5.0))
    also = none.clone()
    also[0, 3] = True  # the fourth caption, equal to the first, is true of the first picture
    assert judge_losses.captions(images, texts, also, torch.tensor(5.0)) < strict - 0.1
    rows = cross_entropy(5 * images @ texts.T, torch.arange(3)) + cross_entropy(5 * torch.eye(3), torch.arange(3))
    torch.testing.assert_close(strict, rows / 2)


def test_the_same_subject_is_found_and_its_equals_are_not_counted():
    vectors = torch.eye(3).repeat(2, 1)
    identity = torch.arange(3).repeat(2)
    alone = judge_losses.same_subject(vectors, vectors, identity)
    assert alone == pytest.approx(float(torch.log(1 + 4 * torch.exp(torch.tensor(-10.0)))), rel=1e-2)
    swapped = judge_losses.same_subject(vectors, vectors.roll(1, 0), identity)
    assert swapped > 5
    equal = torch.tensor([0, 1, 1]).repeat(2)  # the third is the second again, drawn twice
    twice = vectors[[0, 1, 1, 3, 4, 4]]
    assert judge_losses.same_subject(twice, twice, equal) < 0.01 < judge_losses.same_subject(twice, twice, identity)


def test_a_patch_is_told_by_neither_its_place_nor_its_picture():
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 9, 32, generator=g)
    right = judge_losses.same_patch(tokens, tokens)
    place = torch.randn(1, 9, 32, generator=g).expand(4, 9, 32)
    picture = torch.randn(4, 1, 32, generator=g).expand(4, 9, 32)
    assert right < 0.3
    for lazy in (place, picture):
        assert judge_losses.same_patch(lazy, lazy) > right + 0.5


def test_kindred_are_pairs_of_one_kind(pictures):
    chosen = judges.kindred(pictures, 3, 2, torch.Generator().manual_seed(0))
    first, second = chosen.view(2, 3, 2)
    assert torch.equal(first // SCENES, second // SCENES) and (first != second).all()
    kinds = pictures.labels[:, 0][first]
    assert (kinds == kinds[:, :1]).all()


# --- measures --------------------------------------------------------------------------------------------------------


def test_accuracy_counts_what_is_visible():
    labels = torch.full((4, len(VALUES)), -1)
    names = list(VALUES)
    view, dip = names.index("view"), names.index("dip")
    labels[:, view], labels[:, dip] = torch.tensor([0, 1, 2, -1]), torch.tensor([0, 3, 4, -1])

    class Fixed:
        """Says view 1 and a dip of colour 3 of every picture."""

        def __call__(self, images):
            from likeness.core.demo.attributes import Answer

            said = {"view": 1, "dip": 3}
            rows = {
                n: torch.nn.functional.one_hot(torch.tensor([said.get(n, 0)] * 4), len(v)) for n, v in VALUES.items()
            }
            return {name: Answer(VALUES[name], row.float()) for name, row in rows.items()}

    found = judge_measures.accuracy(Fixed(), torch.zeros(4, 3, 128, 128), labels)
    assert set(found) == {"view", "dip", "dip colour"}
    assert found["view"] == (pytest.approx(1 / 3), 3)
    assert found["dip"] == (pytest.approx(2 / 3), 3) and found["dip colour"] == (0.5, 2)


def test_triples_are_held_out_and_of_one_class():
    for triple in judge_measures.triples(40, subjects=20):
        (anchor, a), (same, b), (other, c) = triple.anchor, triple.same, triple.other
        assert anchor == same != other and anchor.word == other.word and a != b != c
        assert world.held_out(anchor) and world.held_out(other)


def test_patches_are_right_where_the_subject_is():
    asked = judge_measures.triples(3, subjects=3)

    class Cheat:
        """Tokens that say how much of a patch the subject covers, from the truth it was given; `sign` -1 lies."""

        def __init__(self, sign):
            self.sign = [1, sign]

        def patches(self, images):
            role = "anchor" if len(self.sign) == 2 else "same"
            masks = torch.stack([world.draw(*getattr(triple, role)).mask for triple in asked])
            on = torch.nn.functional.adaptive_avg_pool2d(masks, 8)[:, 0] > 0.5
            return (on.float()[..., None] * 2 - 1) * self.sign.pop(0)

    for sign, expected in ((1, 1.0), (-1, 0.0)):
        found = judge_measures.patches_right(Cheat(sign), asked)
        assert found["on the subject"][0] == expected
        assert 0.02 < found["chance"][0] < 0.5


def test_ranking_finds_who_is_nearer():
    class Mean:
        """A judge that sees only how bright a picture is on average, as an angle."""

        def images(self, images):
            angle = images.mean((1, 2, 3))
            return torch.stack([angle.cos(), angle.sin()], -1)

    asked = judge_measures.triples(8, subjects=8)
    found = judge_measures.ranked_right(Mean(), asked)
    drawn = [[float(world.draw(*pair).image.mean()) for pair in (t.anchor, t.same, t.other)] for t in asked]
    assert found["all"] == (pytest.approx(sum(abs(a - b) < abs(a - c) for a, b, c in drawn) / 8), 8)
    assert sum(found[name][1] for name in ("things", "person") if name in found) == 8
