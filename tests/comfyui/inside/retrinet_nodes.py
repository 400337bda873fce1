"""RetriNet's nodes in one process: references, loading, applying, maps, saving, the cache, messages."""

import asyncio
import uuid

import execution
import torch
from inprocess import new_executor, run_prompt
from likeness_in_comfyui.core.demo import world
from likeness_in_comfyui.core.reach import Reach
from likeness_in_comfyui.core.retrinet import network as networks
from likeness_in_comfyui.core.retrinet.reference import Reference, box_mask
from likeness_in_comfyui.nodes import learned, references, retrinet_model

PROMPT, SIZE = "a photo of a woman on the beach", 64


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def graph(file="whole.safetensors", **widgets):
    """The face of some pictures and the clothes of others into a model."""
    person = dict(kind="person", count=1, seed=0, background="any", style="photo", view="front", size=128)
    settings = dict(strength=1.0, start_percent=0.0, end_percent=1.0, levels="all", mode="each step")
    return {
        "1": node("LikenessLoadDemoModel"),
        "2": node("LikenessDemoSubject", identity=0, **person),
        "3": node("LikenessDemoSubject", identity=1, **person),
        "4": node("LikenessReference", image=["2", 0], mask=["2", 3], concept="face", other=""),
        "5": node("LikenessReference", image=["3", 0], mask=["3", 4], concept="clothes", other="", references=["4", 0]),
        "6": node("LikenessLoadRetriNet", file=file),
        "7": node(
            "LikenessApplyRetriNet",
            model=["1", 0],
            clip=["1", 1],
            vae=["1", 2],
            retrinet=["6", 0],
            references=["5", 0],
            **{**settings, **widgets},
        ),
    }


def short(e):
    """What the user reads: ComfyUI's report holds the traceback too."""
    return next((part[:300] for part in str(e).split("'exception_message': ")[1:]), str(e)[:300])


def said(work):
    try:
        work()
    except (ValueError, FileNotFoundError, RuntimeError) as e:
        return short(e)


def queue(executor, prompt):
    """Ids of the nodes that were taken from the cache."""
    prompt_id = str(uuid.uuid4())
    _, _, outputs, _ = asyncio.run(execution.validate_prompt(prompt_id, prompt, None))
    executor.execute(prompt, prompt_id, {}, outputs)
    assert executor.success, executor.status_messages[-1]
    return sorted(n for kind, data in executor.status_messages if kind == "execution_cached" for n in data["nodes"])


def nodes_and_files(bench, folder):
    result = {}
    # --- the cache: what did not change is not run again
    executor = new_executor()
    drawn = {
        "8": node("CLIPTextEncode", clip=["1", 1], text=PROMPT),
        "9": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1),
        "10": node(
            "KSampler",
            model=["7", 0],
            positive=["8", 0],
            negative=["8", 0],
            latent_image=["9", 0],
            seed=1,
            steps=2,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "11": node("InsideKeep", name="latent", value=["10", 0]),
    }
    first = queue(executor, {**graph(), **drawn})
    again = queue(executor, {**graph(), **drawn})
    weaker = queue(executor, {**graph(strength=0.5), **drawn})
    (folder / "whole.safetensors").touch()
    touched = queue(executor, {**graph(strength=0.5), **drawn})
    every = sorted({**graph(), **drawn})
    result["cache"] = [sorted(set(every) - set(cached)) for cached in (first, again, weaker, touched)]

    # --- what is seen
    seen = run_prompt(graph(), keep={"shown": ["5", 0], "cut": ["5", 1], "network": ["6", 0], "model": ["7", 0]})
    result["shown"] = [r.word for r in seen["shown"]], list(seen["cut"].shape), float(seen["cut"].std()) > 0.1
    shown = seen["shown"]
    whole = run_prompt(
        {"2": graph()["2"], "4": node("LikenessReference", image=["2", 0], concept="other", other=" hat ")},
        keep={"r": ["4", 0]},
    )["r"]
    result["without mask"] = whole[0].word, float(whole[0].mask.mean())
    result["face"] = face_with_hair()
    values = {name: graph()["7"]["inputs"][name] for name in ("model", "clip", "vae", "retrinet", "references")}
    maps = run_prompt(
        {
            **graph(),
            "9": drawn["9"],
            "10": node(
                "LikenessRetrievalMaps",
                **values,
                prompt=PROMPT,
                latent=["9", 0],
                seed=0,
                steps=4,
                guidance=5.0,
                shown=3,
            ),
        },
        keep={"maps": ["10", 0], "image": ["10", 1]},
    )
    result["maps"] = list(maps["maps"].shape), float(maps["maps"].std()), list(maps["image"].shape)

    # --- files
    saved = run_prompt(
        {**graph(), "8": node("LikenessSaveRetriNet", retrinet=["6", 0], name="sub/mine", thumbnail=["5", 1])},
        keep={"file": ["8", 0], "network": ["6", 0]},
    )
    result["saved"] = saved["file"], sorted(p.name for p in (folder / "sub").iterdir())
    loaded = run_prompt({"6": node("LikenessLoadRetriNet", file=saved["file"])}, keep={"n": ["6", 0]})["n"].model
    own = saved["network"].model.state_dict()
    result["loaded"] = max(float((p - own[k]).abs().max()) for k, p in loaded.state_dict().items())
    result["listed"] = learned.files_of(networks.KIND)
    return result, shown


def face_with_hair():
    """Pixels of Demo Subject's face beyond the bare face, off the figure, on clothes, and of the bare face not in it"""
    kept = run_prompt({"2": graph()["2"]}, keep={"figure": ["2", 1], "face": ["2", 3], "clothes": ["2", 4]})
    figure, face, clothes = (kept[name][0] > 0.5 for name in ("figure", "face", "clothes"))
    person = world.held_out_subjects(1, "person")[0]
    picture = world.photos(person, 1, 0, 128, style="photo", view="front", accessory=None)[0]
    bare = box_mask(picture.face_box, (128, 128))[0] > 0.5
    beyond, lost = face & ~bare, bare & figure & ~clothes & ~face
    return [int(each.sum()) for each in (beyond, face & ~figure, face & clothes, lost)]


def messages(bench, whole, shown, folder):
    def reference(mask=None, concept="face", other="", image=None):
        image = torch.rand(2, 64, 64, 3) if image is None else image
        return said(lambda: references.ShowReference.execute(image, concept, other, mask))

    def apply(network=whole, shown=shown, **settings):
        return said(lambda: bench.apply(network, shown, **settings))

    class Narrow:
        def tokenize(self, text):
            return text

        def encode_from_tokens_scheduled(self, tokens):
            return [[torch.zeros(1, 77, 768), {}]]

    class Deep:
        def encode(self, image):
            return torch.zeros(1, 16, 16, 16)

    other = networks.RetriNet(whole.config, whole.levels, base="sdxl")
    wider = networks.RetriNet(whole.config, {**whole.levels, "mid": [64, 4]}, base=whole.base)
    (folder / "broken.safetensors").write_bytes(b"nothing")
    managed = bench.managed[whole]
    empty = torch.zeros(1, 64, 64)
    found = {
        "empty mask": reference(empty),
        "no picture": reference(image=torch.zeros(0, 8, 8, 3)),
        "Load Image's mask": reference(torch.zeros(2, 32, 32)),
        "small mask": reference(torch.ones(1, 32, 32)),
        "three masks": reference(torch.ones(3, 64, 64)),
        "other": reference(concept="other"),
        "family": apply(other),
        "sizes": apply(wider),
        "none": apply(shown=()),
        "levels": apply(levels="skip.1, top"),
        "long": apply(shown=[*shown, Reference("a hat " * 60, shown[0].image, shown[0].mask)]),
        "clip": said(lambda: retrinet_model.apply(bench.model, Narrow(), bench.vae, managed, shown, Reach())),
        "vae": said(lambda: retrinet_model.apply(bench.model, bench.clip, Deep(), managed, shown, Reach())),
        "file": said(lambda: run_prompt({"6": node("LikenessLoadRetriNet", file="gone.safetensors")}, {"n": ["6", 0]})),
        "broken": said(
            lambda: run_prompt({"6": node("LikenessLoadRetriNet", file="broken.safetensors")}, {"n": ["6", 0]})
        ),
        "percent": said(lambda: run_prompt(graph(start_percent=0.6, end_percent=0.2), keep={"m": ["7", 0]})),
    }
    return found
