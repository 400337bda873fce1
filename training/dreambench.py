"""DreamBench's protocol (Ruiz et al. 2023; Toffee, section 4.1): `likeness evaluate dreambench --subjects DIR`.

Every subject is drawn from one of its pictures with every prompt, and measured against all of its pictures. Pictures
that are there already are not drawn again, so that a stopped run goes on, and pictures of any other method, put under
the same names, are measured alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import controlnet, diffusion, files
from ..core.denoiser import guided
from ..core.reach import Reach
from ..core.toffee import adapter as adapters
from ..core.toffee import tokens as described
from ..core.toffee.adapter import Injection
from ..core.toffee.drawing import prepared
from ..core.toffee.tokens import EMBEDDED
from . import evaluate
from .data import photos

PROMPTS, RESULT, SETTINGS = "prompts_and_classes.txt", "dreambench.json", "settings.json"
LIVE = ("cat", "dog")  # classes of DreamBench that its prompts for live subjects are for
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Config:
    """Draw and measure every subject of a folder in DreamBench's layout.

    Args:
        subjects: a folder of pictures for each subject; DreamBench's prompts_and_classes.txt beside or above them.
        out: folder to write: pictures as SUBJECT/PROMPT-NUMBER.png, numbers from 00, and dreambench.json.
        prompts: JSON instead of that file, {"subject": {"class": "dog", "prompts": ["a dog in the snow"]}}.
        adapter: a ToffeeNet; without one nothing is drawn, what lies in `out` is measured.
        model: folder in diffusers' layout, .safetensors checkpoint or hub name; the embedded model by default.
        controlnet: the depth ControlNet that it was trained with; it is shown a constant depth.
        describe: DINO that the ToffeeNet was trained with, folder or hub name; by default the one that its file names.
        images: of each subject and prompt (paper: 4).
        steps: of DDIM (paper: 100).
        guidance: over text and DINO at once (paper: 3).
        strength: of the subject.
        size: pixels.
        seed: of all noise.
        device: where it is drawn.
        clip, dino: what measures, see `likeness evaluate pictures`.
        segmenter: SAM 3, or a SAM or SAM 2 with `detector`: measures the subjects without surroundings too; demo for
            the embedded one.
        detector: Grounding DINO.
    """

    subjects: Path
    out: Path
    prompts: Path | None = None
    adapter: Path | None = None
    model: str | None = None
    controlnet: str | None = None
    describe: str | None = None
    images: int = 4
    steps: int = 100
    guidance: float = 3.0
    strength: float = 1.0
    size: int = 512
    seed: int = 0
    device: str = "cpu"
    clip: str = "openai/clip-vit-base-patch32"
    dino: str = "facebook/dino-vits16"
    segmenter: str | None = None
    detector: str | None = None


@dataclass(frozen=True)
class Subject:
    """One of the benchmark's.

    Args:
        name: its folder's.
        word: its class, as prompts call it.
        prompts: what is drawn.
        images: its pictures, (N, 3, S, S) in 0..1.
    """

    name: str
    word: str
    prompts: tuple[str, ...]
    images: Tensor


# --- reading ---------------------------------------------------------------------------------------------------------


def read(folder: Path, prompts: Path | None, size: int) -> list[Subject]:
    """All subjects, in the order of their names.

    Raises:
        FileNotFoundError: no such folder, no subject in it, or no prompts.
        ValueError: prompts that can't be read, or none for a subject.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"subjects: no folder {folder}")
    root = folder / "dataset" if (folder / "dataset").is_dir() else folder
    folders = sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not folders:
        raise FileNotFoundError(f"subjects: {root} has no folder of a subject")
    known = _asked(folder, prompts)
    if missing := [each.name for each in folders if each.name not in known]:
        raise ValueError(f"prompts: there are none for {', '.join(missing)}")
    found = []
    for each in folders:
        pictures = [photos.prepare([picture], size)[0].data[0] for _, picture in photos.read_folder(each)]
        word, lines = known[each.name]
        found.append(Subject(each.name, word, lines, torch.stack(pictures)))
    return found


def _asked(folder: Path, prompts: Path | None) -> dict[str, tuple[str, tuple[str, ...]]]:
    if prompts is not None:
        try:
            given = json.loads(prompts.read_text(encoding="utf-8"))
            return {name: (each["class"], tuple(map(str, each["prompts"]))) for name, each in given.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            wanted = '{"subject": {"class": "dog", "prompts": ["a dog in the snow"]}}'
            raise ValueError(f"prompts: {prompts.name} can't be read ({e}); write {wanted}") from e
    for file in (folder / PROMPTS, folder.parent / PROMPTS):
        if file.is_file():
            return parse(file.read_text(encoding="utf-8"))
    raise FileNotFoundError(
        f"prompts: no {PROMPTS} in {folder} or above it; copy DreamBench's, or give prompts as JSON"
    )


def parse(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """DreamBench's file: each subject's class and prompts, those for live subjects or those for objects.

    Raises:
        ValueError: a file of another kind.
    """
    classes = re.findall(r"^(\w+),([\w ]+?)\s*$", text, re.MULTILINE)
    lists = [re.findall(r"'([^']*\{1\}[^']*)'", part) for part in text.split("prompt_list")[1:]]
    if len(lists) != 2 or not all(lists) or not classes:
        raise ValueError(f"prompts: {PROMPTS} is not as DreamBench has it; give prompts as JSON")
    # the place of the rare word that other methods need stays empty
    objects, live = ([" ".join(p.replace("{0}", "").split()) for p in each] for each in lists)
    return {
        name: (word, tuple(p.replace("{1}", word) for p in (live if word in LIVE else objects)))
        for name, word in classes
        if name != "subject_name"
    }


# --- drawing ---------------------------------------------------------------------------------------------------------


Draw = Callable[[Subject, str, Tensor], Tensor]


def drawer(config: Config) -> tuple[Draw, Callable[[str, int], Tensor]]:
    """ToffeeNet: pictures (B, 3, S, S) of a subject from its first picture, a prompt and noise; and what makes noise.

    Raises:
        FileNotFoundError, ValueError: an adapter, model or DINO that can't be used.
    """
    from ..core import checkpoint
    from ..core.demo import MODEL, judges
    from ..core.vision.dino import Dino

    adapter = adapters.load(config.adapter)
    if adapter.model != "toffeenet":
        raise ValueError(f"adapter: {config.adapter.name} is a {adapter.model}; give a ToffeeNet")
    loaded = checkpoint.load(config.model or MODEL, device=config.device)
    adapter.check(loaded.denoiser.sites)
    adapter.check_inputs(loaded.denoiser.unet.config.in_channels)
    adapter.to(config.device).eval()
    name = config.describe or adapter.dino
    dino = Dino(judges.JUDGES / "dino" if name == EMBEDDED else name, device=config.device)
    network = controlnet.load(config.controlnet, loaded.denoiser.unet) if config.controlnet else None
    empty = torch.zeros(1, 3, config.size, config.size, device=config.device)
    model, carried = prepared(loaded, empty, network=network)
    schedule, steps = model.schedule, model.schedule.timesteps(config.steps)

    @torch.no_grad()
    def draw(subject: Subject, prompt: str, noise: Tensor) -> Tensor:
        seen = described.encode(dino, name, subject.images[:1].to(config.device)).tokens
        hooks = Injection(adapter, seen.to(config.device), len(schedule), Reach(config.strength)).hooks
        text, null = (carried(loaded.text(p, size=(config.size, config.size))) for p in (prompt, ""))
        predict = guided(model, text, null, config.guidance, hooks)
        start = noise.to(config.device) * (1 - schedule.alpha(steps[0])).sqrt().float()
        return loaded.decode(diffusion.sample(schedule, predict, start, steps)).clamp(0, 1).cpu()

    def noise(key: str, count: int) -> Tensor:
        shape = loaded.encode(empty).shape[1:]
        seeds = [int(files.fingerprint({f"{config.seed} {key} {i}": torch.zeros(1)})[:12], 16) for i in range(count)]
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    return draw, torch.no_grad()(noise)


def path_of(out: Path, subject: Subject, prompt: int, image: int) -> Path:
    """Where a picture lies."""
    return out / subject.name / f"{prompt:02}-{image:02}.png"


def draw_all(config: Config, subjects: Sequence[Subject], watch: Watch) -> None:
    """Draw what is missing; ValueError for a folder of pictures with other settings."""
    names = ("subjects", "out", "clip", "dino", "segmenter", "detector", "device")
    settings = {k: str(v) for k, v in asdict(config).items() if k not in names}
    settings["weights"] = files.fingerprint(adapters.load(config.adapter).state_dict())
    file, total = config.out / SETTINGS, len(subjects)
    if file.exists() and json.loads(file.read_text()) != settings:
        raise ValueError(f"out: {config.out} holds pictures of other settings; give the same ones or another folder")
    files.write_atomically(file, json.dumps(settings, indent=2).encode())
    draw, noise = drawer(config)
    for done, subject in enumerate(subjects):
        watch("draw", done, total)
        for number, prompt in enumerate(subject.prompts):
            paths = [path_of(config.out, subject, number, i) for i in range(config.images)]
            if all(path.exists() for path in paths):
                continue
            for path, picture in zip(paths, draw(subject, prompt, noise(f"{subject.name} {number}", config.images))):
                files.write_atomically(path, photos.png(picture))
    watch("draw", total, total)


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(config: Config, subjects: Sequence[Subject], watch: Watch) -> dict[str, Any]:
    """Means over all pictures, and over each subject's.

    Raises:
        FileNotFoundError: a picture is missing, which one the message says.
    """
    models = evaluate.models_of(evaluate.Config(config.out, config.subjects, None, config.clip, config.dino))
    segment, sums, each = _segmenter(config), {}, {}
    for done, subject in enumerate(subjects):
        watch("measure", done, len(subjects))
        pairs = [(n, i) for n in range(len(subject.prompts)) for i in range(config.images)]
        paths = [path_of(config.out, subject, *pair) for pair in pairs]
        if missing := [path for path in paths if not path.exists()]:
            raise FileNotFoundError(
                f"out: no {missing[0]}, and {len(missing) - 1} more of {len(paths)}; draw them first"
            )
        images = torch.stack([photos.decode(path.read_bytes()) for path in paths])
        prompts = [subject.prompts[n] for n, _ in pairs]
        own = replace(models, segment=None if segment is None else lambda side, w=subject.word: segment(side, w))
        scores = evaluate.score(own, images, subject.images, prompts).each
        scores = {name: values for name, values in scores.items() if not name.startswith("swd")}
        each[subject.name] = {name: float(values.mean()) for name, values in scores.items()}
        for name, values in scores.items():
            sums.setdefault(name, []).append(values)
    watch("measure", len(subjects), len(subjects))
    return {"means": {name: float(torch.cat(values).mean()) for name, values in sums.items()}, "subjects": each}


def _segmenter(config: Config) -> Callable[[Tensor, str], Tensor] | None:
    """Pictures and a word to masks, as Toffee's segmented metrics take them."""
    if config.segmenter is None:
        return None
    if config.segmenter == evaluate.DEMO:
        return lambda images, word: evaluate.embedded().segment(images)
    from ..core.vision.grounding import GroundingDino
    from .data.retribooru.models import segmenter_of

    where = {"device": config.device}
    detector = GroundingDino(config.detector, **where) if config.detector else None
    segmenter = segmenter_of(config.segmenter, detector, where)
    return lambda images, word: torch.cat([segmenter.segment(image, word) for image in images.split(1)])


def run(config: Config, watch: Watch = lambda stage, done, total: None) -> Mapping[str, Any]:
    """Draw, measure, write dreambench.json; errors as the parts have them."""
    subjects = read(config.subjects, config.prompts, config.size)
    if config.adapter is not None:
        draw_all(config, subjects, watch)
    found = measure(config, subjects, watch)
    files.write_atomically(config.out / RESULT, (json.dumps(found, indent=2) + "\n").encode())
    return found
