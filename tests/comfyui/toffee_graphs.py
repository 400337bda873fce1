"""Toffee's workflows in API format, as functions; see graphs.py."""

from .graphs import base, draws, node

FILES = {name: f"demo {name}.safetensors" for name in ("refiner", "view-generator", "toffeenet")}  # come with the pack
WORD, OTHER = "cat", "duck"  # refined; drawn by ToffeeNet
INPAINTING = "inpainting (nine channels)"


def photo(title, kind=WORD, identity=0, seed=0, background="any", view="front"):
    shown = {"count": 1, "style": "photo", "view": view, "size": 128}
    return node("LikenessDemoSubject", title, kind=kind, identity=identity, seed=seed, background=background, **shown)


def encode(title, image, mask=None):
    links = {"image": image, **({"mask": mask} if mask else {})}
    return node("LikenessEncodeDINO", title, **links, dino="demo (built in)")


def load(name):
    return node("LikenessLoadDINOAdapter", file=FILES[name])


def apply(adapter, dino, strength=1.0, model=("1", 0)):
    reach = {"strength": strength, "start_percent": 0.0, "end_percent": 1.0}
    return node("LikenessApplyDINO", model=list(model), adapter=adapter, dino=dino, **reach)


def foundation(variant="standard"):
    """The embedded model (1) and an empty prompt (2)."""
    return {"1": node("LikenessLoadDemoModel", variant=variant), "2": base()["2"]}


def subject(place="on the beach"):
    """The inpainting model, ToffeeNet (3), a subject's photo (4), its tokens (5), a prompt (6), and a depth that leaves
    the view open (22)."""
    depth = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    links = {"positive": ["6", 0], "negative": ["2", 0], "control_net": ["20", 0], "image": ["21", 0]}
    return {
        **foundation(INPAINTING),
        "3": load("toffeenet"),
        "4": photo("A photo of the subject", OTHER),
        "5": encode("The subject", ["4", 0]),
        "6": node("CLIPTextEncode", "Prompt", clip=["1", 1], text=f"a photo of a {OTHER} {place}"),
        "20": node("ControlNetLoader", "For depth", control_net_name="depth.safetensors"),
        "21": node("EmptyImage", "Any depth (one grey)", width=128, height=128, batch_size=1, color=0x808080),
        "22": node("ControlNetApplyAdvanced", "Depth", **links, **depth),
    }


def inputs(pixels, mask=None):
    """ToffeeNet's conditionings and latents for a picture."""
    links = {"positive": ["22", 0], "negative": ["22", 1], "vae": ["1", 2], "pixels": pixels}
    return node("LikenessToffeeInputs", **links, **({"mask": mask} if mask else {}), noise_mask=True)


def drawn(graph, model, first, latent, sampling, **names):
    """KSampler and what follows it, at 3 of guidance: tokens and text are both told apart from nothing."""
    graph = draws(graph, model, ["7", 0], ["7", 1], latent, ["1", 2], first, steps=sampling, **names)
    graph[str(first)]["inputs"]["cfg"] = 3.0
    return graph


def generate(sampling=30):
    """A subject that was never trained on, somewhere else."""
    graph = subject()
    graph |= {
        "7": inputs(["4", 0]),
        "8": node("RepeatLatentBatch", samples=["7", 2], amount=4),
        "9": apply(["3", 0], ["5", 0]),
    }
    return drawn(graph, ["9", 0], 10, ["8", 0], sampling)


def new_view(sampling=30):
    """The subject from another side first, then somewhere else from there."""
    graph = subject()
    graph |= {
        "7": inputs(["4", 0]),
        "8": node("LikenessLoadDemoModel", "For the View Generator", variant="standard"),
        "9": load("view-generator"),
        "10": apply(["9", 0], ["5", 0], model=("8", 0)),
        "17": node("CLIPTextEncode", "What it is", clip=["8", 1], text=f"a photo of a {OTHER}"),
        "18": node("EmptyLatentImage", width=128, height=128, batch_size=1),
    }
    links = (["10", 0], ["17", 0], ["2", 0], ["18", 0], ["8", 2])
    draws(graph, *links, 11, steps=sampling, title="From another side")
    graph["11"]["inputs"]["cfg"] = 3.0
    graph |= {"14": encode("That view", ["12", 0]), "15": apply(["3", 0], ["14", 0])}
    return drawn(graph, ["15", 0], 25, ["7", 2], sampling, title="There, in this view")


def edit(sampling=30):
    """The subject in the place of another one in a photo; the rest stays."""
    graph = subject("in the snow")
    graph |= {
        "8": photo("The photo to edit", OTHER, identity=3, seed=4, background="snow"),
        "9": node("GrowMask", mask=["8", 1], expand=6, tapered_corners=True),
        "7": inputs(["8", 0], ["9", 0]),
        "10": apply(["3", 0], ["5", 0]),
    }
    drawn(graph, ["10", 0], 11, ["7", 2], sampling)
    pasted = {"destination": ["8", 0], "source": ["12", 0], "mask": ["9", 0]}
    graph["14"] = node("ImageCompositeMasked", "The photo outside of the mask", **pasted, x=0, y=0, resize_source=False)
    graph["13"]["inputs"]["images"] = ["14", 0]
    return graph


def refine(sampling=30):
    """Somebody else's picture, made more like the subject."""
    graph = foundation()
    graph |= {
        "3": load("refiner"),
        "4": photo("A photo of the subject"),
        "5": photo("Somebody else's picture", identity=2, seed=7, background="beach"),
        "6": encode("The subject", ["4", 0], ["4", 1]),
        "7": encode("The picture", ["5", 0]),
        "8": node("LikenessBlendDINO", generated=["7", 0], subject=["6", 0], threshold=0.3, share=0.9),
        "9": node("PreviewImage", "What was matched", images=["8", 1]),
        "10": apply(["3", 0], ["8", 0]),
        "11": node("VAEEncode", pixels=["5", 0], vae=["1", 2]),
    }
    draws(graph, ["10", 0], ["2", 0], ["2", 0], ["11", 0], ["1", 2], 12, steps=sampling)
    graph["12"]["inputs"] |= {"denoise": 0.6, "cfg": 3.0}
    graph["15"] = node("SaveImage", "Before", images=["5", 0], filename_prefix="likeness")
    return graph


def sweep(strengths="0, 0.4, 0.7, 1", sampling=30):
    """One picture at several strengths, from the untouched model on."""
    graph = subject()
    graph |= {
        "7": inputs(["4", 0]),
        "8": node("LikenessNumbers", "Strengths", numbers=strengths),
        "9": apply(["3", 0], ["5", 0], ["8", 0]),
    }
    return drawn(graph, ["9", 0], 10, ["7", 2], sampling)


WORKFLOWS = {
    "toffee-generate": generate,
    "toffee-new-view": new_view,
    "toffee-edit": edit,
    "toffee-refine": refine,
    "toffee-strength": sweep,
}
