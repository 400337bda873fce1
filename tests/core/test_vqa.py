"""Models that answer questions, and detectors with labels, by folder: answers and boxes are the library's own."""

import pytest
import torch
from likeness.core.vision.blip2 import Blip2
from likeness.core.vision.detector import Detector
from likeness.core.vision.vqa import BlipVqa, InstructBlip
from vision_models import pictures, save_blip2, save_blip_vqa, save_instructblip, save_yolos

QUESTIONS = ["a red cat?", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vqa")
    save_instructblip(folder / "instructblip")
    save_blip_vqa(folder / "blip")
    save_blip2(folder / "blip2")
    return folder


def theirs(folder, kind, images, prompts):
    """What the library's own classes say, picture by picture."""
    import transformers as t

    name = {"instructblip": "InstructBlipForConditionalGeneration", "blip": "BlipForQuestionAnswering"}[kind]
    processor = getattr(t, {"instructblip": "InstructBlipProcessor", "blip": "BlipProcessor"}[kind])
    processor, model = processor.from_pretrained(folder / kind), getattr(t, name).from_pretrained(folder / kind).eval()
    found = []
    for image in images:
        answers = []
        for prompt in prompts:
            pixels = (image * 255).byte().movedim(0, -1).numpy()
            inputs = processor(images=pixels, text=prompt, return_tensors="pt")
            tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)
            asked = inputs["input_ids"]
            if torch.equal(tokens[:, : asked.shape[1]], asked):  # newer libraries repeat the question
                tokens = tokens[:, asked.shape[1] :]
            answers.append(" ".join(processor.decode(tokens[0], skip_special_tokens=True).split()))
        found.append(answers)
    return found


def test_instructblips_answers_are_the_librarys(folder):
    images = pictures(10)  # more than one batch
    prompts = [f"Question: {question} Short answer:" for question in QUESTIONS]
    answers = InstructBlip(folder / "instructblip", length=5)(images, QUESTIONS)
    assert answers == theirs(folder, "instructblip", images, prompts)
    assert not any("question" in answer.lower() for each in answers for answer in each)
    assert len({tuple(each) for each in answers}) > 2 and any(a != b for a, b in answers)


def test_blips_answers_are_the_librarys(folder):
    images = pictures(10)
    answers = BlipVqa(folder / "blip", length=5)(images, QUESTIONS)
    assert answers == theirs(folder, "blip", images, QUESTIONS) and len({tuple(each) for each in answers}) > 1


def test_another_prompt(folder):
    blip = InstructBlip(folder / "instructblip", length=5, prompt="{}")
    assert blip(pictures(), QUESTIONS) == theirs(folder, "instructblip", pictures(), QUESTIONS)


def test_half_precision_and_handing_back(folder):
    blip = BlipVqa(folder / "blip", dtype=torch.bfloat16, length=3)
    assert [len(each) for each in blip(pictures(), QUESTIONS)] == [2, 2]
    assert {p.dtype for p in blip.model.parameters()} == {torch.bfloat16}
    blip.release()
    assert "model" not in vars(blip)


def test_what_answers_nothing_is_named(folder, tmp_path):
    import transformers as t

    with pytest.raises(ValueError, match="is a blip-2 model, but a InstructBLIP is needed here"):
        InstructBlip(folder / "blip2")(pictures(), QUESTIONS)
    config = t.BlipConfig.from_pretrained(folder / "blip")
    t.BlipForConditionalGeneration(config).save_pretrained(tmp_path / "captioner")
    with pytest.raises(ValueError, match="is a BlipForConditionalGeneration, which answers no questions"):
        BlipVqa(tmp_path / "captioner")(pictures(), QUESTIONS)
    with pytest.raises(FileNotFoundError, match="no InstructBLIP model at"):
        InstructBlip(tmp_path / "missing")
    with pytest.raises(ValueError, match="questions: one is empty"):
        BlipVqa(folder / "blip")(pictures(), ["a cat", " "])
    assert Blip2(folder / "blip2", length=2).caption(pictures(1))  # which is another protocol's


# --- detectors


@pytest.fixture(scope="module")
def yolos(tmp_path_factory):
    pytest.importorskip("torchvision", reason="transformers prepares pictures for detectors with torchvision")
    folder = tmp_path_factory.mktemp("yolos")
    save_yolos(folder)
    return folder


@pytest.mark.parametrize("text", ["face", " Person "])
def test_boxes_are_the_librarys(yolos, text):
    from transformers import YolosForObjectDetection, YolosImageProcessor

    images, threshold = pictures(6), 0.02
    processor = YolosImageProcessor.from_pretrained(yolos)
    model = YolosForObjectDetection.from_pretrained(yolos).eval()
    theirs = []
    for image in images:
        pixels = (image * 255).byte().movedim(0, -1).numpy()
        with torch.no_grad():
            out = model(**processor(images=pixels, return_tensors="pt"))
        found = processor.post_process_object_detection(out, threshold=threshold, target_sizes=[image.shape[-2:]])[0]
        label = model.config.label2id[text.strip().lower()]
        pairs = zip(found["scores"].tolist(), found["boxes"].tolist(), found["labels"].tolist())
        theirs.append([box for _, box, number in sorted(pairs, reverse=True) if number == label])
    boxes = Detector(yolos, threshold=threshold).boxes(images, text)
    for ours, other in zip(boxes, theirs, strict=True):
        assert ours.shape == (len(other), 4)
        torch.testing.assert_close(ours, torch.tensor(other).reshape(-1, 4), atol=1e-3, rtol=1e-4)
    assert sum(map(len, boxes)) > 2


def test_a_label_that_is_not_there_is_named(yolos):
    with pytest.raises(ValueError, match=r"finds face, person, but no 'cat'"):
        Detector(yolos).boxes(pictures(), "cat")
