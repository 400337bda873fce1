"""HiFi Tuner's workflows in API format, as functions; see graphs.py."""

from .graphs import base, draws, five_photos, node

DETECTOR = "IDEA-Research/grounding-dino-tiny (download)"
WORD = "car"


def learn(steps=600, timesteps=25, sampling=25):
    """Learn a subject from five photos and their masks, keep it, and draw with it."""
    graph = base()
    graph |= {
        "4": five_photos(WORD),
        "5": train(steps, timesteps),
        "6": node("PreviewImage", "How the loss went", images=["5", 1]),
        "7": node("LikenessSaveSubject", subject=["5", 0], name=f"my {WORD}", thumbnail=["4", 0]),
        "8": apply(["5", 0]),
    }
    return draws(graph, ["8", 0], ["8", 1], ["2", 0], ["3", 0], ["1", 2], 9, steps=sampling)


def train(steps, timesteps):
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "images": ["4", 0], "mask": ["4", 1]}
    advanced = {"regularisation": 0.03, "learning_rate": 0.005, "rows": 5, "steps_each": 10}
    shape = {"batch_size": 4, "size": 0, "fit": "crop", "preview_every": 100}
    settings = {"prompt": f"a photo of a {WORD}", "word": WORD, "steps": steps, "timesteps": timesteps, "seed": 0}
    return node("LikenessTrainHiFi", **links, **settings, **advanced, **shape)


def apply(subject, prompt=f"a photo of a {WORD} on the beach", model=("1", 0)):
    links = {"model": list(model), "clip": ["1", 1], "subject": subject}
    return node("LikenessApplyHiFi", **links, prompt=prompt, strength=1.0)


def guided(sampling=50, seed=9):
    """Draw, find the most similar photo, turn it onto the picture's subject, invert it, draw again led by it."""
    return led(base(batch=1), ["1", 0], "on the beach", sampling, seed)


def by_lora(sampling=50, seed=4):
    """The same where the subject is in the weights, of a LoRA of it (the paper's DreamBooth form)."""
    graph = base(batch=1)
    graph["24"] = node("LoraLoaderModelOnly", model=["1", 0], lora_name="car.safetensors", strength_model=1.0)
    return led(graph, ["24", 0], "in the desert", sampling, seed)


def led(graph, model, place, sampling, seed):
    """Two passes with `model`, plain and led by a photo, added under the ids 4 to 23."""
    scheduler = {"scheduler": "ddim_uniform", "steps": sampling, "denoise": 1.0}
    return graph | {
        "4": five_photos(WORD),
        "5": node("CLIPTextEncode", "Prompt", clip=["1", 1], text=f"a photo of a {WORD} {place}"),
        "6": node("RandomNoise", noise_seed=seed),
        "7": node("CFGGuider", model=model, positive=["5", 0], negative=["2", 0], cfg=5.0),
        "8": node("BasicScheduler", model=model, **scheduler),
        "9": node("KSamplerSelect", sampler_name="euler"),
        "10": pass_("First pass", ["9", 0]),
        "11": node("VAEDecode", samples=["10", 0], vae=["1", 2]),
        "12": node("SaveImage", "Without the photo", images=["11", 0], filename_prefix="likeness"),
        "13": segment(["11", 0], WORD),
        "14": pick(["11", 0], ["4", 0], ["4", 1], ["13", 0]),
        "15": align(["14", 0], ["14", 1], ["13", 0], ["11", 0]),
        "16": node("PreviewImage", "How they overlap", images=["15", 2]),
        "17": node("CLIPTextEncode", "What the photo shows", clip=["1", 1], text=f"a photo of a {WORD}"),
        "18": node("VAEEncode", pixels=["15", 0], vae=["1", 2]),
        "19": node("LikenessInvert", model=model, positive=["17", 0], latent=["18", 0], sigmas=["8", 0]),
        "20": reference(["19", 0], ["15", 1]),
        "21": pass_("Second pass", ["20", 0]),
        "22": node("VAEDecode", samples=["21", 0], vae=["1", 2]),
        "23": node("SaveImage", "Led by the photo", images=["22", 0], filename_prefix="likeness"),
    }


def pick(generated, sources, source_masks, generated_mask):
    links = {"generated": generated, "sources": sources, "source_masks": source_masks, "generated_mask": generated_mask}
    return node("LikenessPickReference", **links, embedder="demo (built in)", other_embedder="")


def align(reference, reference_mask, target_mask, target):
    links = {"reference": reference, "reference_mask": reference_mask, "target_mask": target_mask, "target": target}
    return node("LikenessAlignReference", **links, max_rotation=30.0)


def pass_(title, sampler):
    links = {"noise": ["6", 0], "guider": ["7", 0], "sigmas": ["8", 0], "latent_image": ["3", 0]}
    return node("SamplerCustomAdvanced", title, sampler=sampler, **links)


def segment(image, word):
    words = {"text": f"a {word}", "box": "", "points": "", "negative_points": ""}
    return node(
        "LikenessSegmentSubject", image=image, segmenter="demo (built in)", detector=DETECTOR, threshold=0.3, **words
    )


def reference(trajectory, mask, steps=10):
    settings = {"start": 40, "end": 10, "steps": steps, "learning_rate": 0.01, "stop": 0.0, "fast": 0.0}
    return node("LikenessReferenceGuidance", trajectory=trajectory, mask=mask, **settings)


def replace(sampling=50, steps=10):
    """Another subject in a photo: a house where the car was."""
    caption, links = f"a photo of a {WORD} on the beach", {"model": ["1", 0]}
    photo = {"identity": 1, "count": 1, "seed": 0, "style": "photo", "view": "front", "size": 128}
    return {
        "1": node("LikenessLoadDemoModel"),
        "2": node("CLIPTextEncode", "Negative prompt", clip=["1", 1], text=""),
        "3": node("LikenessDemoSubject", "A photo", kind=WORD, background="beach", **photo),
        "4": node("VAEEncode", pixels=["3", 0], vae=["1", 2]),
        "5": node("CLIPTextEncode", "Its caption", clip=["1", 1], text=caption),
        "6": node("BasicScheduler", **links, scheduler="ddim_uniform", steps=sampling, denoise=1.0),
        "7": node("LikenessInvert", **links, positive=["5", 0], latent=["4", 0], sigmas=["6", 0]),
        "8": node(
            "LikenessNullText",
            **links,
            positive=["5", 0],
            negative=["2", 0],
            trajectory=["7", 0],
            guidance=5.0,
            steps=steps,
            learning_rate=0.01,
        ),
        "9": node("VAEDecode", samples=["8", 1], vae=["1", 2]),
        "10": node("SaveImage", "The photo again", images=["9", 0], filename_prefix="likeness"),
        "11": node(
            "LikenessReplaceSubject",
            **links,
            clip=["1", 1],
            trajectory=["8", 0],
            caption=caption,
            old_word=WORD,
            new_word="house",
            renormalise=False,
        ),
        "12": node("VAEDecode", samples=["11", 0], vae=["1", 2]),
        "13": node("SaveImage", "With another subject", images=["12", 0], filename_prefix="likeness"),
    }


WORKFLOWS = {"hifi-learn": learn, "hifi-reference": guided, "hifi-lora": by_lora, "hifi-replace": replace}
