"""Pictures with what was learned: `likeness draw --learned FILE`; the file says which method it is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..core import controlnet, files, weights
from ..core.checkpoint import Checkpoint
from ..core.demo import sheet
from ..core.demo.sheet import Way
from ..core.denoiser import Denoiser, Hooks, guided
from ..core.diffusers import Text
from ..core.diffusion import sample
from ..core.hifi import subject
from ..core.hifi.subject import SubjectText, carry
from ..core.infusion import concept
from ..core.infusion import sampling as infusion
from ..core.infusion.control import Infusion, Use
from ..core.reach import Reach
from ..core.retrinet import network as retrinet
from ..core.retrinet.control import Retrieval
from ..core.retrinet.reference import References, cut_out
from ..core.toffee import adapter as adapters
from ..core.toffee import tokens as described
from ..core.toffee.adapter import Injection
from ..core.toffee.drawing import prepared
from ..core.toffee.tokens import EMBEDDED
from .data import photos


@dataclass(frozen=True)
class Config(sheet.Config):
    """Draw prompts as a contact sheet, with what was learned or without; on the embedded model by default.

    Args:
        learned: file of a concept (Infusion), a subject (HiFi Tuner), a RetriNet or a DINO adapter (Toffee).
        references: picture files that a RetriNet draws from, or the one that an adapter does.
        masks: where each reference shows it, in the same order; everywhere without.
        shows: what each reference shows, face, clothes, figure or other words; figure without.
        strength: of what was learned; 0 is the untouched model.
        controlnet: depth ControlNet that a ToffeeNet was trained with; it is shown one grey.
        dino: that the adapter was trained with, folder or hub name; by default the one that its file names.
    """

    learned: Path | None = None
    references: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    shows: tuple[str, ...] = ()
    strength: float = 1.0
    controlnet: str | None = None
    dino: str | None = None


def draw(config: Config) -> list[sheet.Row]:
    """Draw all rows and write the sheet.

    Raises:
        FileNotFoundError, ValueError: files that can't be used, of another model, or not as many as are wanted.
    """
    if config.learned is None:
        if config.references:
            raise ValueError("references: nothing reads them; give a RetriNet or a DINO adapter as learned")
        return sheet.draw(config)
    kind = files.peek(config.learned).kind
    if kind not in KINDS:
        raise ValueError(f"learned: {config.learned.name} is a {kind}; give a {', a '.join(KINDS)}")
    if config.references and kind in (concept.KIND, subject.KIND):
        raise ValueError(f"references: the {kind} in {config.learned.name} knows its subject; give none")
    return sheet.draw(config, partial(KINDS[kind], config))


# --- methods ---------------------------------------------------------------------------------------------------------


def _concept(config: Config, model: Checkpoint) -> Way:
    learned, denoiser = concept.load(config.learned), model.denoiser
    learned.check(denoiser.sites)
    control = Infusion([Use(learned, config.strength)], len(denoiser.schedule))
    steps = denoiser.schedule.timesteps(config.steps)

    @torch.no_grad()
    def way(prompt: str, noise: Tensor) -> Tensor:
        text, null = _read(config, model, prompt, learned.words), _read(config, model, "")
        both = infusion.draw(denoiser, text, null, control, noise, steps, guidance=config.guidance)
        return model.decode(both[1])

    return way


def _subject(config: Config, model: Checkpoint) -> Way:
    learned, tokenize = subject.load(config.learned), model.text.tokenize
    learned.check(model.denoiser.sites)

    def read(prompt: str) -> Text:
        text = _read(config, model, prompt)
        return carry(text, prompt, tokenize, learned) if prompt else text

    return _way(config, model, model.denoiser, SubjectText(learned, config.strength).hooks, read)


def _retrinet(config: Config, model: Checkpoint) -> Way:
    network, denoiser = retrinet.load(config.learned).eval().requires_grad_(False), model.denoiser
    network.check(denoiser.sites, denoiser.skips, weights.layers_of(denoiser.unet, weights.DECODER))
    pictures, masks = _references(config)
    shows = config.shows or ("figure",) * len(pictures)
    if len(shows) != len(pictures):
        raise ValueError(f"shows: {len(shows)} for {len(pictures)} references; give one for each, or none")
    size = network.settings.get("size", config.size)  # that it has learned to read
    cut = [cut_out(picture, mask, size) for picture, mask in zip(pictures, masks)]
    texts = [model.text(word, (), (size, size)) for word in shows]
    extra = [text.extra.get("added_cond_kwargs", {}) for text in texts]
    references = References(
        model.encode(torch.stack([picture for picture, _ in cut])),
        torch.cat([text.tokens for text in texts]),
        torch.cat([mask for _, mask in cut]),
        {name: torch.cat([each[name] for each in extra]) for name in extra[0]},
    )
    control = Retrieval(network, references, len(denoiser.schedule), Reach(config.strength))
    return _way(config, model, denoiser, control.hooks, partial(_read, config, model))


def _adapter(config: Config, model: Checkpoint) -> Way:
    from ..core.demo import judges
    from ..core.vision.dino import Dino

    adapter, base = adapters.load(config.learned).eval(), model.denoiser
    adapter.check(base.sites)
    adapter.check_inputs(base.unet.config.in_channels)
    pictures, masks = _references(config)
    if len(pictures) > 1:
        raise ValueError(f"references: a {adapter.model} draws from one picture; {len(pictures)} are given")
    name = config.dino or adapter.dino
    dino = Dino(judges.JUDGES / "dino" if name == EMBEDDED else name)
    seen = described.encode(dino, name, pictures[0][None], masks[0][None] if config.masks else None).tokens
    hooks = Injection(adapter, seen, len(base.schedule), Reach(config.strength)).hooks
    if adapter.model != "toffeenet":
        return _way(config, model, base, hooks, partial(_read, config, model))
    network = controlnet.load(config.controlnet, base.unet) if config.controlnet else None
    denoiser, carried = prepared(model, torch.zeros(1, 3, config.size, config.size), network=network)
    return _way(config, model, denoiser, hooks, lambda prompt: carried(_read(config, model, prompt)))


KINDS = {concept.KIND: _concept, subject.KIND: _subject, retrinet.KIND: _retrinet, adapters.KIND: _adapter}


# --- parts -----------------------------------------------------------------------------------------------------------


def _read(config: Config, model: Checkpoint, prompt: str, words: tuple[str, ...] = ()) -> Text:
    return model.text(prompt, words, (config.size, config.size))


def _way(config: Config, model: Checkpoint, denoiser: Denoiser, hooks: Hooks, read: Callable[[str], Text]) -> Way:
    schedule = denoiser.schedule

    @torch.no_grad()
    def way(prompt: str, noise: Tensor) -> Tensor:
        predict = guided(denoiser, read(prompt), read(""), config.guidance, hooks)
        return model.decode(sample(schedule, predict, noise, schedule.timesteps(config.steps)))

    return way


def _references(config: Config) -> tuple[list[Tensor], list[Tensor]]:
    """Pictures (3, H, W) and masks (1, H, W), each of its own size."""
    if not config.references:
        raise ValueError(f"references: {config.learned.name} draws from pictures; give their files")
    if config.masks and len(config.masks) != len(config.references):
        raise ValueError(f"masks: {len(config.masks)} for {len(config.references)} references; give as many, or none")
    pictures = [_picture("references", path, "white") for path in config.references]
    masks = [_picture("masks", path, "black")[:1] for path in config.masks] or [
        torch.ones_like(p[:1]) for p in pictures
    ]
    return pictures, masks


def _picture(name: str, path: Path, under: str) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no file {path}")
    try:
        return photos.decode(path.read_bytes(), under)
    except ValueError as e:
        raise ValueError(f"{name}: {path.name} can't be read ({e}); replace it") from e
