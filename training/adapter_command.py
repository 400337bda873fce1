"""What the commands of Toffee's three trainings have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from ..core import files
from ..core.controlnet import load as load_controlnet
from ..core.diffusers import DiffusersDenoiser
from ..core.toffee import adapter as adapters
from ..core.toffee.adapter import Adapter
from ..core.toffee.tokens import EMBEDDED, same
from . import loop
from .data.examples import Load
from .dino_adapter import Bank, Learn, Training, begin, source_of
from .processes import accelerated, finished


@dataclass(frozen=True)
class Config:
    """What the three commands have in common.

    Args:
        out: file to write.
        model: folder in diffusers' layout, .safetensors checkpoint or hub name; the embedded model by default.
        dino: DINO by folder or hub name; the embedded judge by default.
        init: an adapter to go on from.
        pictures: examples drawn from the demo world where none are given.
        size: pixels.
        keep_encoded: keep all latents and tokens in memory.
        checkpoint: file to save to and resume from; beside `out` by default.
        threads: CPU threads.
        learn: what is learned, and how.
    """

    out: Path
    model: str | None = None
    dino: str | None = None
    init: Path | None = None
    pictures: int = 4000
    size: int = 128
    keep_encoded: bool = True
    checkpoint: Path | None = None
    threads: int = 2
    learn: Learn = field(default_factory=Learn)


def run(
    model: str,
    config: Config,
    loads: Sequence[Load],
    watch: Callable[[str, loop.Progress], None] | None = None,
    controlnet: str | Path | None = None,
    told: bool = False,
) -> Path:
    """Train one of the three models headless and write it, also when it is stopped.

    Args:
        model: one of `core.toffee.adapter.MODELS`.
        controlnet: a depth ControlNet: Control-LoRA (.safetensors), folder or hub name.
        told: whether it learns with prompts where others of its kind do without.

    Raises:
        FileNotFoundError, ValueError: a model or examples that can't be used.
    """
    from ..core import checkpoint
    from ..core.demo import MODEL, judges
    from ..core.toffee.inpainting import widened
    from ..core.vision.dino import Dino

    torch.set_num_threads(config.threads)
    torch.manual_seed(config.learn.loop.seed)
    with accelerated() as accelerator:
        loaded = checkpoint.load(config.model or MODEL, device=str(accelerator.device))
        denoiser, source = loaded.denoiser, source_of(loaded.denoiser)
        if model == "toffeenet":
            denoiser = DiffusersDenoiser(widened(denoiser.unet), denoiser.schedule)
        if config.learn.save_memory:
            denoiser.save_memory()
        name = config.dino or judges.JUDGES / "dino"
        dino = Dino(name, device=accelerator.device)
        adapter = begin(model, denoiser, dino.model.config.hidden_size, config.learn, config.dino or EMBEDDED, source)
        if config.init:
            adapter = begun(adapters.load(config.init), adapter)
        adapter.check_inputs(channels := loaded.denoiser.unet.config.in_channels)
        adapter.settings |= {"inputs": channels, **({"told": True} if told else {})}
        adapter.to(accelerator.device)
        start = files.fingerprint(adapter.state_dict())
        network = None
        if controlnet is not None:
            network = load_controlnet(controlnet, loaded.denoiser.unet)
        bank = Bank(loads, loaded.encode, dino.tokens, model == "toffeenet", config.keep_encoded)
        file = config.checkpoint or config.out.with_suffix(".checkpoint")
        identity = f"{source} {start} {len(loads)} {data_of(config)}"
        text = partial(loaded.text, size=(config.size, config.size))
        training = Training(denoiser, adapter, text, bank, config.learn, network, file, accelerator, source=identity)
        with finished(training, accelerator, lambda learned: adapters.save(config.out, learned)):
            training.run(watch and (lambda progress: watch(model, progress)))
        if accelerator.is_main_process:
            file.unlink(missing_ok=True)
    return config.out


def begun(adapter: Adapter, like: Adapter) -> Adapter:
    """An adapter that a training goes on from.

    Args:
        like: what the training would begin with.

    Raises:
        ValueError: another model of the three, family or DINO, or other parts than are to be learned.
    """
    if adapter.model != like.model:
        raise ValueError(f"init: it is a {adapter.model}; give a {like.model}")
    if not same(adapter.dino, like.dino):
        raise ValueError(f"init: it was trained with the DINO {adapter.dino}; give that one, not {like.dino}")
    own, wanted = ({k: t.shape for k, t in each.state_dict().items()} for each in (adapter, like))
    if own != wanted:
        odd = sorted(set(own.items()) ^ set(wanted.items()))[0][0]
        raise ValueError(
            f"init: its {odd} is not as this training would begin with; give the model, learn.what and learn.rank that "
            "it was trained with"
        )
    return adapter


def data_of(config: Config) -> str:
    """What a training learns from, so that a checkpoint of other data is refused."""
    other = ("out", "init", "keep_encoded", "checkpoint", "threads", "learn")
    return repr({name: str(value) for name, value in vars(config).items() if name not in other})
