"""A model of almost no size, whole enough to train on: a random U-Net, pictures averaged to latents, prompts hashed."""

import hashlib

import torch
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from networks import SCHEDULER, random_unet
from torch.nn import functional as F

SIZE = 64  # pixels of its pictures


class Tiny:
    """Has what trainings ask of a `core.checkpoint.Checkpoint`."""

    def __init__(self):
        self.denoiser = DiffusersDenoiser(random_unet("sd1"), Schedule.from_scheduler(SCHEDULER))

    def encode(self, images):
        small = F.adaptive_avg_pool2d(images, [side // 8 for side in images.shape[-2:]]) * 2 - 1
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def text(self, prompt, words=(), size=(SIZE, SIZE)):
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
        return Text(torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(seed)))


def dino_tokens(images):
    """Colours of 8 x 8 places, and their mean in front: (B, 65, 3)."""
    places = F.adaptive_avg_pool2d(images, 8).flatten(2).transpose(1, 2) * 2 - 1
    return torch.cat([places.mean(1, keepdim=True), places], 1)
