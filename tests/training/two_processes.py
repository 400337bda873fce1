"""A small training for `torchrun` or `accelerate launch`: `two_processes.py OUT ACCUMULATION`."""

import sys

import torch
from accelerate import Accelerator
from likeness.core.files import Header, save
from likeness.training.loop import Settings, Trainer

out, accumulation = sys.argv[1], int(sys.argv[2])
accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
weight = torch.nn.Parameter(torch.randn(3))


def loss(step, generator):
    x = torch.randn(8, 3, generator=generator)
    return ((x * weight).sum(1) - x.sum(1)).square().mean()


settings = Settings(steps=20, lr=0.05, ema=0.9, accumulation=accumulation)
average = Trainer({"w": weight}, loss, settings, accelerator=accelerator).run()["w"]
if accelerator.is_main_process:
    save(out, {"average": average, "weight": weight, "processes": torch.tensor(accelerator.num_processes)}, Header("x"))
# a process that leaves while the other still listens takes it down
accelerator.end_training()
