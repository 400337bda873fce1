"""RetriNet's training headless: `likeness train retrinet`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import files, weights
from ..core.denoiser import Conditioning
from ..core.retrinet import network as retrinet
from ..core.retrinet.network import RetriNet
from ..core.text import KEPT
from . import loop
from .data import identities
from .data.identities import Bank
from .processes import accelerated, finished
from .retrinet import Learn, Training


@dataclass(frozen=True)
class Config:
    """Train a RetriNet.

    Args:
        out: file to write.
        records: shards or folders of identities (see `likeness build retribooru`); people of the demo world without.
        model: folder in diffusers' layout, .safetensors checkpoint or hub name; the embedded model by default.
        init: a RetriNet to go on from.
        people, shots: of the demo world.
        style: of the demo world's pictures; all of them by turns without.
        keep_latents: keep all latents in memory.
        checkpoint: file to save to and resume from; beside `out` by default.
        threads: CPU threads.
        learn: what is learned, and how.
    """

    out: Path = Path("retrinet.safetensors")
    records: Path | None = None
    model: str | None = None
    init: Path | None = None
    people: int = 1500
    shots: int = 5
    style: str | None = None
    keep_latents: bool = True
    checkpoint: Path | None = None
    threads: int = 2
    learn: Learn = field(default_factory=Learn)


def begun(network: RetriNet, denoiser: Any, learn: Learn) -> RetriNet:
    """A network that a training goes on from.

    Raises:
        ValueError: one of another family of models, or of other settings than are asked for.
    """
    layers = weights.layers_of(denoiser.unet, weights.DECODER)
    network.check(denoiser.sites, denoiser.skips, layers)
    if network.delta is None and learn.lock == "none":
        raise ValueError(
            "init: its decoder was locked, so it has no differences to train on; lock the decoder here too"
        )
    if learn.levels is not None and set(learn.levels) != set(network.levels):
        raise ValueError(f"levels: init has {', '.join(network.levels)}; leave levels out to go on with them")
    like = network.delta and weights.blank(layers, learn.rank).whole()
    if like and {k: t.shape for k, t in like.items()} != {k: t.shape for k, t in network.delta.whole().items()}:
        raise ValueError(f"rank: init's decoder differences are of another rank than {learn.rank}; give init's own")
    return network


def train(config: Config, watch: Callable[[str, loop.Progress], None] | None = None) -> Path:
    """Train headless and write the RetriNet, also when it is stopped; on Accelerate's device and processes.

    Raises:
        FileNotFoundError, ValueError: records or a model that can't be used.
    """
    from ..core import checkpoint
    from ..core.demo import MODEL
    from .data import records

    torch.set_num_threads(config.threads)
    torch.manual_seed(config.learn.loop.seed)
    learn = config.learn
    with accelerated() as accelerator:
        model = checkpoint.load(config.model or MODEL, device=str(accelerator.device))
        if config.records is None:
            seed = learn.loop.seed
            people = identities.rendered(config.people, config.shots, seed, size=learn.size, style=config.style)
        else:
            people = identities.from_records(records.read(config.records, leave=True), learn.size)
        if learn.save_memory:
            model.denoiser.save_memory()
        base = files.fingerprint(model.denoiser.unet.state_dict())
        if config.init:
            network = begun(retrinet.load(config.init), model.denoiser, learn)
        else:
            network = retrinet.blank(model.denoiser, learn.rank, learn.levels, base)
        network.to(accelerator.device)
        bank = Bank(people, model.encode, learn.size, config.keep_latents)
        start = files.fingerprint(network.state_dict())
        source = f"{base} {start} {config.records or (config.people, config.shots, config.style)}"
        file = config.checkpoint or config.out.with_suffix(".checkpoint")

        @lru_cache(KEPT)
        def text(prompt: str) -> Conditioning:
            return model.text(prompt, size=(learn.size, learn.size))

        def extra(word: str) -> Mapping[str, Tensor]:
            return text(word).extra.get("added_cond_kwargs", {})

        training = Training(model.denoiser, network, text, bank, learn, file, accelerator, source=source, extra=extra)
        with finished(training, accelerator, lambda network: retrinet.save(config.out, network)):
            training.run(watch and (lambda progress: watch("retrinet", progress)))
        if accelerator.is_main_process:
            file.unlink(missing_ok=True)
    return config.out
