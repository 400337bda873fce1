"""A RetriNet's and a Refiner's training for `torchrun`, FSDP if the environment says so: `sharded.py OUT ACCUMULATION`.

Both stop after two steps and go on from their checkpoints in another process group's place.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from likeness.core.files import Header, save
from likeness.core.retrinet import network as retrinet
from likeness.training import dino_adapter, loop
from likeness.training import retrinet as training
from likeness.training.data import examples, identities
from likeness.training.processes import accelerated, finished
from tiny import SIZE, Tiny, dino_tokens

out, accumulation = Path(sys.argv[1]), int(sys.argv[2])
LOOP = loop.Settings(steps=4, lr=1e-3, ema=0.5, every=2, accumulation=accumulation)
people = identities.rendered(2, 3, size=SIZE)
model = Tiny()


def retrinet_of(accelerator):
    torch.manual_seed(0)
    learn = training.Learn(references=2, batch=2, size=SIZE, loop=LOOP)
    bank = identities.Bank(people, model.encode, learn.size)
    network, file = retrinet.blank(model.denoiser), out.with_suffix(".retrinet")
    return training.Training(model.denoiser, network, model.text, bank, learn, file, accelerator)


def refiner_of(accelerator):
    torch.manual_seed(0)
    learn = replace(dino_adapter.Learn(), batch=2, loop=LOOP, what="whole")
    bank = dino_adapter.Bank(examples.rendered_pictures(3, size=SIZE), model.encode, dino_tokens, False, True)
    adapter = dino_adapter.begin("refiner", model.denoiser, 3, learn, "tiny", "")
    file = out.with_suffix(".refiner")
    return dino_adapter.Training(model.denoiser, adapter, model.text, bank, learn, None, file, accelerator)


with accelerated(cpu=True) as accelerator:
    found, kept = {}, []
    for name, begin in (("retrinet", retrinet_of), ("refiner", refiner_of)):
        begin(accelerator).trainer.run(until=2)
        accelerator.wait_for_everyone()
        again = begin(accelerator)
        with finished(again, accelerator, kept.append):
            assert again.trainer.step == 2
            again.run()
        own = again.trainer.parameters.values()
        parts = sum(p.to_local().numel() if again.trainer.sharded else p.numel() for p in own)
        found |= {f"{name} part": torch.tensor(parts / sum(p.numel() for p in own))}
    if accelerator.is_main_process:
        for name, learned in zip(("retrinet", "refiner"), kept):
            found |= {f"{name} {key}": p for key, p in learned.named_parameters()}
        save(out, found, Header("x"))
