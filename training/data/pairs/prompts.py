"""What the pairs change: prompts by category, from templates, a file, or a language model on this machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.demo.captions import PLACES, WORN, article
from ....core.demo.styles import STYLES
from ....core.demo.subjects import COLOURS

CATEGORIES = ("style", "background", "colour", "texture", "addition", "removal")  # Toffee, Fig. 6
_LINE = 200  # characters of a prompt, at most
_ASKED = "SUBJECT"


@dataclass(frozen=True)
class Prompt:
    """A prompt for any class of subjects.

    Args:
        category: what it changes; for removal it says what is there before.
        text: with {a} for "a cat" or "an owl", and {word} for "cat".

    Raises:
        ValueError: an unknown category, or a text without a place for the subject.
    """

    category: str
    text: str

    def __post_init__(self):
        if self.category not in CATEGORIES:
            raise ValueError(f"no category {self.category!r}; choose {', '.join(CATEGORIES)}")
        if "{a}" not in self.text and "{word}" not in self.text:
            raise ValueError(f"{self.text!r} has no place for the subject; write {{a}} for 'a cat', {{word}} for 'cat'")
        if len(self.text) > _LINE:
            raise ValueError(f"{self.text[:40]!r}... is longer than {_LINE} characters; shorten it")

    def of(self, word: str) -> str:
        """The prompt for a class."""
        return filled(self.text, word)


def filled(text: str, word: str) -> str:
    """A template for a class, as in "a photo of {a}" for "owl"."""
    return text.replace("{a}", article(word)).replace("{word}", word)


# --- templates -------------------------------------------------------------------------------------------------------


def demo() -> list[Prompt]:
    """The demo world's, in words that its base model knows; it has none for textures."""
    worn = [f"a photo of {{a}} {thing}" for thing in WORN.values()]
    texts = {
        "style": [f"{article(style)} of {{a}}" for style in STYLES if style != "photo"],
        "background": [f"a photo of {{a}} {place}" for place in PLACES.values()],
        "colour": [f"a photo of {article(colour)} {{word}}" for colour in COLOURS],
        "addition": worn,
        "removal": worn,
    }
    return [Prompt(category, text) for category, of_it in texts.items() for text in of_it]


_WORN = ("wearing a hat", "wearing a red scarf", "with a balloon", "wearing sunglasses", "with a bow tie")
_EVERYDAY = {
    "style": (
        "an oil painting of {a}",
        "a watercolour painting of {a}",
        "a pencil drawing of {a}",
        "a comic book drawing of {a}",
        "a pixel art picture of {a}",
        "an origami figure of {a}",
    ),
    "background": (
        "a photo of {a} on a beach",
        "a photo of {a} in the snow",
        "a photo of {a} in a forest in autumn",
        "a photo of {a} on a wooden table",
        "a photo of {a} in a busy street at night",
        "a photo of {a} in front of a mountain lake",
        "a photo of {a} in a living room",
    ),
    "colour": tuple(
        f"a photo of a {colour} {{word}}" for colour in ("red", "blue", "green", "yellow", "black", "pink")
    ),
    "texture": tuple(
        f"a photo of a {{word}} made of {stuff}"
        for stuff in ("wood", "glass", "knitted wool", "marble", "metal", "ice")
    ),
    "addition": tuple(f"a photo of {{a}} {thing}" for thing in _WORN),
    "removal": tuple(f"a photo of {{a}} {thing}" for thing in _WORN),
}


def everyday() -> list[Prompt]:
    """For checkpoints that know the world **[ours; the paper's, workers' and a model's, are not published]**."""
    return [Prompt(category, text) for category, texts in _EVERYDAY.items() for text in texts]


TEMPLATES = {"demo": demo, "everyday": everyday, "none": list}


def read(name: str) -> list[Prompt]:
    """Templates by name, or a text file: a prompt a line, its category before a colon; # begins a comment.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no prompt; it is named.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]()
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"prompts: no file {name}; give one, or {', '.join(TEMPLATES)}")
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as e:
        raise ValueError(f"prompts: {path.name} is no text in UTF-8 ({e}); save it as one") from e
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        category, colon, text = line.partition(":")
        try:
            if not colon:
                raise ValueError("it has no category; write one before a colon, as in 'style: a drawing of {a}'")
            found.append(Prompt(category.strip(), text.strip()))
        except ValueError as e:
            raise ValueError(f"prompts: line {number} of {path.name}: {e}") from e
    return found


def distinct(prompts: Iterable[Prompt], dropped: Counter[str]) -> list[Prompt]:
    """Each prompt once, whatever its case and spaces; the others are counted."""
    found: dict[tuple[str, str], Prompt] = {}
    for prompt in prompts:
        key = (prompt.category, " ".join(prompt.text.lower().split()))
        if key in found:
            dropped["same as another prompt"] += 1
        found.setdefault(key, prompt)
    return list(found.values())


# --- a language model ------------------------------------------------------------------------------------------------

_WISHES = {
    "style": "Each names another style of picture, as in: a watercolour painting of SUBJECT",
    "background": "Each puts it into another place, as in: a photo of SUBJECT on a beach",
    "colour": "Each gives it another colour, as in: a photo of SUBJECT in bright red",
    "texture": "Each makes it of another material, as in: a photo of SUBJECT made of wood",
    "addition": "Each adds a thing that it wears or holds, as in: a photo of SUBJECT wearing a hat",
}
_WISHES["removal"] = _WISHES["addition"]  # which is then removed


class LanguageModel:
    """A causal language model of transformers.

    Args:
        name: folder or hub name.
        device: where it runs.

    Raises:
        FileNotFoundError: it can't be had.
    """

    def __init__(self, name: str, device: str = "cpu"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ....core.vision import source

        what = "language"
        with source.explained(source.check(name, what), what):
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self.model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True).to(device).eval()

    def __call__(self, question: str, tokens: int, seed: int) -> str:
        """An answer of at most so many tokens, the same for the same seed."""
        import torch

        t = self.tokenizer
        if t.chat_template:
            question = t.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
            )
        inputs = t(question, return_tensors="pt", add_special_tokens=not t.chat_template).to(self.model.device)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            pad = t.eos_token_id if t.pad_token_id is None else t.pad_token_id
            out = self.model.generate(**inputs, do_sample=True, max_new_tokens=tokens, pad_token_id=pad)
        return t.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def ask(model: Any, each: int, seed: int, dropped: Counter[str], rounds: int = 8) -> list[Prompt]:
    """Prompts of every category; what is no prompt in the answers is counted, as is an answer that fails.

    Args:
        model: question, tokens and seed to an answer, as `LanguageModel`.
        each: of every category; there are fewer where the model gives no more in so many rounds.
    """
    found: list[Prompt] = []
    for category, wish in _WISHES.items():
        own: list[Prompt] = []
        for turn in range(rounds):
            if len(own) >= each:
                break
            question = (
                f"Write {each} short captions of pictures, one a line, without numbers. In each of them the word "
                f"{_ASKED} stands for the thing that is shown. {wish}"
            )
            try:
                answer = model(question, 24 * each, seed + turn)
            except Exception as e:
                dropped[f"language model failed: {type(e).__name__}"] += 1
                continue
            own = distinct([*own, *parsed(category, answer, dropped)], dropped)
        found += own[:each]
    return found


def parsed(category: str, answer: str, dropped: Counter[str]) -> Sequence[Prompt]:
    """The prompts in an answer, a line each."""
    found = []
    for line in answer.splitlines():
        text = re.sub(r"^[\s\d.)*\-\u2022\"']+|[\s\"'.]+$", "", line)
        if not text:
            continue
        text = re.sub(rf"\b(?:(?:an?|the)\s+)?{_ASKED}\b", "{a}", text)
        try:
            found.append(Prompt(category, text))
        except ValueError:
            dropped["no caption of a subject"] += 1
    return found
