"""RetriNet's workflows in API format, as functions; see graphs.py."""

from .graphs import base, draws, node

FILE = "demo retrinet.safetensors"  # comes with the pack
PROMPT = "a photo of a person on the beach"


def person(title, identity, count=1, seed=0):
    scenes = {"background": "any", "style": "photo", "view": "front", "size": 128}
    return node("LikenessDemoSubject", title, kind="person", identity=identity, count=count, seed=seed, **scenes)


def reference(title, concept, photo, mask, **more):
    """A concept of a person's photos; `mask` is the person node's output that shows it."""
    return node("LikenessReference", title, image=[photo, 0], concept=concept, other="", mask=[photo, mask], **more)


def readers():
    return {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}


def apply(references, mode="each step"):
    reach = {"strength": 0.75, "start_percent": 0.0, "end_percent": 1.0}
    links = {**readers(), "retrinet": ["4", 0], "references": references}
    return node("LikenessApplyRetriNet", **links, **reach, levels="all", mode=mode, own_levels="")


def trained():
    """The embedded model with its RetriNet (4) and a prompt (5)."""
    return {
        **base(),
        "4": node("LikenessLoadRetriNet", file=FILE),
        "5": node("CLIPTextEncode", "Prompt", clip=["1", 1], text=PROMPT),
    }


def one(sampling=30):
    """One character, from four photos of her."""
    graph = trained()
    graph |= {
        "6": person("Four photos", 0, count=4),
        "7": reference("All of her", "figure", "6", 1),
        "8": node("PreviewImage", "What the network sees", images=["7", 1]),
        "9": apply(["7", 0]),
    }
    return draws(graph, ["9", 0], ["5", 0], ["2", 0], ["3", 0], ["1", 2], 10, steps=sampling)


def composed():
    """The face of one person (6, 8) and the clothes of another (7, 9)."""
    return {
        "6": person("Whose face", 0),
        "7": person("Whose clothes", 1),
        "8": reference("Her face", "face", "6", 3),
        "9": reference("Her clothes", "clothes", "7", 4, references=["8", 0]),
        "10": node("PreviewImage", "What the network sees", images=["9", 1]),
    }


def compose(sampling=30):
    """The face of one person and the clothes of another."""
    graph = {**trained(), **composed(), "11": apply(["9", 0])}
    return draws(graph, ["11", 0], ["5", 0], ["2", 0], ["3", 0], ["1", 2], 12, steps=sampling)


def maps(sampling=20):
    """Where each level looks in the references, at some steps."""
    drawing = {"prompt": PROMPT, "latent": ["3", 0], "seed": 1, "steps": sampling, "guidance": 5.0, "shown": 4}
    links = {**readers(), "retrinet": ["4", 0], "references": ["9", 0]}
    return {
        **{name: each for name, each in base(batch=1).items() if name != "2"},
        "4": node("LikenessLoadRetriNet", file=FILE),
        **composed(),
        "11": node("LikenessRetrievalMaps", **links, **drawing),
        "12": node("SaveImage", "Where it looks", images=["11", 0], filename_prefix="likeness"),
        "13": node("PreviewImage", "The picture", images=["11", 1]),
    }


def free(sampling=30):
    """A person by the untouched model, and led by a photo: nothing was trained for it."""
    graph = base()
    graph |= {
        "4": node("CLIPTextEncode", "Prompt", clip=["1", 1], text=PROMPT),
        "5": person("Two photos", 0, count=2),
        "6": reference("All of her", "figure", "5", 1),
        "7": node(
            "LikenessRetrieve",
            **readers(),
            references=["6", 0],
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
            levels="all",
            mode="cached",
            seed=0,
        ),
    }
    last = (["4", 0], ["2", 0], ["3", 0], ["1", 2])
    draws(graph, ["1", 0], *last, 8, steps=sampling, title="Untouched model")
    return draws(graph, ["7", 0], *last, 11, steps=sampling, title="Led by the photos")


WORKFLOWS = {
    "retrinet-character": one,
    "retrinet-face-and-clothes": compose,
    "retrinet-maps": maps,
    "retrieve-without-training": free,
}
