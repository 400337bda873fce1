"""Segmenters by file or folder: their masks and boxes are the libraries' own, and they say what is wrong."""

import json
import sys
import weakref

import pytest
import torch
from likeness.core.demo import judges, world
from likeness.core.vision import prompts
from likeness.core.vision.grounding import GroundedSegmenter, GroundingDino, sentence
from likeness.core.vision.preprocess import bytes_of
from likeness.core.vision.sam import Sam, encoder_shape
from likeness.core.vision.sam2 import Sam2
from likeness.core.vision.sam3 import Sam3
from safetensors.torch import save_file
from vision_models import SAM_SIZE, pictures, sam, save_grounding_dino, save_sam2, save_sam3, save_video_kinds

BOXES = torch.tensor([[5.0, 5, 30, 30], [20, 3, 50, 33]])
POINT, BESIDE = torch.tensor([[20.0, 20, 1]]), torch.tensor([[20.0, 20, 1], [40, 10, 0]])
PROMPTS = {
    "box": dict(boxes=BOXES[:1]),
    "one point": dict(points=POINT),
    "points": dict(points=BESIDE),
    "box and points": dict(boxes=BOXES[:1], points=BESIDE),
}


@pytest.fixture(scope="module")
def torchvision():
    return pytest.importorskip("torchvision", reason="segment-anything, SAM 2 and SAM 3 need torchvision")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, torchvision):
    """Random models: sam.pth, sam.safetensors, and the folders sam2, sam3, dino."""
    folder = tmp_path_factory.mktemp("vision")
    torch.save(sam().state_dict(), folder / "sam.pth")
    save_file(sam().state_dict(), folder / "sam.safetensors")
    save_sam2(folder / "sam2")
    save_sam3(folder / "sam3")
    save_grounding_dino(folder / "dino")
    return folder


@pytest.fixture(scope="module")
def dino(folder):
    return GroundingDino(folder / "dino")


def alike(images, **prompt):
    """A prompt for each picture."""
    return {name: [value] * len(images) for name, value in prompt.items()}


def array(image):
    return (image * 255).byte().movedim(0, -1).numpy()


# --- SAM


def predicted(image, boxes=None, points=None):
    """What segment_anything's own predictor says, logits of the candidate that it holds for best."""
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam())
    predictor.set_image(array(image))
    masks, quality, _ = predictor.predict(
        point_coords=None if points is None else points[:, :2].numpy(),
        point_labels=None if points is None else points[:, 2].numpy(),
        box=None if boxes is None else boxes[0].numpy(),
        multimask_output=boxes is None and len(points) == 1,
        return_logits=True,
    )
    return torch.from_numpy(masks[quality.argmax()])


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("size", [(48, SAM_SIZE), (SAM_SIZE, 30)])
def test_sams_masks_are_the_predictors(folder, name, size):
    images = pictures(2, *size)
    masks = Sam(folder / "sam.pth").segment(images, **alike(images, **PROMPTS[name]))
    theirs = torch.stack([predicted(image, **PROMPTS[name]) for image in images])[:, None]
    # predictions so near the border are rounding
    assert masks.shape == theirs.shape and masks.dtype == torch.float32
    assert ((masks > 0) == (theirs > 0))[theirs.abs() > 1e-4].all() and (theirs.abs() > 1e-4).float().mean() > 0.99
    assert 0.01 < masks.mean() < 0.99 and not torch.equal(masks[0], masks[1])


def test_sam_resizes_as_the_predictor_does(folder):
    """The predictor rounds to 8 bits in between, which moves a few pixels."""
    noise = torch.rand(2, 3, 90, 133, generator=torch.Generator().manual_seed(0))
    images = (noise * 255).round() / 255
    box = dict(boxes=torch.tensor([[10.0, 12, 100, 80]]))
    masks = Sam(folder / "sam.pth").segment(images, **alike(images, **box))
    theirs = torch.stack([predicted(image, **box) for image in images])[:, None] > 0
    assert ((masks > 0) != theirs).float().mean() < 0.003 < masks.mean()


def test_both_kinds_of_file_are_one_model(folder):
    images = pictures()
    a, b = (Sam(folder / name).segment(images, boxes=[BOXES] * 2) for name in ("sam.pth", "sam.safetensors"))
    assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes_are_read_off_their_shapes(torchvision, kind):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        model = sam_model_registry[kind]()
    shape, encoder = encoder_shape(model.state_dict()), model.image_encoder
    windows = [block.window_size for block in encoder.blocks]
    assert (shape["img_size"], shape["depth"], shape["window_size"]) == (1024, len(encoder.blocks), 14)
    assert shape["num_heads"] == encoder.blocks[0].attn.num_heads
    assert shape["global_attn_indexes"] == tuple(i for i, window in enumerate(windows) if window == 0)


class Harmful:
    def __reduce__(self):
        return print, ("opened",)


def test_a_file_that_is_no_sam_is_refused(torchvision, tmp_path, capsys):
    bad = {
        "code.pth": (lambda path: torch.save({"model": Harmful()}, path), "holds more than weights, which is never"),
        "short.pth": (lambda path: path.write_bytes(b"PK\x03\x04"), "the download may be incomplete"),
        "short.safetensors": (lambda path: path.write_bytes(b"\x00"), "the download may be incomplete"),
        "sam2.pth": (lambda path: torch.save({"model": {}}, path), "no Segment Anything checkpoint.*SAM 2 and SAM 3"),
        "list.pth": (lambda path: torch.save([1, 2], path), "no Segment Anything checkpoint"),
    }
    more = {**sam().state_dict(), "mask_decoder.hf_token.weight": torch.zeros(1)}
    plain = {name: value for name, value in sam().state_dict().items() if "rel_pos" not in name}
    bad["plain.pth"] = (lambda path: torch.save(plain, path), "plain.pth is no Segment Anything checkpoint")
    bad["hq.pth"] = (lambda path: torch.save(more, path), "hq.pth is no Segment Anything checkpoint")
    for name, (write, message) in bad.items():
        write(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            _ = Sam(tmp_path / name).model
    assert "opened" not in capsys.readouterr().out


def test_a_file_that_is_not_there_is_named(tmp_path):
    (tmp_path / "sam.onnx").touch()
    for name in ("sam.pth", "sam.onnx", "."):
        with pytest.raises(FileNotFoundError, match=r"no SAM at .*give a checkpoint file, \.pth or \.safetensors"):
            Sam(tmp_path / name)


# --- SAM 2


@pytest.mark.parametrize("name", PROMPTS)
def test_sam2s_masks_are_the_librarys(folder, name):
    from transformers import Sam2Model, Sam2Processor

    images, prompt = pictures(), PROMPTS[name]
    processor, model = Sam2Processor.from_pretrained(folder / "sam2"), Sam2Model.from_pretrained(folder / "sam2")
    theirs = []
    for image in images:
        where = {"input_boxes": [prompt["boxes"].tolist()]} if "boxes" in prompt else {}
        if "points" in prompt:
            where["input_points"] = [[prompt["points"][:, :2].tolist()]]
            where["input_labels"] = [[prompt["points"][:, 2].int().tolist()]]
        inputs = processor(images=array(image), return_tensors="pt", **where)
        with torch.no_grad():
            out = model.eval()(**inputs, multimask_output=name == "one point")
        masks = processor.post_process_masks(out.pred_masks, inputs["original_sizes"])[0]
        theirs.append(masks[0, out.iou_scores[0, 0].argmax()][None])
    masks = Sam2(folder / "sam2").segment(images, **alike(images, **prompt))
    assert torch.equal(masks, torch.stack(theirs).float()) and 0.05 < masks.mean() < 0.95


# --- boxes and points, of either


@pytest.fixture(scope="module", params=["sam.pth", "sam2"])
def segmenter(folder, request):
    return (Sam2 if request.param == "sam2" else Sam)(folder / request.param)


def test_several_boxes_are_united_and_pictures_are_apart(segmenter):
    images = pictures(3)
    together = segmenter.segment(images, boxes=[BOXES, BOXES[:0], BOXES[1:]])
    first, second = (segmenter.segment(images[:1], boxes=[box[None]]) for box in BOXES)
    assert torch.equal(together[:1], torch.maximum(first, second)) and not torch.equal(first, second)
    assert not together[1].any()
    assert torch.equal(together[2:], segmenter.segment(images[2:], boxes=[BOXES[1:]]))


def test_points_belong_to_each_box(segmenter):
    image = pictures(1)
    together = segmenter.segment(image, boxes=[BOXES], points=[BESIDE])
    each = [segmenter.segment(image, boxes=[box[None]], points=[BESIDE]) for box in BOXES]
    assert torch.equal(together, torch.maximum(*each))


def test_prompts_decide(segmenter):
    images = pictures(1)
    point, other = (segmenter.segment(images, points=[p]) for p in (BESIDE, BESIDE + torch.tensor([15, 9, 0])))
    assert not torch.equal(point, other)
    assert not segmenter.segment(images, points=[BESIDE[:0]]).any() and not segmenter.segment(images).any()


def test_wrong_prompts_are_named(segmenter):
    images = pictures()
    bad = {
        r"boxes: 1 for 2 pictures": dict(boxes=[BOXES]),
        r"boxes: a picture's are a tensor \(N, 4\), not \(4,\)": alike(images, boxes=BOXES[0]),
        r"points: a picture's are a tensor \(N, 3\), not \(2, 4\)": alike(images, points=BOXES),
        r"points: all of a picture's are beside the object": alike(images, points=BESIDE[1:]),
    }
    for message, where in bad.items():
        with pytest.raises(ValueError, match=message):
            segmenter.segment(images, **where)


def test_a_single_point_alone_is_ambiguous():
    asked = {name: prompts.prompt(p.get("boxes"), p.get("points")).ambiguous for name, p in PROMPTS.items()}
    assert asked == {"box": False, "one point": True, "points": False, "box and points": False}


# --- texts


def test_sam3s_masks_are_the_librarys(folder):
    from transformers import Sam3Model, Sam3Processor

    images = pictures(5)  # more than one batch
    processor, model = Sam3Processor.from_pretrained(folder / "sam3"), Sam3Model.from_pretrained(folder / "sam3")
    theirs = []
    for image in images:
        inputs = processor(images=array(image), text="a red cat", return_tensors="pt")
        with torch.no_grad():
            out = model.eval()(**inputs)
        (found,) = processor.post_process_instance_segmentation(out, threshold=0.1, target_sizes=[image.shape[1:]])
        theirs.append(found["masks"].amax(0, keepdim=True))
    masks = Sam3(folder / "sam3", threshold=0.1).segment(images, "a red cat")
    assert masks.shape == (5, 1, 40, 60) and masks.dtype == torch.float32 and 0.05 < masks.mean() < 0.95
    assert (masks != torch.stack(theirs)).float().mean() < 1e-3


def test_grounding_dinos_boxes_are_the_librarys(folder, dino):
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    images = pictures(5)
    processor = GroundingDinoProcessor.from_pretrained(folder / "dino")
    model = GroundingDinoForObjectDetection.from_pretrained(folder / "dino").eval()
    for image, boxes in zip(images, dino.boxes(images, "A cat"), strict=True):
        inputs = processor(images=array(image), text="a cat.", return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs)
        (found,) = processor.post_process_grounded_object_detection(
            out, inputs.input_ids, threshold=0.3, target_sizes=[(40, 60)]
        )
        torch.testing.assert_close(boxes, found["boxes"], rtol=0, atol=1e-3)
        assert 0 < len(boxes) < 8 and boxes.max() > 10  # pixels


def test_texts_are_sentences_to_grounding_dino(dino):
    assert [sentence(text) for text in ("a Cat", " a cat. ", "a cat. a dog.")] == ["a cat."] * 2 + ["a cat. a dog."]
    images = pictures(3)
    same, again, other = (dino.boxes(images, text) for text in ("A cat", "a cat.", "red"))
    assert all(map(torch.equal, same, again)) and [len(x) for x in same] != [len(x) for x in other]


@pytest.mark.parametrize("name", ["threshold", "box_threshold"])
def test_the_threshold_has_its_name_in_every_version(dino, name, monkeypatch):
    monkeypatch.setattr(dino, "threshold", 0.1)
    many = dino.boxes(pictures(), "a cat")
    monkeypatch.setattr(dino, "threshold", 0.77)
    read, asked = dino.processor.post_process_grounded_object_detection, []

    def renamed(outputs, input_ids=None, threshold=0.25, text_threshold=0.25, target_sizes=None):
        asked.append(threshold)
        return read(outputs, input_ids, threshold=threshold, target_sizes=target_sizes)

    def former(outputs, input_ids, box_threshold=0.25, text_threshold=0.25, target_sizes=None):
        return renamed(outputs, input_ids, box_threshold, text_threshold, target_sizes)

    method = {"threshold": renamed, "box_threshold": former}[name]
    monkeypatch.setattr(dino.processor, "post_process_grounded_object_detection", method)
    few = dino.boxes(pictures(), "a cat")
    assert asked == [0.77] and 0 < sum(map(len, few)) < sum(map(len, many))


def test_grounded_sam_is_the_boxes_masks(folder, dino):
    images, sam1 = pictures(), Sam(folder / "sam.pth")
    masks = GroundedSegmenter(dino, sam1).segment(images, "a cat")
    assert torch.equal(masks, sam1.segment(images, boxes=dino.boxes(images, "a cat"))) and masks.mean() > 0.1


def test_what_is_not_found_is_an_empty_mask(folder):
    images = pictures()
    dino = GroundingDino(folder / "dino", threshold=1.0)
    assert [boxes.shape for boxes in dino.boxes(images, "a cat")] == [(0, 4)] * 2
    for segmenter in (GroundedSegmenter(dino, Sam(folder / "sam.pth")), Sam3(folder / "sam3", threshold=1.0)):
        masks = segmenter.segment(images, "a cat")
        assert masks.shape == (2, 1, 40, 60) and not masks.any()


def test_texts_without_words_are_refused(folder, dino):
    for text in ("", " . "):
        with pytest.raises(ValueError, match="text: empty; name what to look for"):
            dino.boxes(pictures(), text)
    sam3 = Sam3(folder / "sam3")
    for text in (" ", "a cat " * 40):
        with pytest.raises(ValueError, match=r"text: .* is empty or too long"):
            sam3.segment(pictures(), text)
    assert "model" not in vars(sam3)


def test_the_embedded_segmenter_takes_any_text():
    images = torch.stack([p.image for p in world.photos(world.held_out_subjects(1, "cat")[0], 2, 0)])
    segmenter = judges.segments()
    masks = segmenter.segment(images, "anything at all")
    assert torch.equal(masks, segmenter(images)) and 0.02 < masks.mean() < 0.9


# --- loading, of all

KINDS = {"sam2": Sam2, "sam3": Sam3, "dino": GroundingDino}


def used(model, images, text="a cat"):
    """Whatever the model gives for pictures."""
    if isinstance(model, Sam3):
        return model.segment(images, text)
    if isinstance(model, GroundingDino):
        return torch.cat(model.boxes(images, text))
    return model.segment(images, boxes=[BOXES] * len(images))


def test_published_video_models_are_opened(folder, tmp_path):
    save_video_kinds(folder / "sam2", folder / "sam3", tmp_path)
    for name, extra in (("sam2", {}), ("sam3", {"threshold": 0.1})):
        a, b = (used(KINDS[name](where / name, **extra), pictures()) for where in (folder, tmp_path))
        assert torch.equal(a, b) and a.any()
        assert json.loads((tmp_path / name / "config.json").read_text())["model_type"] == f"{name}_video"


@pytest.mark.parametrize("name", KINDS)
def test_a_model_of_another_kind_is_refused(folder, name):
    other = {"sam2": "sam3", "sam3": "dino", "dino": "sam2"}[name]
    kind = {"sam3": "sam3", "dino": "grounding-dino", "sam2": "sam2"}[other]
    with pytest.raises(ValueError, match=f"{other} is a {kind} model, but a {KINDS[name].what} is needed here"):
        used(KINDS[name](folder / other), pictures())


@pytest.mark.parametrize("name", KINDS)
def test_a_model_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no {KINDS[name].what} model at .*missing; give a folder"):
        KINDS[name](tmp_path / "missing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": KINDS[name].kinds[0]}))
    with pytest.raises(FileNotFoundError, match=f"the {KINDS[name].what} model '.*' can't be loaded"):
        _ = KINDS[name](tmp_path).model


def test_what_is_too_old_or_missing_is_named(folder, monkeypatch):
    import transformers

    with monkeypatch.context() as m:
        m.setattr(Sam3, "model_class", "Sam3ModelOfTheFuture")
        with pytest.raises(ValueError, match=f"SAM 3 needs a newer transformers than {transformers.__version__}"):
            used(Sam3(folder / "sam3"), pictures())
    for package, model in (("torchvision", Sam2(folder / "sam2")), ("segment_anything", Sam(folder / "sam.pth"))):
        with monkeypatch.context() as m, pytest.raises(ModuleNotFoundError) as caught:
            m.setitem(sys.modules, package, None)
            used(model, pictures())
        assert caught.value.name == package


@pytest.mark.parametrize("name", ["sam.pth", *KINDS])
def test_loaded_when_used_frozen_and_handed_back(folder, name):
    model = Sam(folder / name) if name == "sam.pth" else KINDS[name](folder / name)
    assert "model" not in vars(model)
    before = used(model, pictures())
    assert not model.model.training and not any(p.requires_grad for p in model.model.parameters())
    weights = weakref.ref(next(model.model.parameters()))
    model.release()
    assert weights() is None
    assert torch.equal(used(model, pictures()), before)
    model.release()
    model.release()


@pytest.mark.parametrize("name", ["sam.pth", *KINDS])
def test_precision_is_the_one_asked_for(folder, name):
    make = Sam if name == "sam.pth" else KINDS[name]
    half, full = make(folder / name, dtype=torch.bfloat16), make(folder / name)
    part = half.model.image_encoder if name == "sam.pth" else half.model
    assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    a, b = used(half, pictures()), used(full, pictures())
    assert a.dtype == b.dtype == torch.float32
    if name != "dino":  # which boxes are above the threshold may change
        assert (a != b).float().mean() < 0.15


def test_pictures_become_8_bits_by_rounding():
    values = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.2])
    images = values[:, None, None, None].expand(-1, 3, 2, 2)
    assert [picture.unique().tolist() for picture in bytes_of(images)] == [[0], [0], [1], [255], [255]]


@pytest.mark.parametrize("name", ["sam.pth", *KINDS])
def test_what_is_no_picture_is_refused(folder, name):
    model = Sam(folder / name) if name == "sam.pth" else KINDS[name](folder / name)
    with pytest.raises(ValueError, match=r"floats \(B, 3, H, W\)"):
        used(model, torch.zeros(1, 4, 8, 8))
