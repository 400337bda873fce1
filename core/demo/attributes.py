"""The embedded attribute judge: a small convnet that reads off a picture what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import files
from .truth import VALUES

KIND = "demo-attributes"
FILE = "attributes.safetensors"
SIZE = 128
BATCH = 64


@dataclass(frozen=True)
class Answer:
    """What the judge says about one attribute of B pictures.

    Args:
        names: the values it chooses from.
        probabilities: (B, len(names)), float32, each row sums to one.
    """

    names: tuple[str, ...]
    probabilities: Tensor

    @property
    def values(self) -> list[str]:
        """The most probable value for each picture."""
        return [self.names[i] for i in self.probabilities.argmax(-1).tolist()]


class Block(nn.Module):
    """Two normalised convolutions added to their input; (B, C, H, W) to the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class AttributeNet(nn.Module):
    """Pictures (B, 3, 128, 128) in 0..1 to one row of logits (B, values) an attribute.

    Args:
        widths, blocks: channels (multiples of 8) and number of blocks at 64, 32, 16 and 8 pixels a side.
    """

    def __init__(self, widths: Sequence[int] = (24, 48, 96, 160), blocks: Sequence[int] = (0, 1, 2, 1)):
        super().__init__()
        self.shape = {"widths": list(widths), "blocks": list(blocks)}
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, stride=2, padding=2)]
        for i, (width, count) in enumerate(zip(widths, blocks)):
            if i:
                layers.append(nn.Conv2d(widths[i - 1], width, 2, stride=2))
            layers += [Block(width) for _ in range(count)]
        self.body = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.GELU())
        # where the subject stands differs from picture to picture, so places are weighed by what is seen at them
        self.look = nn.Conv2d(widths[-1], len(VALUES), 1)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], len(values)) for name, values in VALUES.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        seen = self.body(images * 2 - 1).flatten(2)  # (B, C, places)
        where = self.look(seen.unflatten(-1, (-1, 1))).flatten(2).softmax(-1)  # (B, attributes, places)
        looked = torch.einsum("bcp,bap->bac", seen, where)
        looked = torch.cat([looked, seen.mean(-1)[:, None].expand_as(looked)], -1)
        return {name: head(looked[:, i]) for i, (name, head) in enumerate(self.heads.items())}


class Attributes:
    """The judge with its weights.

    Args:
        folder: where `save` left them.

    Raises:
        FileNotFoundError: no weights there.
        LearnedFileError: a file that is not this judge's, or of a world with other attributes.
    """

    def __init__(self, folder: str | Path, *, device: str | torch.device = "cpu"):
        path = Path(folder) / FILE
        tensors, header = files.load(path, kind=KIND)
        if header.settings.get("values") != {name: list(values) for name, values in VALUES.items()}:
            raise files.LearnedFileError(f"{path.name} judges another world's attributes; train the judges again")
        self.net = AttributeNet(**header.settings["shape"])
        self.net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        self.net.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Answer]:
        """Judge pictures (B, 3, 128, 128) in 0..1: attribute -> answer. ValueError for another shape.

        Every attribute gets an answer, also one that the picture doesn't show; who asks knows what to ask.
        """
        if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE) or not images.is_floating_point():
            raise ValueError(
                f"the attribute judge takes floats (B, 3, {SIZE}, {SIZE}) in 0..1, "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        parts = [self.net(chunk.to(self.device).float()) for chunk in images.split(BATCH)]
        return {
            name: Answer(values, torch.cat([part[name] for part in parts]).softmax(-1))
            for name, values in VALUES.items()
        }


def save(net: AttributeNet, folder: Path) -> Path:
    """Write the judge's weights in half precision."""
    settings = {"values": {name: list(values) for name, values in VALUES.items()}, "shape": net.shape}
    tensors = {name: tensor.half() for name, tensor in net.state_dict().items()}
    return files.save(folder / FILE, tensors, files.Header(kind=KIND, settings=settings))
