"""RetriNet's workflows in API format, as functions; see graphs.py."""

from .graphs import base, draws, node

PROMPT = "a photo of a person on the beach"


def person(title, identity, count=1, seed=0):
    scenes = {"background": "any", "style": "photo", "view": "front", "size": 128}
    return node("LikenessDemoSubject", title, kind="person", identity=identity, count=count, seed=seed, **scenes)


def reference(title, concept, photo, mask, **more):
    """A concept of a person's photos; `mask` is the person node's output that shows it."""
    return node("LikenessReference", title, image=[photo, 0], concept=concept, other="", mask=[photo, mask], **more)


def readers():
    return {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}


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


WORKFLOWS = {"retrieve-without-training": free}
