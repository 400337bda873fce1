"""What everything is measured on: a model, subjects, prompts, judges. The demo world, or real folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from grid import KINDS, Case, case_of, cases
from likeness.core import checkpoint, files
from likeness.core.demo import MODEL, judges
from likeness.core.demo.truth import VALUES
from likeness.core.toffee import tokens
from likeness.core.vision.dino import Dino
from likeness.training import evaluate
from likeness.training.data import photos
from torch import Tensor

GROUPS = ("recontextualise", "restyle", "accessorise")
SEED = 1000  # of the first noise
MILESTONES = (100, 250, 500, 1000, 2000)
IDENTITY = ("colour", "dip", "stripes", "spots", "patch", "band", "badge")  # of a thing
TUNED_ON = 50  # first number, of each kind, of the subjects that settings are chosen on; no run measures as many
PERSON = ("hair_style", "hair_colour", "eyes", "skin", "garment", "outfit_colour", "second_colour", "pattern")


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Args:
        text: with {} for the subject's word.
        group: one of GROUPS.
        wanted: what of it the demo world's attribute judge can check, attribute -> value.
    """

    text: str
    group: str
    wanted: Mapping[str, str] = field(default_factory=dict)


def _demo(text: str, group: str, background: str, style: str = "photo", accessory: str = "none") -> Prompt:
    return Prompt(text, group, {"background": background, "style": style, "accessory": accessory})


PROMPTS = (
    _demo("a photo of a {} on the beach", GROUPS[0], "beach"),
    _demo("a photo of a {} in the snow", GROUPS[0], "snow"),
    _demo("a photo of a {} in the kitchen", GROUPS[0], "kitchen"),
    _demo("a painting of a {} in the city", GROUPS[1], "city", "painting"),
    _demo("a drawing of a {} in the forest", GROUPS[1], "forest", "drawing"),
    _demo("a photo of a {} in a meadow wearing a hat", GROUPS[2], "meadow", accessory="hat"),
    _demo("a photo of a {} in the desert wearing a scarf", GROUPS[2], "desert", accessory="scarf"),
    _demo("a photo of a {} at night with a balloon", GROUPS[2], "night", accessory="balloon"),
)
# for photographs of real subjects
REAL = (
    Prompt("a photo of a {} on the beach", GROUPS[0]),
    Prompt("a photo of a {} in the snow", GROUPS[0]),
    Prompt("a photo of a {} in front of a castle", GROUPS[0]),
    Prompt("an oil painting of a {} in the city", GROUPS[1]),
    Prompt("a pencil drawing of a {} in the forest", GROUPS[1]),
    Prompt("a photo of a {} wearing a red hat", GROUPS[2]),
    Prompt("a photo of a {} with a yellow balloon", GROUPS[2]),
    Prompt("a photo of a {} covered with flowers", GROUPS[2]),
)


@dataclass(frozen=True)
class Bench:
    """Everything that a method is measured with.

    Args:
        name: "demo", or the checkpoint's.
        model: the foundation.
        base: its fingerprint, which is in the key of everything that is cached.
        cases: the subjects.
        models: what measures.
        read: the demo world's attribute judge; None where no such thing is known.
        segmenter: `vision.protocols.TextSegmenter`; None leaves out what needs one.
        work: folder of what is learned and drawn.
        weights: folder with the weights of what was trained once for all subjects.
        size: pixels of a picture's side.
        milestones: steps of a training at which what was learned is kept, beside its end.
        limit: most steps of any training, to try the harness; 0 is none.
    """

    name: str
    model: checkpoint.Checkpoint
    base: str
    cases: tuple[Case, ...]
    models: evaluate.Models
    work: Path
    weights: Path
    prompts: tuple[Prompt, ...] = PROMPTS
    read: Callable[[Tensor], Any] | None = None
    segmenter: Any = None
    size: int = 128
    steps: int = 25
    guidance: float = 5.0
    seeds: int = 2
    milestones: tuple[int, ...] = MILESTONES
    limit: int = 0

    @property
    def sampling(self) -> str:
        """What every picture depends on."""
        return f"{self.base} {self.size} {self.steps} {self.guidance}"

    @property
    def timesteps(self) -> list[int]:
        return self.model.denoiser.schedule.timesteps(self.steps)

    def noise(self, count: int | None = None, first: int = SEED) -> Tensor:
        """The same for all methods and prompts, (count or seeds, C, h, w)."""
        shape = (self.model.denoiser.unet.config.out_channels, self.size // 8, self.size // 8)
        seeds = range(first, first + (self.seeds if count is None else count))
        drawn = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return drawn.to(self.model.denoiser.unet.device)

    def segment(self, images: Tensor, case: Case) -> Tensor:
        """The subject in pictures (B, 3, H, W), (B, 1, H, W) of 0 and 1."""
        masks = self.segmenter.segment(images, f"a {case.word}")
        return (masks if masks.ndim == 4 else masks[:, None]).float()

    def judges(self, case: Case) -> evaluate.Models:
        """What measures pictures of a subject."""
        return replace(self.models, segment=self.segmenter and (lambda images: self.segment(images, case)))

    @property
    def judged_by(self) -> dict[str, str]:
        """Names of all that measures."""
        parts = {name: getattr(self.models, name) for name in ("clip", "dino", "vqa")}
        return {name: named(part) for name, part in {**parts, "segmenter": self.segmenter, "read": self.read}.items()}

    def reader(self, dino: str) -> Any:
        """The DINO of this name, with which an adapter was trained; the judge where it is the same."""
        judge = self.models.dino
        if dino == tokens.EMBEDDED:
            return judge if self.name == "demo" else judges.dino()
        return judge if not dino or tokens.same(dino, judge.name) else dino_named(dino)

    def most(self, steps: int) -> int:
        """So many steps, or the limit."""
        return min(steps, self.limit) if self.limit else steps

    def asked(self, case: Case) -> list[str]:
        return [prompt.text.format(case.word) for prompt in self.prompts]

    def text(self, prompt: str, words: Sequence[str] = ()) -> Any:
        return self.model.text(prompt, words, (self.size, self.size))

    def groups(self, case: Case, masked: bool = False) -> list[photos.Group]:
        """The subject's photos as latents, with its masks where the loss shall look there only."""
        masks = list(case.masks) if masked and case.masks is not None else None
        return photos.encode(photos.prepare(list(case.images), self.size, "crop", masks), self.model.encode)


def fingerprint(model: checkpoint.Checkpoint) -> str:
    """Of all weights that a picture depends on."""
    parts = (model.denoiser.unet, model.vae, *(tower.model for tower in model.text.towers))
    return files.fingerprint({f"{i}.{k}": v for i, part in enumerate(parts) for k, v in part.state_dict().items()})


@cache
def named(part: Any) -> str:
    """What tells a judge from others: its hub name or file, or the fingerprint of weights that lie in a folder."""
    if hasattr(part, "detector"):
        return f"{named(part.detector)}, {named(part.segmenter)}"
    name = getattr(part, "name", getattr(part, "file", getattr(part, "__name__", "")))
    if isinstance(name, Path):
        return name.name
    net = part.model if name and Path(name).is_dir() else getattr(part, "net", None)
    return "" if part is None else name if net is None else files.fingerprint(net.state_dict())


dino_named = cache(Dino)


def demo(subjects: int = 8, work: Path = Path("runs/evidence"), **fields: Any) -> Bench:
    """The embedded model, held-out subjects of its world, its judges; ValueError for more subjects than there are."""
    if subjects > TUNED_ON * len(KINDS):
        raise ValueError(f"--subjects: at most {TUNED_ON * len(KINDS)}; settings are chosen on those after them")
    model = checkpoint.load(MODEL)
    base, shown = fingerprint(model), tuple(cases(subjects, KINDS))
    own = {"weights": work / "weights" / base, "read": judges.attributes(), "segmenter": judges.segments()}
    return Bench("demo", model, base, shown, evaluate.embedded(), work, **{**own, **fields})


def tuning_cases(count: int = 2) -> list[Case]:
    """Subjects to choose settings on: held out from the model's training, and beyond all that a run measures."""
    return [case_of(kind, TUNED_ON) for kind in KINDS[:count]]


def judge_identity(word: str) -> tuple[str, ...]:
    """The attributes that make up who or what a subject is, whatever its place and pose."""
    return ("kind", *(PERSON if word == "person" else [name for name in IDENTITY if name in VALUES]))


# --- real folders ----------------------------------------------------------------------------------------------------


def folders(
    references: Path, size: int, masks: Path | None = None, classes: Path | None = None, only: Sequence[str] = ()
) -> list[Case]:
    """Subjects in DreamBench's layout: a folder each, with photos; masks alike in a tree of their own.

    Args:
        classes: lines "folder,class"; without it `references`/prompts_and_classes.txt, and without that the folder's
            name without its number.
        only: names of folders; all by default.

    Raises:
        FileNotFoundError: no such folder, none with photos, or a folder that is named but not there.
    """
    if not references.is_dir():
        raise FileNotFoundError(f"references: no folder {references}; give one with a folder of photos per subject")
    there = sorted(
        p for p in references.iterdir() if p.is_dir() and any(f.suffix in photos.SUFFIXES for f in p.iterdir())
    )
    if missing := [name for name in only if name not in {p.name for p in there}]:
        raise FileNotFoundError(f"references: {references} has no folder with photos named {', '.join(missing)}")
    chosen = [p for p in there if not only or p.name in only]
    if not chosen:
        raise FileNotFoundError(f"references: no folder with photos in {references}; one per subject is needed")
    listed = classes or references / "prompts_and_classes.txt"
    words = read_classes(listed) if classes or listed.is_file() else {}
    return [_folder_case(p, words.get(p.name) or plain_name(p.name), size, masks) for p in chosen]


def _folder_case(folder: Path, word: str, size: int, masks: Path | None) -> Case:
    named = photos.read_folder(folder)
    found = photos.read_masks(masks / folder.name, [name for name, _ in named]) if masks else None
    (group,) = photos.prepare([picture for _, picture in named], size, "crop", found)
    return Case(folder.name, word, group.data, group.weight)


def read_classes(path: Path) -> dict[str, str]:
    """Folder -> class word, of lines "folder,class"; other lines are left out. FileNotFoundError without the file."""
    if not path.is_file():
        raise FileNotFoundError(f"classes: no file {path}; it has a line 'folder,class' per subject")
    pairs = [line.split(",") for line in path.read_text().splitlines() if line.count(",") == 1]
    return {folder.strip(): word.strip() for folder, word in pairs if folder.strip() != "subject_name"}


def plain_name(folder: str) -> str:
    """ "bear_plushie2" -> "bear plushie"."""
    return re.sub(r"[\d_-]+", " ", folder).strip()
