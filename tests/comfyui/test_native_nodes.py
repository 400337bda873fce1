"""ComfyUI's own nodes on the embedded model: it must behave like any checkpoint."""

import pytest
from PIL import ImageChops, ImageStat

from .graphs import hello, node


def complete(server, graph):
    """Fill the widgets that a graph leaves out with the server's own defaults: one graph serves every version."""
    for entry in graph.values():
        for name, declared in server.object_info(entry["class_type"])["input"].get("required", {}).items():
            kind, options = declared[0], declared[1] if len(declared) > 1 else {}
            choices = kind if isinstance(kind, list) else options.get("options")
            default = options.get("default", choices[0] if choices else None)
            if name not in entry["inputs"] and default is not None:
                entry["inputs"][name] = default
    return graph


def pictures(server, graph, timeout=240):
    images = server.images(server.run(complete(server, graph), timeout))
    assert images and all(max(ImageStat.Stat(image).stddev) > 5 for image in images)
    return images


def output(server, class_type, kind):
    return server.object_info(class_type)["output"].index(kind)


def short(**more):
    return {**hello(steps=4, batch=1), **more}


PATCHES = {
    "FreeU_V2": {},
    "PerturbedAttentionGuidance": {},
    "SelfAttentionGuidance": {},
    "RescaleCFG": {},
    "HyperTile": {},
    "PatchModelAddDownscale": {},
    "TomePatchModel": {},
}


@pytest.mark.parametrize("patch", PATCHES)
def test_model_patches(server, patch):
    graph = short(p=node(patch, model=["1", 0], **PATCHES[patch]))
    graph["5"]["inputs"]["model"] = ["p", 0]
    pictures(server, graph)


@pytest.mark.parametrize(
    "sampler, scheduler",
    [("euler_ancestral", "karras"), ("dpmpp_2m", "exponential"), ("dpmpp_sde", "sgm_uniform"), ("uni_pc", "beta")],
)
def test_samplers(server, sampler, scheduler):
    graph = short()
    graph["5"]["inputs"].update(sampler_name=sampler, scheduler=scheduler)
    pictures(server, graph)


def test_high_resolution_second_pass_and_clip_skip(server):
    graph = short(
        s=node("CLIPSetLastLayer", clip=["1", 1], stop_at_clip_layer=-2),
        u=node("LatentUpscaleBy", samples=["5", 0], scale_by=2.0),
    )
    graph["2"]["inputs"]["clip"] = ["s", 0]
    graph["8"] = node("KSampler", **{**graph["5"]["inputs"], "latent_image": ["u", 0], "denoise": 0.5})
    graph["6"]["inputs"]["samples"] = ["8", 0]
    assert pictures(server, graph)[0].size == (256, 256)


def test_subject_through_the_autoencoder_and_inpainting(server):
    graph = short(
        d=node("LikenessDemoSubject", kind="cat", count=1),
        e=node("VAEEncode", pixels=["d", 0], vae=["1", 2]),
        m=node("SetLatentNoiseMask", samples=["e", 0], mask=["d", 1]),
    )
    graph["5"]["inputs"].update(latent_image=["m", 0], denoise=0.8)
    pictures(server, graph)


def test_the_depth_controlnet_that_comes_with_the_pack(server):
    graph = short(
        d=node("LikenessDemoSubject", kind="cat", count=1),
        c=node("ControlNetLoader", control_net_name="depth.safetensors"),
        a=node("ControlNetApplyAdvanced", positive=["2", 0], negative=["3", 0], control_net=["c", 0], image=["d", 5]),
    )
    plain = pictures(server, graph)[0]
    graph["5"]["inputs"].update(positive=["a", 0], negative=["a", 1])
    shown = pictures(server, graph)[0]
    assert max(ImageStat.Stat(ImageChops.difference(plain, shown)).mean) > 2


def test_custom_sampling_nodes(server):
    graph = short(
        n=node("RandomNoise", noise_seed=3),
        g=node("CFGGuider", model=["1", 0], positive=["2", 0], negative=["3", 0]),
        k=node("KSamplerSelect", sampler_name="euler"),
        b=node("BasicScheduler", model=["1", 0], steps=4),
    )
    links = dict(noise=["n", 0], guider=["g", 0], sampler=["k", 0], sigmas=["b", 0], latent_image=["4", 0])
    graph["5"] = node("SamplerCustomAdvanced", **links)
    pictures(server, graph)


def test_two_prompts_in_two_regions(server):
    graph = short(
        a=node("ConditioningSetArea", conditioning=["2", 0], width=64, height=128, x=0, y=0),
        q=node("CLIPTextEncode", clip=["1", 1], text="a blue dog " * 40),
        c=node("ConditioningCombine", conditioning_1=["a", 0], conditioning_2=["q", 0]),
    )
    graph["5"]["inputs"]["positive"] = ["c", 0]
    pictures(server, graph)


def test_comfyuis_own_lora_trainer(server):
    graph = short(
        d=node("LikenessDemoSubject", kind="cat", count=2),
        e=node("VAEEncode", pixels=["d", 0], vae=["1", 2]),
        t=node("TrainLoraNode", model=["1", 0], latents=["e", 0], positive=["2", 0], steps=2, rank=2),
    )
    graph["t"]["inputs"].update(training_dtype="fp32", lora_dtype="fp32")
    lora = ["t", output(server, "TrainLoraNode", "LORA_MODEL")]
    graph["l"] = node("LoraModelLoader", model=["1", 0], lora=lora)
    graph["5"]["inputs"]["model"] = ["l", 0]
    pictures(server, graph)
