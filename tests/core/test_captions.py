"""BLIP-2 by folder: captions are the library's own."""

import weakref

import pytest
import torch
from likeness.core.vision.blip2 import Blip2
from vision_models import pictures, save_blip2, save_sam2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip2")
    save_blip2(folder)
    return folder


def test_captions_are_the_librarys(folder):
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    images = pictures(10)  # more than one batch
    processor = Blip2Processor.from_pretrained(folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    theirs = []
    for image in images:
        inputs = processor(images=(image * 255).byte().movedim(0, -1).numpy(), return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        theirs.append(processor.decode(tokens[0], skip_special_tokens=True).strip())
    captions = Blip2(folder, length=6).caption(images)
    assert captions == theirs and len(set(captions)) > 2


def test_a_caption_is_one_line_of_some_length(folder, monkeypatch):
    blip, images = Blip2(folder, length=3), pictures(1)
    short = blip.caption(images)[0]
    assert blip.caption(images) == [short] and 0 < len(short.split()) <= 3
    monkeypatch.setattr(blip.processor, "batch_decode", lambda *a, **k: ["\n a cat\n on  snow \n"])
    assert blip.caption(images) == ["a cat on snow"]


def test_half_precision_and_handing_back(folder):
    blip = Blip2(folder, dtype=torch.bfloat16, length=4)
    assert {p.dtype for p in blip.model.parameters()} == {torch.bfloat16}
    assert len(blip.caption(pictures())) == 2
    weights = weakref.ref(next(blip.model.parameters()))
    blip.release()
    assert weights() is None


def test_what_is_no_blip2_is_named(folder, tmp_path):
    pytest.importorskip("torchvision", reason="the other model is a SAM 2, which needs torchvision")
    save_sam2(tmp_path / "sam2")
    with pytest.raises(ValueError, match="is a sam2 model, but a BLIP-2 is needed here"):
        Blip2(tmp_path / "sam2").caption(pictures())
    with pytest.raises(FileNotFoundError, match=r"no BLIP-2 model at .*missing; give a folder"):
        Blip2(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"floats \(B, 3, H, W\)"):
        Blip2(folder).caption(torch.zeros(3, 8, 8))
