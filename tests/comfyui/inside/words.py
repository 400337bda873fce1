"""Prompts in both runtimes: the same tokens, the same word positions, whatever the weights, length and embeddings."""

import folder_paths
import torch
from common import conditioning, rel
from likeness_in_comfyui.core import checkpoint
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.nodes import demo_model
from likeness_in_comfyui.nodes.words import find_words
from safetensors.torch import save_file

PROMPTS = [
    "a photo of a cat",
    "a (photo) of a ((red:1.4) cat:0.7), Cats and a CAT!",
    r"a \(cat\) (on the beach:1.3",
    "a cat) in (the snow)",
    "(cat: a zebracorn)",
    "a red cat in the snow, " * 14 + "(and a zebracorn:1.2) with a cat",
    "words that are not known: (café, 猫, naïve:1.1) cat",
    "",
]


def main(pack):
    _, clip, _ = demo_model.load()
    base = checkpoint.load(MODEL)
    result = {"tokens": [], "positions": [], "found": []}
    for prompt in PROMPTS:
        here = find_words(clip, prompt, ["cat", "zebracorn"])
        there = base.text(prompt, ["cat", "zebracorn"])
        result["tokens"].append(rel(conditioning(clip, prompt)[0][0], there.tokens))
        result["positions"].append(all(torch.equal(here[w], there.words[w]) for w in here))
        result["found"].append([int(here[w].sum()) for w in here])
    folder = folder_paths.get_folder_paths("embeddings")[0]
    from pathlib import Path

    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file({"clip_l": torch.randn(3, 192)}, f"{folder}/three.safetensors")
    _, clip, _ = demo_model.load()
    clip.tokenizer.clip_l.embedding_directory = [folder]
    where = find_words(clip, "a embedding:three cat", ["cat"])["cat"]
    result["after_embedding"] = where.nonzero().flatten().tolist()
    # tokenizers that pad with an ordinary word
    from comfy.sdxl_clip import SDXLTokenizer
    from comfy.text_encoders.sd2_clip import SD2Tokenizer

    result["padded"] = []
    for tokenizer in (SDXLTokenizer(), SD2Tokenizer()):
        clip.tokenizer = tokenizer
        found = [find_words(clip, text, ["cat"])["cat"] for text in ("a photo of a cat in the snow", "a cat! " * 30)]
        result["padded"].append([found[0].nonzero().flatten().tolist(), int(found[1].sum()), len(found[1])])
    return result
