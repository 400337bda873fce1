"""Subgraph blueprints that come with the pack: whole methods as one node, in API format; browser/build_blueprint.py
makes files of them.

A blueprint's file name is the name that ComfyUI's node library shows.
"""

from dataclasses import dataclass

from .graphs import node
from .hifi_graphs import WORD, align, pass_, pick, reference, segment


@dataclass(frozen=True)
class Blueprint:
    """A graph whose open ends become one node.

    Args:
        about: what the node library says.
        graph: the inner nodes in API format; what `sockets` feed is open in it.
        sockets: outer input -> its type and the inner inputs (node id, name) that it feeds.
        widgets: outer widget -> the inner widgets that it sets; all have the same value in `graph`.
        outputs: outer output -> node id and output index.
    """

    about: str
    graph: dict
    sockets: dict
    widgets: dict
    outputs: dict


def led():
    """HiFi Tuner's generation: a learned subject, drawn, and drawn again led by the most similar photo of it."""
    photo = f"a photo of a {WORD}"
    graph = {
        "1": node("LikenessApplyHiFi", prompt=f"{photo} on the beach", strength=1.0),
        "2": node("CLIPTextEncode", "Negative prompt", text=""),
        "3": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "6": node("RandomNoise", noise_seed=9),
        "7": node("CFGGuider", model=["1", 0], positive=["1", 1], negative=["2", 0], cfg=5.0),
        "8": node("BasicScheduler", model=["1", 0], scheduler="ddim_uniform", steps=50, denoise=1.0),
        "9": node("KSamplerSelect", sampler_name="euler"),
        "10": pass_("First pass", ["9", 0]),
        "11": node("VAEDecode", samples=["10", 0]),
        "13": segment(["11", 0], WORD),
        "14": pick(["11", 0], None, None, ["13", 0]),
        "15": align(["14", 0], ["14", 1], ["13", 0], ["11", 0]),
        "17": node("CLIPTextEncode", "What the photo shows", text=photo),
        "18": node("VAEEncode", pixels=["15", 0]),
        "19": node("LikenessInvert", positive=["17", 0], latent=["18", 0], sigmas=["8", 0]),
        "20": reference(["19", 0], ["15", 1]),
        "21": pass_("Second pass", ["20", 0]),
        "22": node("VAEDecode", samples=["21", 0]),
    }
    return Blueprint(
        about="Draws a subject that HiFi Tuner has learned, and draws it again led by the photo that is most like it.",
        graph=graph,
        sockets={
            "model": ("MODEL", [("1", "model"), ("19", "model")]),
            "clip": ("CLIP", [("1", "clip"), ("2", "clip"), ("17", "clip")]),
            "vae": ("VAE", [("11", "vae"), ("18", "vae"), ("22", "vae")]),
            "subject": ("LIKENESS_SUBJECT", [("1", "subject")]),
            "photos": ("IMAGE", [("14", "sources")]),
            "photo masks": ("MASK", [("14", "source_masks")]),
        },
        widgets={
            "prompt": [("1", "prompt")],
            "negative prompt": [("2", "text")],
            "what the photos show": [("17", "text")],
            "seed": [("6", "noise_seed")],
            "width": [("3", "width")],
            "height": [("3", "height")],
            "steps": [("8", "steps")],
            "cfg": [("7", "cfg")],
            "subject strength": [("1", "strength")],
            "guidance steps": [("20", "steps")],
            "find": [("13", "text")],
            "segmenter": [("13", "segmenter")],
            "embedder": [("14", "embedder")],
        },
        outputs={"image": ("22", 0), "without the photo": ("11", 0), "overlap": ("15", 2)},
    )


def replaced():
    """HiFi Tuner's subject replacement: invert the photo, find its null texts, draw it with another subject."""
    graph = {
        "1": node("VAEEncode"),
        "2": node("CLIPTextEncode", "What the photo shows", text="a photo of a car on the beach"),
        "3": node("CLIPTextEncode", "Negative prompt", text=""),
        "4": node("BasicScheduler", scheduler="ddim_uniform", steps=50, denoise=1.0),
        "5": node("LikenessInvert", positive=["2", 0], latent=["1", 0], sigmas=["4", 0]),
        "6": node(
            "LikenessNullText",
            positive=["2", 0],
            negative=["3", 0],
            trajectory=["5", 0],
            guidance=5.0,
            steps=10,
            learning_rate=0.01,
        ),
        "7": node("VAEDecode", "The photo again", samples=["6", 1]),
        "8": node(
            "LikenessReplaceSubject",
            trajectory=["6", 0],
            caption="a photo of a car on the beach",
            old_word="car",
            new_word="house",
            renormalise=False,
        ),
        "9": node("VAEDecode", samples=["8", 0]),
    }
    return Blueprint(
        about="Puts another subject in the place of a photo's: a learned one, or without it what the model knows.",
        graph=graph,
        sockets={
            "model": ("MODEL", [("4", "model"), ("5", "model"), ("6", "model"), ("8", "model")]),
            "clip": ("CLIP", [("2", "clip"), ("3", "clip"), ("8", "clip")]),
            "vae": ("VAE", [("1", "vae"), ("7", "vae"), ("9", "vae")]),
            "photo": ("IMAGE", [("1", "pixels")]),
            "subject (optional)": ("LIKENESS_SUBJECT", [("8", "subject")]),
        },
        widgets={
            "what the photo shows": [("2", "text"), ("8", "caption")],
            "old word": [("8", "old_word")],
            "new word": [("8", "new_word")],
            "steps": [("4", "steps")],
            "guidance": [("6", "guidance")],
            "null text steps": [("6", "steps")],
        },
        outputs={"image": ("9", 0), "the photo again": ("7", 0)},
    )


def placed():
    """Toffee's editing: a subject that nothing was trained for, drawn under a mask in a photo; the rest stays."""
    graph = {
        "1": node("CLIPTextEncode", "Prompt", text="a photo of a cat in the snow"),
        "2": node("CLIPTextEncode", "Negative prompt", text=""),
        "3": node("LikenessEncodeDINO", "The subject", dino="demo (built in)"),
        "4": node("LikenessApplyDINO", dino=["3", 0], strength=1.0, start_percent=0.0, end_percent=1.0),
        "5": node("GrowMask", expand=6, tapered_corners=True),
        "6": node("LikenessToffeeInputs", positive=["10", 0], negative=["10", 1], mask=["5", 0], noise_mask=True),
        "7": node(
            "KSampler",
            model=["4", 0],
            positive=["6", 0],
            negative=["6", 1],
            latent_image=["6", 2],
            seed=9,
            steps=30,
            cfg=3.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "8": node("VAEDecode", samples=["7", 0]),
        "9": node("ImageCompositeMasked", source=["8", 0], mask=["5", 0], x=0, y=0, resize_source=False),
        "10": node(
            "ControlNetApplyAdvanced",
            "Depth",
            positive=["1", 0],
            negative=["2", 0],
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        ),
    }
    return Blueprint(
        about="Draws a subject under a mask in a photo, from one picture of it and without training.",
        graph=graph,
        sockets={
            "model": ("MODEL", [("4", "model")]),
            "clip": ("CLIP", [("1", "clip"), ("2", "clip")]),
            "vae": ("VAE", [("6", "vae"), ("8", "vae")]),
            "adapter": ("LIKENESS_DINO_ADAPTER", [("4", "adapter")]),
            "subject": ("IMAGE", [("3", "image")]),
            "photo": ("IMAGE", [("6", "pixels"), ("9", "destination")]),
            "photo mask": ("MASK", [("5", "mask")]),
            "depth ControlNet": ("CONTROL_NET", [("10", "control_net")]),
            "depth": ("IMAGE", [("10", "image")]),
            "subject mask (optional)": ("MASK", [("3", "mask")]),
        },
        widgets={
            "prompt": [("1", "text")],
            "negative prompt": [("2", "text")],
            "seed": [("7", "seed")],
            "steps": [("7", "steps")],
            "cfg": [("7", "cfg")],
            "subject strength": [("4", "strength")],
            "depth strength": [("10", "strength")],
            "grow mask": [("5", "expand")],
            "dino": [("3", "dino")],
        },
        outputs={"image": ("9", 0), "what the DINO saw": ("3", 1)},
    )


BLUEPRINTS = {
    "Draw Subject Led by a Photo (HiFi Tuner)": led,
    "Replace Subject in a Photo (HiFi Tuner)": replaced,
    "Put Subject into a Photo (Toffee)": placed,
}
CATEGORY = "likeness"
