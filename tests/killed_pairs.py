"""Factories that are killed at every file they write, each resumed, compared with one that isn't; and their models.

Argument: folder to work in. Prints how many kills there were.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import PIL.ImageFont
import pyarrow.parquet
import torch
from likeness.training.data.pairs import build, draw, filters
from likeness.training.data.pairs.masks import pasted
from likeness.training.data.pairs.models import Models
from torch.nn import functional as F

SIZE = 32
DRAW = draw.Settings(size=SIZE, batch=2)
HALF = filters.Filters(dino=0.0)  # of what the embedder below sees


def coloured(key):
    """A picture (3, 32, 32) of soft colours that a key determines."""
    return F.interpolate(draw.noise(key, (1, 3, 4, 4)).sigmoid(), (SIZE, SIZE), mode="bilinear")[0]


class Painter:
    """Draws colours in no time; what it is asked is all that they depend on."""

    def draw(self, prompts, keys, depth=None):
        return torch.stack([coloured(f"{prompt} {key}") for prompt, key in zip(prompts, keys)])

    def edit(self, images, masks, prompts, keys, starts, depth=None):
        return pasted(images, masks, self.draw(prompts, keys))

    def refine(self, images, subjects, figures, keys, masks=None):
        mixed = torch.lerp(images, subjects, 0.5 * figures)
        mixed = mixed if masks is None else pasted(subjects, masks, mixed)
        return mixed, [float(figure.mean()) for figure in figures]

    def view(self, images, keys, words):
        return images.flip(-1)


class Embedder:
    """Colours of 4 x 4 places as vectors, and the same length of noise for texts."""

    def images(self, images):
        return F.normalize(F.adaptive_avg_pool2d(images, 4).flatten(1) - 0.5)

    def texts(self, texts):
        return F.normalize(torch.stack([draw.noise(text, (48,)) for text in texts]))


class Middle:
    """Finds the subject in the middle, wherever it is asked for."""

    def segment(self, images, text):
        masks = torch.zeros_like(images[:, :1])
        masks[..., 8:24, 10:20] = 1
        return masks


def models() -> Models:
    return Models(Painter(), Embedder(), Embedder(), Middle())


def config(out: Path, **fields) -> build.Config:
    fields = {"pairs": 10, "subjects": 6, "draw": DRAW, "part": 4, "sheet": 3, "workers": 0, "filters": HALF, **fields}
    return build.Config(out, **fields)


def content(out: Path) -> dict[str, str]:
    """Every file's digest, but for what it took."""
    files = (p for p in out.rglob("*") if p.is_file() and p.name != "took.json" and p.parent.name != "seconds")
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run(out: Path, kill: int | None = None) -> bool:
    """Build in a process of its own, which kills itself around writing file number `kill`; whether it did."""
    child = os.fork()
    if not child:
        replace, count = os.replace, 0

        def counted(source, target):
            nonlocal count
            count += 1
            if count == kill and kill % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            if count == kill:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = counted
        os.fsync = lambda handle: None  # a kill, unlike a power cut, loses nothing that is written
        build.build(config(out), models=models)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    # what they import is imported once, before the forks
    PIL.Image.init()
    pyarrow.array(["pandas"])
    run(folder / "whole")
    whole, kills = content(folder / "whole"), 0
    while run(out := folder / str(kills + 1), kills + 1):
        kills += 1
        left = content(out)
        finished = {name: digest for name, digest in left.items() if not name.endswith(".part")}
        assert all(whole.get(name) == digest for name, digest in finished.items()), f"half a file after kill {kills}"
        assert not run(out)
        assert content(out) == whole, f"kill {kills}: {set(content(out).items()) ^ set(whole.items())}"
    return kills


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
