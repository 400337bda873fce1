"""What the trainings of Toffee's three models share: a U-Net that learns to draw from DINO tokens (Toffee, section 2).

Everything is differences to the frozen U-Net; whole ones, as the paper fine-tunes whole networks, or of a low rank.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core import files, weights
from ..core.controlnet import Controlled
from ..core.diffusers import DiffusersDenoiser, Text
from ..core.text import KEPT
from ..core.toffee import adapter as adapters
from ..core.toffee.adapter import Adapter, Injection
from ..core.toffee.drawing import constant
from ..core.toffee.inpainting import CHANNELS, masked_channels
from . import loop, sharding
from .data.examples import Example, Load
from .data.photos import weighted_mean
from .weighting import snr_weight

Watch = Callable[[loop.Progress], None]
WHAT = ("whole", "low-rank", "adapter")


@dataclass(frozen=True)
class Learn:
    """What is learned, and how.

    Args:
        what: "whole" fine-tunes the whole U-Net beside the adapter (paper); "low-rank" learns differences of a low
            rank, "adapter" none **[ours]**.
        rank: of those differences.
        drop_text, drop_dino: share of pictures whose text or tokens are dropped.
        together: drop both or none, instead of each by itself.
        reconstruct: p, share of pictures whose subject is the target itself (Toffee, Table 3).
        constant_depth: share of pictures whose depth says nothing.
        figure_weight: of a second term, the loss where the target's subject is **[ours]**; 0 is the paper's loss.
        snr: weight the loss by the signal-to-noise ratio, as the embedded model was trained **[ours]**.
        batch: pictures a step.
        save_memory: recompute activations in the backward pass instead of keeping them.
        loop: steps and rates (paper: AdamW, 2e-5).
    """

    what: str = "whole"
    rank: int = 16
    drop_text: float = 0.1
    drop_dino: float = 0.1
    together: bool = False
    reconstruct: float = 0.0
    constant_depth: float = 0.5
    figure_weight: float = 0.0
    snr: bool = False
    batch: int = 64
    save_memory: bool = False
    loop: loop.Settings = field(default_factory=lambda: loop.Settings(steps=100_000, lr=2e-5, warmup=500, ema=0.9999))

    def __post_init__(self):
        if self.what not in WHAT:
            raise ValueError(f"what is {self.what!r}; choose {', '.join(WHAT)}")
        shares = (self.drop_text, self.drop_dino, self.reconstruct, self.constant_depth)
        if not all(0 <= share <= 1 for share in shares) or self.batch < 1:
            raise ValueError("shares must lie within 0..1 and batch must be at least 1")
        if self.figure_weight < 0:
            raise ValueError(f"figure_weight is {self.figure_weight}; it must be at least 0")


@dataclass(frozen=True)
class Encoded:
    """An example as the network sees it: tokens (1 + N, D) of subject and target, latents, mask and masked latent.

    The figure is the target's subject at the latents' size, (1, h, w).
    """

    subject: Tensor
    target: Tensor
    latents: Tensor
    channels: Tensor | None
    depth: Tensor | None
    prompt: str
    figure: Tensor | None = None


class Bank:
    """Examples, encoded when they are first needed and kept.

    Args:
        loads: see `data.examples`.
        encode: pictures (B, 3, H, W) in 0..1 to latents in the model's scale.
        dino: pictures to tokens (B, 1 + N, D).
        wide: whether the U-Net has nine input channels.
        keep: whether what was encoded is kept.
    """

    def __init__(
        self,
        loads: Sequence[Load],
        encode: Callable[[Tensor], Tensor],
        dino: Callable[[Tensor], Tensor],
        wide: bool,
        keep: bool = True,
    ):
        self.loads, self.encode, self.dino, self.wide, self.keep = loads, encode, dino, wide, keep
        self._known: dict[int, Encoded] = {}

    def __len__(self) -> int:
        return len(self.loads)

    def __getitem__(self, index: int) -> Encoded:
        if index in self._known:
            return self._known[index]
        found = self._encoded(self.loads[index]())
        if self.keep:
            self._known[index] = found
        return found

    def _encoded(self, example: Example) -> Encoded:
        target = example.target[None]
        same = example.subject is example.target
        tokens = self.dino(target if same else torch.stack([example.subject, example.target])).cpu()
        channels = None
        if self.wide:
            # generating is drawing everywhere, from black (Toffee, section 2.2)
            mask = torch.ones_like(target[:, :1]) if example.mask is None else example.mask[None]
            channels = masked_channels(target, mask, self.encode)[0].cpu()
        latents = self.encode(target)[0].cpu()
        figure = None if example.figure is None else F.adaptive_avg_pool2d(example.figure, latents.shape[-2:])
        return Encoded(tokens[0], tokens[-1], latents, channels, example.depth, example.prompt, figure)


class Training:
    """An adapter being trained.

    Args:
        denoiser: the frozen model; of nine channels for ToffeeNet.
        adapter: what is trained, on the model's device; see `begin`.
        text: a prompt to its conditioning; "" is the null text.
        bank: examples.
        learn: see `Learn`.
        controlnet: for depth, frozen; None trains without **[a frozen one is ours]**.
        checkpoint, accelerator: see `loop.Trainer`.
        source: names model and examples, so that the checkpoint of others is refused.
    """

    def __init__(
        self,
        denoiser: DiffusersDenoiser,
        adapter: Adapter,
        text: Callable[[str], Text],
        bank: Bank,
        learn: Learn,
        controlnet: Any = None,
        checkpoint: Path | None = None,
        accelerator: Any = None,
        source: str = "",
    ):
        if not len(bank):
            raise ValueError("pictures: there is nothing to learn from")
        self.denoiser, self.adapter, self.bank, self.learn = denoiser, adapter, bank, learn
        self.controlnet, self.text = controlnet, lru_cache(KEPT)(text)
        self.device = next(adapter.parameters()).device
        self._weight = snr_weight(denoiser.schedule) if learn.snr else torch.ones(len(denoiser.schedule))
        settings = {k: v for k, v in vars(learn).items() if k not in ("loop", "save_memory")}
        adapter.requires_grad_(True)
        parameters = dict(adapter.named_parameters())
        # a sharded adapter can't be copied
        self._like = copy.deepcopy(adapter).cpu() if sharding.asked(accelerator) else adapter
        self.trainer = loop.Trainer(
            parameters, self._loss, learn.loop, checkpoint, f"{source} {settings}", accelerator, module=adapter
        )

    def run(self, watch: Watch | None = None, until: int | None = None) -> Adapter:
        """Train to the end, or until so many steps; what the watcher raises stops it, checkpointed."""
        self.trainer.run(watch, until)
        return self.learned()

    @torch.no_grad()
    def learned(self) -> Adapter:
        """A copy of the adapter with the averaged weights, for use; every process of a sharded run has to ask."""
        adapter = copy.deepcopy(self._like)
        own = dict(adapter.named_parameters())
        for name, tensor in self.trainer.weights().items():
            own[name].copy_(tensor)
        s = self.learn
        adapter.settings |= {"steps": self.trainer.step, "lr": s.loop.lr, "batch": s.batch, "seed": s.loop.seed}
        adapter.settings |= {"what": s.what, "reconstruct": s.reconstruct}
        return adapter.eval().requires_grad_(False)

    def _loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Toffee, Eqs. 1 and 4, and ToffeeNet's: the noise's error, conditions dropped at random."""
        s, schedule = self.learn, self.denoiser.schedule
        chosen = torch.randint(len(self.bank), (s.batch,), generator=generator).tolist()
        examples = [self.bank[i] for i in chosen]
        chances = torch.rand(4, s.batch, generator=generator)
        no_text = chances[0] < s.drop_text
        no_dino = no_text if s.together else chances[1] < s.drop_dino
        itself, flat = chances[2] < s.reconstruct, chances[3] < s.constant_depth
        tokens = torch.stack([e.target if own else e.subject for e, own in zip(examples, itself)])
        tokens = tokens * ~no_dino[:, None, None]
        prompts = [self.text("" if drop else e.prompt) for e, drop in zip(examples, no_text)]
        z0 = torch.stack([e.latents for e in examples])
        t, eps = schedule.stratified(s.batch, generator), torch.randn(z0.shape, generator=generator)
        z, wanted = (x.to(self.device) for x in (schedule.noise(z0, eps, t), schedule.target(z0, eps, t)))
        channels = None
        if self.bank.wide:
            channels = torch.stack([e.channels for e in examples]).to(self.device)
        text = Text(torch.cat([p.tokens for p in prompts]).to(self.device), extra=_stacked(prompts), channels=channels)
        hooks = Injection(self.adapter, tokens.to(self.device), len(schedule)).hooks
        answer = self._model(examples, flat, z0)(z, t.to(self.device), text, hooks=hooks)[0]
        wrong = (answer.float() - wanted).square() * self._weight[t].to(self.device).reshape(-1, 1, 1, 1)
        return wrong.mean() + (s.figure_weight * self._within(wrong, examples) if s.figure_weight else 0)

    def _within(self, wrong: Tensor, examples: Sequence[Encoded]) -> Tensor | float:
        """The error where the subjects are; 0 where none is left in the pictures **[ours]**."""
        if any(e.figure is None for e in examples):
            raise ValueError("figure_weight: a picture has no mask of its subject; give one to each, or 0 for this")
        figures = torch.stack([e.figure for e in examples])
        return weighted_mean(wrong, figures) if bool(figures.any()) else 0.0

    def _model(self, examples: Sequence[Encoded], flat: Tensor, like: Tensor) -> Any:
        """The model, under its ControlNet if there is one."""
        if self.controlnet is None:
            return self.denoiser
        size = [8 * side for side in like.shape[-2:]]
        hints = [constant(size) if dull or e.depth is None else e.depth for e, dull in zip(examples, flat)]
        hint = F.interpolate(torch.stack(hints), size, mode="bilinear").expand(-1, 3, -1, -1)
        return Controlled(self.denoiser, self.controlnet, hint.to(self.device))


def _stacked(prompts: Sequence[Text]) -> dict[str, Any]:
    """What SDXL wants besides, one row a picture."""
    added = [p.extra["added_cond_kwargs"] for p in prompts if "added_cond_kwargs" in p.extra]
    return {"added_cond_kwargs": {k: torch.cat([a[k] for a in added]) for k in added[0]}} if added else {}


def begin(model: str, denoiser: DiffusersDenoiser, width: int, learn: Learn, dino: str, source: str) -> Adapter:
    """A blank adapter for a training; ValueError for a ToffeeNet on a U-Net without nine channels."""
    if model == "toffeenet" and denoiser.unet.config.in_channels != CHANNELS:
        raise ValueError("model: ToffeeNet is trained on a U-Net of nine channels; see core.toffee.inpainting.widened")
    layers, delta = weights.layers_of(denoiser.unet), None
    if learn.what != "adapter":
        delta = weights.blank(layers, learn.rank if learn.what == "low-rank" else None)
    elif model == "toffeenet":
        delta = weights.blank({"conv_in": layers["conv_in"]})  # without it the mask is never seen
    return adapters.blank(model, denoiser.sites, width, delta, dino=dino, source=source)


def source_of(denoiser: DiffusersDenoiser) -> str:
    """The hash of a U-Net's weights, for headers and checkpoints."""
    return files.fingerprint(denoiser.unet.state_dict())
