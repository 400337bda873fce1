"""The nodes that segment and caption, on small random models in ComfyUI's folders; against the core's own classes."""

import gc
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import server
import torch
from inprocess import load_nodes, run_prompt
from likeness_in_comfyui.core.demo import judges
from likeness_in_comfyui.core.vision.blip2 import Blip2
from likeness_in_comfyui.core.vision.grounding import GroundedSegmenter, GroundingDino
from likeness_in_comfyui.core.vision.sam import Sam
from likeness_in_comfyui.core.vision.sam2 import Sam2
from likeness_in_comfyui.core.vision.sam3 import Sam3
from likeness_in_comfyui.nodes import vision, vision_model
from likeness_in_comfyui.nodes.segmentation import Caption, SegmentSubject

COUNT = 2
BOX, POINTS, BESIDE = "10, 20, 90, 100; 30 30 120 128", "40, 50", "100, 20"
LOADED = ("Sam", "Sam2Model", "Sam3Model", "GroundingDinoForObjectDetection", "Blip2ForConditionalGeneration")


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def subject():
    widgets = dict(identity=0, background="any", style="photo", view="front", size=128)
    return node("LikenessDemoSubject", kind="cat", count=COUNT, seed=0, **widgets)


def segmented(segmenter, detector="dino", text="a cat", **widgets):
    """Pictures, mask and overlay of a whole graph."""
    inputs = dict(image=["1", 0], text=text, segmenter=segmenter, detector=detector, threshold=0.1, **widgets)
    graph = {"1": subject(), "s": node("LikenessSegmentSubject", **inputs)}
    return run_prompt(graph, keep={"images": ["1", 0], "mask": ["s", 0], "overlay": ["s", 1]})


def put(models):
    """The models where a user puts them, beside files that are none."""
    sams, folders = (Path(folder_paths.models_dir) / name for name in ("sams", "vision"))
    sams.mkdir(parents=True)
    shutil.copy(Path(models) / "sam.pth", sams)
    (sams / "mobile_sam.onnx").touch()
    for name in ("sam2", "sam3", "dino"):
        shutil.copytree(Path(models) / name, folders / name)
    shutil.copytree(Path(models) / "blip2", folders / "Salesforce" / "blip2")
    for name, text in (("other", '{"model_type": "vit"}'), ("broken", "{"), ("list", "[1]")):
        (folders / name).mkdir()
        (folders / name / "config.json").write_text(text)
    return sams, folders


def expected(images, folders, sams):
    """The same by the core's classes, without ComfyUI."""
    images = images.movedim(-1, 1)
    sam, sam2 = Sam(sams / "sam.pth"), Sam2(folders / "sam2")
    dino = GroundingDino(folders / "dino", threshold=0.1)
    boxes = [torch.tensor([[10.0, 20, 90, 100], [30, 30, 120, 128]])] * COUNT
    points = [torch.tensor([[40.0, 50, 1], [100, 20, 0]])] * COUNT
    masks = {
        "demo": judges.segments()(images),
        "text sam": GroundedSegmenter(dino, sam).segment(images, "a cat"),
        "text sam2": GroundedSegmenter(dino, sam2).segment(images, "a cat"),
        "text sam3": Sam3(folders / "sam3", threshold=0.1).segment(images, "a cat"),
        "box sam": sam.segment(images, boxes=boxes),
        "points sam2": sam2.segment(images, points=points),
        "all sam2": sam2.segment(images, boxes=boxes, points=points),
    }
    return {f"expected {name}": mask[:, 0] for name, mask in masks.items()}


class Watch:
    """What the nodes ask of ComfyUI's memory management, and of the models that they open."""

    def __init__(self):
        self.seen, self.within = [], 0  # what ComfyUI asks of itself is no matter of ours
        for name in ("free_memory", "soft_empty_cache"):
            self._wrap(comfy.model_management, name)
        for kind, make in vision_model.CLASSES.items():
            vision_model.CLASSES[kind] = self._opened(kind, make)

    def _wrap(self, module, name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            if not self.within:
                self.seen.append([name, *map(str, args)])
            self.within += 1
            try:
                return original(*args, **kwargs)
            finally:
                self.within -= 1

        setattr(module, name, call)

    def _opened(self, kind, make):
        def call(name, **settings):
            self.seen.append([kind, {key: str(value) for key, value in settings.items()}])
            return make(name, **settings)

        return call

    def __call__(self, do):
        """What was asked while `do` ran."""
        self.seen.clear()
        do()
        return list(self.seen)


def loaded():
    """Names of the models that are in memory."""
    gc.collect()
    return [type(x).__name__ for x in gc.get_objects() if type(x).__name__ in LOADED and isinstance(x, torch.nn.Module)]


def cancelled(images):
    """Pictures done when the node stopped, cancelled after the first one, and what it left in memory."""
    import comfy.utils

    done = []

    def interrupt(value, *_, **__):
        done.append(value)
        comfy.model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt)
    try:
        SegmentSubject.execute(images, "", "sam2", "dino", box=BOX)
    except comfy.model_management.InterruptProcessingException:
        return done, loaded()
    finally:
        comfy.utils.set_progress_bar_global_hook(None)


def message(do, **inputs):
    try:
        return str(do(**inputs))
    except (ValueError, FileNotFoundError) as e:
        return str(e)


def main(pack, models):
    load_nodes()
    sams, folders = put(models)
    result = {}
    for name, classes in (("segmenter", SegmentSubject), ("detector", SegmentSubject), ("captioner", Caption)):
        inputs = {each.id: each for each in classes.define_schema().inputs}
        result[f"{name}s"] = list(inputs[name].options)
    result["sams"] = [folder_paths.get_folder_paths("sams"), sorted(folder_paths.folder_names_and_paths["sams"][1])]

    # --- whole graphs
    demo = segmented("demo (built in)")
    images = demo["images"]
    prompts = {"box": BOX, "points": "", "negative_points": ""}
    runs = {
        "text sam": segmented("sam.pth"),
        "text sam2": segmented("sam2"),
        "text sam3": segmented("sam3"),
        "box sam": segmented("sam.pth", text="", **prompts),
        "points sam2": segmented("sam2", box="", points=POINTS, negative_points=BESIDE),
        "all sam2": segmented("sam2", box=BOX, points=POINTS, negative_points=BESIDE),
    }
    result.update({name: run["mask"] for name, run in {"demo": demo, **runs}.items()})
    result.update(expected(images, folders, sams))
    result["images"], result["overlay"] = images, demo["overlay"]
    graph = {"1": subject(), "c": node("LikenessCaption", image=["1", 0], captioner="Salesforce/blip2", length=5)}
    result["captions"] = run_prompt(graph, keep={"text": ["c", 0]})["text"]
    result["expected captions"] = Blip2(folders / "Salesforce" / "blip2", length=5).caption(images.movedim(-1, 1))

    # --- without a graph
    def segment(image=images, text="a cat", segmenter="sam.pth", detector="dino", **widgets):
        return SegmentSubject.execute(image, text, segmenter, detector, **widgets).args

    shown = []
    server.PromptServer.instance.send_progress_text = lambda text, node_id: shown.append([text, node_id])
    Caption.hidden = SimpleNamespace(unique_id="c")
    with_alpha = torch.cat([images, torch.rand(*images.shape[:-1], 1)], -1)
    result["alpha"] = torch.equal(segment(with_alpha, box=BOX)[0], segment(box=BOX)[0])
    watch = Watch()
    result["asked"] = watch(lambda: segment(threshold=0.2))
    result["asked of captions"] = watch(lambda: Caption.execute(images, "Salesforce/blip2", 5))
    result["asked of nothing found"] = watch(lambda: message(segment, threshold=1.0))
    result["shown"] = shown
    result["sizes"] = [vision.find("x", name).size for name in ("sam.pth", "dino")]
    result["unknown size"] = vision.find("x", "Salesforce/blip2-opt-2.7b (download)").size
    result["room for a download"] = watch(lambda: _borrow("facebook/sam2.1-hiera-small (download)"))[0]
    result["loaded"] = loaded()
    result["cancelled"] = cancelled(images)
    result["messages"] = messages(segment, images)
    return result


def _borrow(name):
    with vision_model.borrowed(vision.find("segmenter", name)):
        pass


def messages(segment, images):
    bad = {
        "found": dict(threshold=1.0),
        "found sam3": dict(segmenter="sam3", text="a red duck", threshold=1.0, image=images[:1]),
        "empty": dict(text=" "),
        "empty sam3": dict(text=" ", segmenter="sam3"),
        "no images": dict(image=images[:0]),
        "demo box": dict(segmenter="demo (built in)", box=BOX),
        "sam3 points": dict(segmenter="sam3", points=POINTS),
        "gone": dict(segmenter="gone.pth"),
        "gone detector": dict(detector="gone"),
        "words": dict(box="left, top, 3, 4"),
        "three": dict(box="1, 2, 3"),
        "points": dict(points="1, 2, 3"),
        "order": dict(box="90, 10, 20, 50"),
        "outside": dict(box="10, 10, 500, 90"),
        "negative": dict(negative_points=BESIDE),
        "nan": dict(points="nan, 3"),
    }
    said = {name: message(segment, **inputs) for name, inputs in bad.items()}
    return {**said, "file": _damaged(segment), "demo": _nothing_found(segment)}


def _nothing_found(segment):
    """As if the embedded segmenter had seen the first subject only."""
    half = torch.cat([torch.ones(1, 1, 128, 128), torch.zeros(COUNT - 1, 1, 128, 128)])
    judges.segments = lambda: SimpleNamespace(segment=lambda images: half)
    return message(segment, segmenter="demo (built in)")


def _damaged(segment):
    (Path(folder_paths.models_dir) / "sams" / "damaged.pth").write_bytes(b"PK")
    folder_paths.filename_list_cache.clear()
    return message(segment, segmenter="damaged.pth", box=BOX) + json.dumps(loaded())
