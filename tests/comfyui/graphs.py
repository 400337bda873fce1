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


CONCEPTS = ("demo cat.safetensors", "demo teapot.safetensors")  # come with the pack


def draws(graph, model, positive, negative, latent, vae, first, seed=1, steps=25, **names):
    """Add KSampler, VAEDecode and SaveImage under the ids `first`, `first` + 1, `first` + 2."""
    sampled = node(
        "KSampler",
        names.get("title"),
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        seed=seed,
        steps=steps,
        cfg=5.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    graph[str(first)] = sampled
    graph[str(first + 1)] = node("VAEDecode", samples=[str(first), 0], vae=vae)
    save = node(names.get("out", "SaveImage"), images=[str(first + 1), 0])
    if save["class_type"] == "SaveImage":
        save["inputs"]["filename_prefix"] = "likeness"
    graph[str(first + 2)] = save
    return graph


def base(batch=4, width=128):
    """The embedded model (1), an empty prompt (2) and empty latents (3)."""
    return {
        "1": node("LikenessLoadDemoModel"),
        "2": node("CLIPTextEncode", "Negative prompt", clip=["1", 1], text=""),
        "3": node("EmptyLatentImage", width=width, height=128, batch_size=batch),
    }


def apply(concept, model=("1", 0), prompt="a photo of a teapot on the beach", strength=1.0, title=None):
    return node(
        "LikenessApplyInfusion",
        title,
        model=list(model),
        clip=["1", 1],
        concept=list(concept),
        prompt=prompt,
        strength=strength,
        start_percent=0.0,
        end_percent=1.0,
        fast=False,
        strict=False,
    )


def learn(images, steps, word="teapot", title=None, **widgets):
    """Train Infusion on the embedded model, which wants noisy steps to count more."""
    advanced = {"learning_rate": 0.01, "batch_size": 4, "size": 0, "fit": "crop", "space": "text", "layers": "all"}
    advanced |= {"snr_weighting": True, "bins": 1}
    settings = {"prompt": f"a photo of a {word}", "word": word, "steps": steps, "seed": 0, "preview_every": 50}
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "images": images}
    return node("LikenessTrainInfusion", title, **links, **{**settings, **advanced, **widgets})


def five_photos(kind="teapot"):
    scenes = {"background": "any", "style": "photo", "view": "front", "size": 128}
    return node("LikenessDemoSubject", "Five photos", kind=kind, identity=0, count=5, seed=0, **scenes)


def infusion_train(steps=250, sampling=25):
    """Learn a concept from five photos, keep it, and draw with it."""
    graph = base()
    graph |= {
        "4": five_photos(),
        "5": learn(["4", 0], steps),
        "6": node("PreviewImage", "How the loss went", images=["5", 1]),
        "7": node("LikenessSaveConcept", concept=["5", 0], name="my teapot", thumbnail=["4", 0]),
        "8": apply(["5", 0]),
    }
    return draws(graph, ["8", 0], ["8", 1], ["2", 0], ["3", 0], ["1", 2], 9, steps=sampling)


def infusion_use(sampling=25):
    """A saved concept, with its word's pictures by the untouched model beside it."""
    graph = base()
    graph |= {
        "4": node("LikenessLoadConcept", file=CONCEPTS[1]),
        "5": node("LikenessConceptInfo", concept=["4", 0]),
        "6": apply(["4", 0]),
    }
    draws(graph, ["1", 0], ["6", 1], ["2", 0], ["3", 0], ["1", 2], 7, steps=sampling, title="Untouched model")
    return draws(graph, ["6", 0], ["6", 1], ["2", 0], ["3", 0], ["1", 2], 10, steps=sampling, title="With the concept")


def infusion_two(sampling=25):
    """Two concepts, each in its own half of one picture."""
    graph = base(batch=2, width=256)
    place = "on the beach"
    graph |= {
        "4": node("LikenessLoadConcept", file=CONCEPTS[0]),
        "5": node("LikenessLoadConcept", file=CONCEPTS[1]),
        "6": apply(["4", 0], prompt=f"a photo of a cat {place}", title="The cat"),
        "7": apply(["5", 0], model=("6", 0), prompt=f"a photo of a teapot {place}", title="The teapot"),
        "8": area(["6", 1], 0, "Left"),
        "9": area(["7", 1], 112, "Right"),
        "10": node("ConditioningCombine", conditioning_1=["8", 0], conditioning_2=["9", 0]),
        # the small model knows no wide pictures: the negative prompt looks at the same halves
        "11": area(["2", 0], 0, "Left"),
        "12": area(["2", 0], 112, "Right"),
        "13": node("ConditioningCombine", conditioning_1=["11", 0], conditioning_2=["12", 0]),
    }
    return draws(graph, ["7", 0], ["10", 0], ["13", 0], ["3", 0], ["1", 2], 14, seed=2, steps=sampling)


def area(conditioning, x, title):
    return node("ConditioningSetArea", title, conditioning=conditioning, width=144, height=128, x=x, y=0, strength=1.0)


def infusion_lora(sampling=25):
    """A concept drawn in a LoRA's style."""
    graph = base()
    graph |= {
        "4": node("LoraLoaderModelOnly", model=["1", 0], lora_name="duotone.safetensors", strength_model=1.0),
        "5": node("LikenessLoadConcept", file=CONCEPTS[1]),
        "6": apply(["5", 0], model=("4", 0)),
    }
    return draws(graph, ["6", 0], ["6", 1], ["2", 0], ["3", 0], ["1", 2], 7, steps=sampling)


def infusion_grid(trained=(100, 250, 500), strengths="0, 0.5, 1", sampling=25):
    """Training steps from top to bottom, strengths from left to right; each training goes on from the one before."""
    graph = base(batch=1)
    graph |= {
        "4": five_photos(),
        "5": node("LikenessNumbers", "Strengths", numbers=strengths),
    }
    for i, steps in enumerate(trained):
        first = 10 * (i + 1)
        graph[str(first)] = learn(["4", 0], steps, title=f"{steps} steps", preview_every=0)
        graph[str(first + 1)] = apply([str(first), 0], strength=["5", 0])
        at = str(first + 1)
        links = ([at, 0], [at, 1], ["2", 0], ["3", 0], ["1", 2])
        draws(graph, *links, first + 2, seed=5, steps=sampling, out="PreviewImage")
    return graph


WORKFLOWS = {
    "hello-likeness": hello,
    "infusion-train": infusion_train,
    "infusion-use": infusion_use,
    "infusion-two-concepts": infusion_two,
    "infusion-lora": infusion_lora,
    "infusion-steps-and-strength": infusion_grid,
}
