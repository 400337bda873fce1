"""Workflows in API format, as functions: tests queue them, browser/build_workflow.py makes workflow files of them."""


def node(class_type, title=None, **inputs):
    """One entry of an API-format workflow; a link is [node id, output index]."""
    return {"class_type": class_type, "inputs": inputs, **({"_meta": {"title": title}} if title else {})}


def hello(seed=1, steps=30, prompt="a photo of a red cat on the beach", batch=4):
    """Text to pictures with the embedded model: nothing to download."""
    return {
        "1": node("LikenessLoadDemoModel"),
        "2": node("CLIPTextEncode", "Prompt", clip=["1", 1], text=prompt),
        "3": node("CLIPTextEncode", "Negative prompt", clip=["1", 1], text=""),
        "4": node("EmptyLatentImage", width=128, height=128, batch_size=batch),
        "5": sampler(seed, steps),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="likeness"),
    }


def sampler(seed, steps):
    """The KSampler of `hello`."""
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    return node(
        "KSampler", **links, seed=seed, steps=steps, cfg=5.0, sampler_name="euler", scheduler="normal", denoise=1.0
    )


def demo_subject(kind="cat", count=2, **widgets):
    """The demo world's pictures of one subject (node 2), and its masks (node 4)."""
    defaults = {"identity": 0, "seed": 0, "background": "any", "style": "photo", "view": "front", "size": 128}
    return {
        "1": node("LikenessDemoSubject", kind=kind, count=count, **{**defaults, **widgets}),
        "2": node("PreviewImage", images=["1", 0]),
        "3": node("MaskToImage", mask=["1", 1]),
        "4": node("PreviewImage", images=["3", 0]),
    }


# file name in workflows/ -> the graph that it is built from
WORKFLOWS = {"hello-likeness": hello}
