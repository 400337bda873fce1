"""Small random models, prompts, latents and subjects for HiFi Tuner's tests."""

import torch
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from likeness.core.hifi import subject
from likeness.core.hifi.subject import Subject
from networks import SCHEDULER, random_prompt, random_unet

PREDICTIONS = ("epsilon", "v_prediction")


def random_denoiser(prediction):
    schedule = Schedule.from_scheduler({**SCHEDULER, "prediction_type": prediction})
    return DiffusersDenoiser(random_unet("sd1"), schedule)


def text(seed, **fields):
    return Text(**random_prompt("sd1", seed, **fields))


def latents(seed, rows=1):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def random_subject(sets=4, width=32, seed=0, word="cat"):
    g = torch.Generator().manual_seed(seed)
    return Subject(torch.randn(sets, 5, width, generator=g), (901, 601, 301, 1)[:sets], word, "context-32")


def last(count=5, tokens=77):
    return subject.places(tokens, 10, count)
