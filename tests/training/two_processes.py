"""A small training for `torchrun` or `accelerate launch`: `two_processes.py OUT ACCUMULATION`."""

import sys
from pathlib import Path

import torch
from likeness.core.files import Header, save
from likeness.training.loop import Settings, Trainer
from likeness.training.processes import accelerated

out, accumulation = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
weight = torch.nn.Parameter(torch.randn(3))


def loss(step, generator):
    x = torch.randn(8, 3, generator=generator)
    return ((x * weight).sum(1) - x.sum(1)).square().mean()


with accelerated(cpu=True) as accelerator:
    settings = Settings(steps=20, lr=0.05, ema=0.9, accumulation=accumulation)
    average = Trainer({"w": weight}, loss, settings, accelerator=accelerator).run()["w"]
    processes, first = accelerator.num_processes, accelerator.is_main_process

# a thread that still listens when Python ends takes its process down
listening = [t.name for t in Path("/proc/self/task").glob("*") if "gloo" in (t / "comm").read_text()]
assert not listening, listening
if first:
    save(out, {"average": average, "weight": weight, "processes": torch.tensor(processes)}, Header("x"))
