"""The embedded segmenter: a small U-shaped convnet that finds the subject in a picture of the demo world."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import files
from .attributes import Block

KIND = "demo-segments"
FILE = "segments.safetensors"
SIZE = 128
BATCH = 64


class SegmentNet(nn.Module):
    """Pictures (B, 3, 128, 128) in 0..1 to logits of the subject, (B, 1, 64, 64).

    Args:
        widths: channels (multiples of 8) at 64, 32, 16 and 8 pixels a side.
    """

    def __init__(self, widths: tuple[int, ...] = (24, 48, 80, 112)):
        super().__init__()
        self.shape = {"widths": list(widths)}
        self.stem = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 2, stride=2), Block(b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.Sequential(nn.Conv2d(b, a, 1), nn.Upsample(scale_factor=2)) for a, b in pairs)
        self.mix = nn.ModuleList(Block(a) for a, _ in pairs)
        self.out = nn.Conv2d(widths[0], 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = [self.stem(images * 2 - 1)]
        for down in self.down:
            features.append(down(features[-1]))
        x = features.pop()
        for up, mix, skip in reversed(list(zip(self.up, self.mix, features))):
            x = mix(up(x) + skip)
        return self.out(F.gelu(x))


class Segments:
    """The segmenter with its weights.

    Args:
        folder: where `save` left them.

    Raises:
        FileNotFoundError: no weights there.
        LearnedFileError: a file that is not this judge's.
    """

    def __init__(self, folder: str | Path, *, device: str | torch.device = "cpu"):
        tensors, header = files.load(Path(folder) / FILE, kind=KIND)
        self.net = SegmentNet(tuple(header.settings["shape"]["widths"]))
        self.net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        self.net.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The subject in pictures (B, 3, H, W) in 0..1: masks (B, 1, H, W) of 0 and 1."""
        parts = []
        for chunk in images.split(BATCH):
            small = F.interpolate(chunk.to(self.device).float(), (SIZE, SIZE), mode="bilinear", antialias=True)
            logits = F.interpolate(self.net(small), images.shape[-2:], mode="bilinear")
            parts.append((logits > 0).float())
        return torch.cat(parts)

    def segment(self, images: Tensor, text: str = "") -> Tensor:
        """`vision.protocols.TextSegmenter`; ignores the text, since pictures of the demo world have one subject."""
        return self(images).to(images.device)


def save(net: SegmentNet, folder: Path) -> Path:
    """Write the segmenter's weights in half precision."""
    tensors = {name: tensor.half() for name, tensor in net.state_dict().items()}
    return files.save(folder / FILE, tensors, files.Header(kind=KIND, settings={"shape": net.shape}))
