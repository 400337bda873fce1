"""Pictures measured: each metric by its formula, SWD from per-picture products, the command and its mistakes."""

import json

import pytest
import torch
from likeness.core.demo import judges, world
from likeness.training import evaluate
from likeness.training.evaluate import Config, Models, embedded, score
from PIL import Image


class Colours:
    """Embeds a picture as its mean colour, a text by which colour it names."""

    def images(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=-1)

    def texts(self, texts):
        return torch.stack([torch.tensor([float(c in text) for c in ("red", "green", "blue")]) for text in texts])


def plain(*colours):
    return torch.stack([torch.tensor(c, dtype=torch.float32)[:, None, None].expand(3, 8, 8) for c in colours])


RED, GREEN, BOTH = (1, 0, 0), (0, 1, 0), (1, 1, 0)


def test_formulas():
    found = score(Models(Colours(), Colours()), plain(RED, BOTH), plain(RED, GREEN), ["red", "green"])
    half = 0.5**0.5
    assert found.each["clip_i"].tolist() == pytest.approx([0.5, half])  # the mean over all references
    assert found.each["clip_t"].tolist() == pytest.approx([1.0, half])
    summary = found.summary()
    assert summary["swd clip_i x clip_t"] == pytest.approx((0.5 * 1.0 + half * half) / 2)
    assert summary["clip_i"] == pytest.approx((0.5 + half) / 2) and "vqa" not in summary


def test_a_picture_without_subject_is_no_likeness():
    def segment(images):
        masks = torch.zeros(len(images), 1, 8, 8)
        masks[images.mean((1, 2, 3)) < 0.5] = 1  # yellow has none
        return masks

    found = score(Models(Colours(), Colours(), segment), plain(RED, BOTH), plain(RED, GREEN))
    assert found.each["seg_dino"].tolist() == pytest.approx([0.5, 0.0])
    with pytest.raises(ValueError, match="references: no subject is found in any of them"):
        score(Models(Colours(), Colours(), segment), plain(RED), plain(BOTH))
    given = torch.ones(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    given[1][1] = 0  # the second reference shows nothing
    found = score(Models(Colours(), Colours(), segment), plain(RED, BOTH), plain(RED, GREEN), masks=given)
    assert found.each["seg_dino"].tolist() == pytest.approx([1.0, 0.5**0.5])


def test_answers_are_compared_with_every_reference():
    def vqa(images, questions):
        return [["red" if image[1].max() == 0 else "green"] for image in images]

    models = Models(Colours(), Colours(), None, vqa, ["colour?"], Colours().texts)
    found = score(models, plain(RED), plain(RED, GREEN))
    assert found.each["vqa"].tolist() == pytest.approx([0.5])
    # the photo that is alike has the same answer: each photo's product by itself
    assert found.summary()["swd vqa x clip_i"] == pytest.approx(0.0)


def test_the_judges_answer_about_pose_and_view():
    person = world.held_out_subjects(2, "person")[1]
    scenes = [
        world.Scene("beach", "photo", view=view, pose=pose)
        for view, pose in (("front", "standing"), ("left", "sitting"))
    ]
    shots = torch.stack([world.draw(person, scene).image for scene in scenes])
    models = embedded()
    assert models.vqa(shots, models.questions) == [["pose standing", "view front"], ["pose sitting", "view left"]]
    found = score(models, shots, shots[:1])
    assert found.each["vqa"].tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def test_pictures_of_any_sizes_are_looked_at_in_their_middle():
    wide = torch.zeros(3, 40, 100)
    wide[:, :, 30:70] = 1
    batch = evaluate._batch([("a", wide), ("b", torch.ones(3, 20, 20))])
    assert batch.shape == (2, 3, 40, 40) and bool((batch > 0.99).all())
    assert evaluate._batch([("a", torch.rand(3, 2000, 3000))]).shape == (1, 3, evaluate.LARGEST, evaluate.LARGEST)


def test_command(tmp_path):
    subject = world.held_out_subjects(1, "cat")[0]
    for folder, count, seed in (("drawn", 2, 1), ("photos", 3, 2)):
        (tmp_path / folder).mkdir()
        for i, picture in enumerate(world.photos(subject, count, seed=seed)):
            pixels = (picture.image * 255).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "prompts.json").write_text(json.dumps({f"{i}.png": "a photo of a cat" for i in range(2)}))
    out = tmp_path / "scores.json"
    summary = evaluate.run(
        Config(tmp_path / "drawn", tmp_path / "photos", tmp_path / "prompts.json", vqa="demo", out=out)
    )
    kept = json.loads(out.read_text())
    assert kept["means"] == summary and set(kept["each"]) == {"0.png", "1.png"}
    names = {"clip_i", "clip_t", "dino", "seg_clip_i", "seg_dino", "vqa"}
    assert names < set(summary) and sum(name.startswith("swd") for name in summary) == 3
    own = judges.dino()
    drawn, photos = (evaluate._batch(evaluate.photos.read_folder(tmp_path / f)) for f in ("drawn", "photos"))
    assert summary["dino"] == pytest.approx(float((own.images(drawn) @ own.images(photos).T).mean()), abs=1e-5)
    (tmp_path / "prompts.json").write_text("{}")
    with pytest.raises(ValueError, match=r"prompts: prompts.json has none for 0\.png, 1\.png"):
        evaluate.run(Config(tmp_path / "drawn", tmp_path / "photos", tmp_path / "prompts.json"))


def test_the_embedded_clip_reads_no_answers():
    with pytest.raises(ValueError, match="clip: the embedded one can't read a model's answers"):
        evaluate.models_of(Config("drawn", "photos", vqa="Salesforce/blip-vqa-base"))
