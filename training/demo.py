"""The headless main job on the embedded world: five photos in, a concept and a contact sheet out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..core import checkpoint
from ..core.demo import MODEL, sheet, world
from ..core.demo.judges import METRICS, Asked, Panel
from ..core.infusion import concept as concepts
from ..core.infusion.concept import Concept
from ..core.infusion.control import Infusion, Use
from ..core.infusion.sampling import draw
from . import infusion, loop
from .data import photos

PHOTOS = 5
PROMPTS = (
    Asked("a photo of a {} on the beach", "beach", "photo"),
    Asked("a photo of a {} in the snow", "snow", "photo"),
    Asked("a photo of a {} at night", "night", "photo"),
    Asked("a photo of a {} in the forest", "forest", "photo"),
    Asked("a painting of a {} in a meadow", "meadow", "painting"),
    Asked("a drawing of a {} in the desert", "desert", "drawing"),
)


@dataclass(frozen=True)
class Config:
    """Learn a subject of the demo world from five photos and put it into six scenes; no download.

    Args:
        out: picture to write.
        concept: concept file to write.
        kind: what the subject is, as in "cat" or "person".
        identity: which individual of that kind.
        columns: pictures a prompt, of each model, from seeds `seed`, `seed` + 1, ...
        seed: of the first column.
        steps: DDIM steps of a picture.
        guidance: classifier-free guidance weight.
        learn: what is learned, and how.
        threads: CPU threads; 0 leaves torch's choice.
    """

    out: Path = Path("demo.png")
    concept: Path = Path("demo.safetensors")
    kind: str = "cat"
    identity: int = 0
    columns: int = 2
    seed: int = 1001
    steps: int = 25
    guidance: float = 5.0
    learn: infusion.Learn = field(
        default_factory=lambda: infusion.Learn(snr=True, loop=loop.Settings(steps=300, lr=0.01, clip=0.0))
    )
    threads: int = 0


@dataclass(frozen=True)
class Outcome:
    """What the demo made.

    Attributes:
        means: model -> metric -> mean over all pictures.
        seconds: of each part.
    """

    concept: Concept
    file: Path
    means: dict[str, dict[str, float]]
    seconds: dict[str, float]


def run(config: Config, watch: Callable[[str, loop.Progress], None] | None = None) -> Outcome:
    """Train, save, draw the sheet, measure.

    Raises:
        ValueError: no columns, or an unknown kind.
    """
    if config.columns < 1:
        raise ValueError(f"columns is {config.columns}; at least 1")
    if config.threads:
        torch.set_num_threads(config.threads)
    started = time.perf_counter()
    subject = world.held_out_subjects(config.identity + 1, config.kind)[config.identity]
    shown = world.photos(subject, PHOTOS, style="photo", view="front", accessory=None)
    images, masks = torch.stack([p.image for p in shown]), torch.stack([p.mask for p in shown])
    model = checkpoint.load(MODEL)
    concept = _learn(config, model, images, subject.word, watch)
    concepts.save(config.concept, concept)
    learned = time.perf_counter()
    asked = [Asked(a.prompt.format(subject.word), a.background, a.style) for a in PROMPTS]
    drawn = [_draw(config, model, concept, a.prompt) for a in asked]
    _sheet(config, images, asked, drawn)
    finished = time.perf_counter()
    panel, every = Panel(), [a for a in asked for _ in range(config.columns)]
    means = {}
    for name, pictures in zip(("foundation", "Infusion"), zip(*drawn)):
        scores = panel.score(torch.cat(pictures), every, images, masks)
        means[name] = {metric: float(values.mean()) for metric, values in scores.items()}
    seconds = {"learning": learned - started, "drawing": finished - learned}
    return Outcome(concept, config.concept, means, seconds)


def _learn(config: Config, model: checkpoint.Checkpoint, images: Tensor, word: str, watch: Callable | None) -> Concept:
    groups = photos.encode(photos.prepare(list(images), images.shape[-1]), model.encode)
    prompt = model.text(f"a photo of a {word}", [word])
    training = infusion.Training(model.denoiser, prompt, groups, word, config.learn)
    return training.run(watch and (lambda progress: watch("infusion", progress)))


@torch.no_grad()
def _draw(config: Config, model: checkpoint.Checkpoint, concept: Concept, prompt: str) -> tuple[Tensor, Tensor]:
    """The foundation's pictures and the customised ones, each (columns, 3, H, W), from the same noise."""
    text, null = model.text(prompt, concept.words), model.text("")
    seeds = range(config.seed, config.seed + config.columns)
    noise = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(i)) for i in seeds])
    steps = model.denoiser.schedule.timesteps(config.steps)
    control = Infusion([Use(concept)])
    both = draw(model.denoiser, text, null, control, noise, steps, guidance=config.guidance)
    return model.decode(both[0]), model.decode(both[1])


def _sheet(config: Config, images: Tensor, asked: Sequence[Asked], drawn: Sequence[tuple[Tensor, Tensor]]) -> None:
    """References, foundation and Infusion side by side, a row a prompt."""
    blank = torch.ones_like(images[:1])
    references = [*images.split(1), *[blank] * (len(asked) - len(images))]
    rows = [(a.prompt, torch.cat([one, *both])) for a, one, both in zip(asked, references, drawn)]
    gaps = [""] * (config.columns - 1)
    sheet.contact_sheet(rows, config.out, ["five photos", "foundation", *gaps, "Infusion", *gaps])


def table(outcome: Outcome) -> str:
    """The metrics of both models, the size of the concept and the time, as text."""
    concept, width = outcome.concept, max(map(len, outcome.means))
    numbers = concept.parameters
    lines = [" " * width + "".join(f"{name:>12}" for name in METRICS)]
    for name, means in outcome.means.items():
        lines.append(f"{name:<{width}}" + "".join(f"{means[metric]:>12.3f}" for metric in METRICS))
    lines.append(
        f"concept: {numbers} numbers, {outcome.file.stat().st_size / 1024:.1f} KiB on disk ({outcome.file}); "
        f"learned in {outcome.seconds['learning']:.0f} s, drawn in {outcome.seconds['drawing']:.0f} s"
    )
    return "\n".join(lines)
