"""One loop for everything that is trained here: accumulation, averaging, checkpoints, cancel, progress.

Every loss draws its randomness from a generator seeded by (seed, step, number in the step), so a resumed run repeats an
unbroken one bit for bit without storing the generator, and two processes do what one does with twice the accumulation.

Headless, devices, precision and processes are Accelerate's; inside ComfyUI no accelerator is given.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import files
from . import sharding

CHECKPOINT = "training-checkpoint"
Loss = Callable[[int, torch.Generator], Tensor]


class Cancelled(Exception):
    """Raised by a watcher to stop; what was learned is checkpointed first."""


@dataclass(frozen=True)
class Settings:
    """How long and how fast.

    Args:
        steps: optimiser steps.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up.
        decay: fraction of the run, at its end, over which the rate falls to zero along a cosine; 0 keeps it constant.
        weight_decay: AdamW's.
        accumulation: loss evaluations per step.
        clip: largest gradient norm; 0 leaves gradients alone.
        ema: decay of the averaged weights; 0 keeps none.
        seed: of all randomness.
        every: steps between checkpoints.
    """

    steps: int = 1000
    lr: float = 1e-3
    warmup: int = 0
    decay: float = 0.0
    weight_decay: float = 0.0
    accumulation: int = 1
    clip: float = 1.0
    ema: float = 0.0
    seed: int = 0
    every: int = 500

    def identity(self) -> str:
        """Everything that a resumed run must share; its length may change, and how often it saves."""
        return repr({k: v for k, v in asdict(self).items() if k not in ("steps", "every")})

    def rate(self, step: int) -> float:
        """Learning rate at a step (0-based)."""
        rate = self.lr * min(1.0, (step + 1) / max(1, self.warmup))
        tail = self.steps * self.decay
        if tail and step > self.steps - tail:
            rate *= 0.5 + 0.5 * math.cos(math.pi * (step - self.steps + tail) / tail)
        return rate


@dataclass(frozen=True)
class Progress:
    """What a watcher hears after each step."""

    step: int
    steps: int
    loss: float
    seconds: float


class Trainer:
    """Parameters being trained, with their optimiser and their running average.

    Args:
        parameters: name -> parameter; the names key the checkpoint.
        loss: `(step, generator) -> scalar`; called `accumulation` times a step in every process.
        settings: see `Settings`.
        checkpoint: file to save to and to resume from; None keeps nothing.
        identity: names everything else that the run depends on (data, start); a checkpoint of another one is refused.
        accelerator: an `accelerate.Accelerator`; the parameters are on its device already. Gradients are averaged over
            its processes, the first of which saves and is watched.
        scale: multiplies the loss on its way back, so that gradients survive half precision; halved when they overflow.
        module: whose named parameters these are; needed where they are spread over processes, see `sharding`.
        blocks: see `sharding.shard`.

    Attributes:
        sharded: whether each process has only its part of the parameters.
        step: steps done.
        recent: running mean of the loss over about 50 steps.
        losses: of every step so far.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        loss: Loss,
        settings: Settings,
        checkpoint: Path | None = None,
        identity: str = "",
        accelerator: Any = None,
        scale: float = 1.0,
        module: nn.Module | None = None,
        blocks: Sequence[nn.Module] = (),
    ):
        self.parameters, self.loss, self.settings, self.checkpoint = dict(parameters), loss, settings, None
        self.identity = hashlib.sha256(f"{identity} {settings.identity()}".encode()).hexdigest()[:16]
        self.accelerator, self.sharded = accelerator, module is not None and sharding.asked(accelerator)
        if self.sharded:
            self.loss, parts = sharding.shard(module, blocks, loss, accelerator), dict(module.named_parameters())
            self.parameters = {name: parts[name] for name in self.parameters}
        self.optimiser = torch.optim.AdamW(self.parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        if accelerator is not None and not self.sharded:
            self.optimiser = accelerator.prepare(self.optimiser)
        self.average = {k: p.detach().clone() for k, p in self.parameters.items()} if settings.ema else {}
        self.step, self.recent, self.scale = 0, math.nan, scale
        self.losses: list[float] = []
        self._whole, self._saved = True, -1
        if checkpoint is not None:
            self.keep(checkpoint)

    def keep(self, checkpoint: Path) -> None:
        """Save to this file from now on, and go on from it if it is there."""
        self.checkpoint = checkpoint
        if checkpoint.exists():
            self._resume()

    def run(self, watch: Callable[[Progress], None] | None = None, until: int | None = None) -> dict[str, Tensor]:
        """Train to the end, or until so many steps are done.

        Args:
            watch: called after every step; raising (Cancelled, ComfyUI's interrupt) checkpoints and re-raises, so
                nothing learned is lost.

        Returns:
            The averaged weights where an average is kept, else the weights.

        Raises:
            FloatingPointError: the loss is no longer a number; the weights before that step are checkpointed.
        """
        started = time.monotonic()
        last = self.settings.steps if until is None else min(until, self.settings.steps)
        try:
            while self.step < last:
                value = self._one_step()
                self.losses.append(value)
                self.recent = value if math.isnan(self.recent) else 0.98 * self.recent + 0.02 * value
                if self.step % self.settings.every == 0:
                    self.save()
                if watch and self._first:
                    watch(Progress(self.step, self.settings.steps, value, time.monotonic() - started))
        except BaseException:
            # stopped in the middle of an update the weights are neither this step's nor the last one's; and a sharded
            # run's other processes may be elsewhere, so that its last checkpoint stands
            if self._whole and not self.sharded:
                self.save()
            raise
        self.save()
        return self.weights()

    def probe(self) -> tuple[float, int]:
        """Seconds of a step, and bytes that a loss keeps for its way back (activations and the weights they meet).

        By trying both; nothing is learned from it.
        """
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), self._precision():
            self.loss(self.step, self.generator(self.step))
        started = time.perf_counter()
        self._gradients()
        return time.perf_counter() - started, sum(kept.values())

    def weights(self) -> dict[str, Tensor]:
        """What to use and to ship: the average if there is one. Of a sharded run every process has to ask."""
        own = self.average or {k: p.detach() for k, p in self.parameters.items()}
        return {k: sharding.whole(t) for k, t in own.items()}

    def _one_step(self) -> float:
        s = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = s.rate(self.step)
        total = self._gradients()
        while not self._finite() and self.scale > 1 and math.isfinite(total):
            self.scale /= 2
            total = self._gradients()
        if not math.isfinite(total) or not self._finite():
            raise FloatingPointError(f"the loss is {total} at step {self.step + 1}; use a lower learning rate")
        self._whole = False
        if s.clip:
            own = self.accelerator is None or self.sharded
            clip = torch.nn.utils.clip_grad_norm_ if own else self.accelerator.clip_grad_norm_
            clip(list(self.parameters.values()), s.clip)
        self.optimiser.step()
        if s.ema:
            # early averages must not remember the random start
            keep = min(s.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], 1 - keep)
        self.step += 1
        self._whole = True
        return total

    def _gradients(self) -> float:
        """This step's gradients, averaged over accumulation and processes; returns the loss."""
        count, total = self.settings.accumulation, 0.0
        rank = self.accelerator.process_index if self.accelerator else 0
        self.optimiser.zero_grad(set_to_none=True)
        for i in range(count):
            with self._precision():
                loss = self.loss(self.step, self.generator(self.step, rank * count + i)) / count
            own = self.accelerator is None or self.sharded
            (torch.Tensor.backward if own else self.accelerator.backward)(loss * self.scale)
            total += float(loss.detach())
        if self.scale != 1:
            for p in self.parameters.values():
                if p.grad is not None:
                    p.grad /= self.scale
        return self._share(total)

    def generator(self, step: int, number: int = 0) -> torch.Generator:
        """The randomness of a step's loss, evaluated for the so-manyth time in it."""
        return torch.Generator().manual_seed((self.settings.seed * 1_000_003 + step) * 4099 + number)

    def _precision(self) -> Any:
        return self.accelerator.autocast() if self.accelerator else nullcontext()

    def _finite(self) -> bool:
        if self.accelerator is not None and self.accelerator.mixed_precision == "fp16":
            return True  # its own scaler skips what overflows
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        return not gradients or bool(sharding.whole(torch.stack(torch._foreach_norm(gradients))).isfinite().all())

    def _share(self, total: float) -> float:
        """Average gradients and loss over the processes."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return total
        for p in self.parameters.values() if not self.sharded else ():  # where FSDP has done it
            if p.grad is not None:
                p.grad = self.accelerator.reduce(p.grad, reduction="mean")
        return float(self.accelerator.reduce(torch.tensor(total, device=self.accelerator.device), reduction="mean"))

    @property
    def _first(self) -> bool:
        return self.accelerator is None or self.accelerator.is_main_process

    def save(self) -> None:
        """Write the checkpoint: weights, average, optimiser state, step."""
        if self.checkpoint is None or not (self._first or self.sharded):
            return
        if self._saved == self.step and not self.sharded and self.checkpoint.exists():
            return  # it may be gigabytes
        tensors = {f"weight.{k}": p for k, p in self.parameters.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors |= {f"average.{k}": p for k, p in self.average.items()}
        for name, p in self.parameters.items():
            tensors |= {f"{key}.{name}": torch.as_tensor(v) for key, v in self.optimiser.state.get(p, {}).items()}
        tensors = {k: sharding.whole(t) for k, t in tensors.items()}
        if not self._first:
            return
        header = files.Header(
            kind=CHECKPOINT, settings={"step": self.step, "loss": str(self.recent)}, source=self.identity
        )
        files.save(self.checkpoint, tensors, header)
        self._saved = self.step

    def _resume(self) -> None:
        tensors, header = files.load(self.checkpoint, kind=CHECKPOINT)
        shapes = {f"weight.{k}": p.shape for k, p in self.parameters.items()}
        if any(k not in tensors or tensors[k].shape != shape for k, shape in shapes.items()):
            self._refuse("of another model")
        if header.source != self.identity:
            self._refuse("of a training with other settings, data or start")
        with torch.no_grad():
            for name, p in self.parameters.items():
                sharding.put(tensors[f"weight.{name}"], p)
                if f"exp_avg.{name}" in tensors:
                    # copies: what was loaded is the file itself, mapped into memory
                    state = {
                        k: sharding.put(tensors[f"{k}.{name}"], torch.empty_like(p)) for k in ("exp_avg", "exp_avg_sq")
                    }
                    self.optimiser.state[p] = {"step": tensors[f"step.{name}"].clone(), **state}
                if name in self.average:
                    sharding.put(tensors[f"average.{name}"], self.average[name])
        self.step, self.recent = int(header.settings["step"]), float(header.settings["loss"])
        self.losses = tensors["losses"].tolist() if "losses" in tensors else []

    def _refuse(self, what: str) -> None:
        raise files.LearnedFileError(
            f"{self.checkpoint.name} is a checkpoint {what}; train into another folder, or remove it to start anew"
        )
