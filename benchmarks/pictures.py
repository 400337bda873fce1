"""The pictures of the docs, drawn anew: `python benchmarks/pictures.py`."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from likeness.core import checkpoint
from likeness.core.attention import MuteWord
from likeness.core.demo import MODEL, sheet, world
from likeness.core.denoiser import Hooks
from likeness.training import demo as training_demo

VIEWS = ("front", "left", "back", "right", "front", "front")
DOCS = Path(__file__).resolve().parent.parent / "docs"
MUTED = (("a painting of a green robot in the snow", "snow"), ("a photo of a yellow duck in a meadow", "meadow"),
         ("a photo of a red cat on the beach", "red"))  # fmt: skip


def demo() -> None:
    """What `make demo` draws."""
    with TemporaryDirectory() as folder:
        config = training_demo.Config(out=DOCS / "demo.jpg", concept=Path(folder) / "cat.safetensors")
        print(training_demo.table(training_demo.run(config)))


def subjects() -> None:
    """Six held-out subjects of the world, each in six scenes."""
    kinds = ("cat", "dog", "robot", "teapot", "person", "person")
    chosen = [world.held_out_subjects(n + 1, kind)[n] for n, kind in enumerate(kinds)]
    rows = []
    for subject in chosen:
        rng = random.Random(7)
        scenes = [world.random_scene(rng, view=v, background=b) for v, b in zip(VIEWS, world.BACKGROUNDS)]
        rows.append((f"one {subject.word}, six scenes", torch.stack([world.draw(subject, s).image for s in scenes])))
    sheet.contact_sheet(rows, DOCS.parent / "web" / "docs" / "demo-subjects.jpg")


def muted() -> None:
    """The same noise with all words, and with one word's attention column zeroed."""
    model, rows = checkpoint.load(MODEL), []
    noise = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    for prompt, word in MUTED:
        for label, hooks in ((prompt, None), (f"'{word}' muted", Hooks(attention=MuteWord(word), words=(word,)))):
            rows.append((label, sheet.text_to_image(model, prompt, noise, steps=30, guidance=5.0, hooks=hooks)))
    sheet.contact_sheet(rows, DOCS / "muted-word.jpg")


def icon() -> None:
    """The pack's icon: a subject of the world on white."""
    from PIL import Image

    cat = world.Thing("cat", "orange", (world.Mark("stripes", "white", 3),))
    picture = world.draw(cat, world.Scene("meadow", "photo", scale=1.2), size=512)
    pixels = torch.cat([picture.image, picture.mask]).mul(255).byte().permute(1, 2, 0).numpy()
    cut = Image.fromarray(pixels, "RGBA").crop(Image.fromarray(pixels[..., 3]).getbbox())
    side = max(cut.size) + 24
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    square.resize((256, 256), Image.LANCZOS).save(DOCS / "icon.png")


PICTURES = {"icon": icon, "demo": demo, "world": subjects, "muted": muted}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(PICTURES), choices=[*PICTURES, []])
    for name in parser.parse_args().names:
        PICTURES[name]()
