"""The network: a retrieval encoder that reads references, and a cross-attention for each level that takes from them.

The encoder is a trainable copy of the U-Net's encoder and middle; ControlNet is the same copy, so diffusers' class
serves, without what is ControlNet's own in it (RetriBooru, section 5.1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import files, weights
from ..attention import Site, base_of
from ..skips import Skip
from ..weights import Delta
from .lookup import Encoded, Lookup
from .reference import References

KIND = "retrinet"
LEVELS = ("all", "deep", "shallow", "middle")


class RetriNet(nn.Module):
    """Retrieval encoder, one `Lookup` a level, and what training changed in the U-Net's decoder.

    Args:
        config: of the encoder, in diffusers' words.
        levels: skip name -> channels and heads of its lookup.
        delta: of the decoder; None leaves it as it is.
        base: family of models it fits, from `attention.base_of`.
        source: hash of the U-Net that it was trained on.
        settings: training settings, JSON values only.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        levels: Mapping[str, Sequence[int]],
        delta: Delta | None = None,
        base: str = "",
        source: str = "",
        settings: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        from diffusers import ControlNetModel

        # what diffusers adds to a configuration is its own
        self.config = {k: v for k, v in config.items() if not k.startswith("_")}
        self.levels = {name: list(value) for name, value in levels.items()}
        self.base, self.source, self.settings = base, source, dict(settings or {})
        self.encoder = ControlNetModel.from_config(self.config)
        self.encoder.controlnet_cond_embedding = nn.Identity()
        count = len(self.encoder.controlnet_down_blocks)
        self.encoder.controlnet_down_blocks = nn.ModuleList(nn.Identity() for _ in range(count))
        self.encoder.controlnet_mid_block = nn.Identity()
        self.skips = [f"skip.{i}" for i in range(count)] + ["mid"]
        # a module's name can hold no dots
        self.lookups = nn.ModuleDict({name.replace(".", ":"): Lookup(*level) for name, level in levels.items()})
        self.delta = delta

    def check(self, sites: Sequence[Site], skips: Sequence[Skip], layers: Collection[str]) -> None:
        """Whether it fits a U-Net.

        Args:
            layers: the decoder's, by diffusers' names.

        Raises:
            ValueError: a U-Net of another family or of other sizes.
        """
        base, channels = base_of(sites), {skip.name: skip.channels for skip in skips}
        if self.base and self.base != base:
            raise ValueError(
                f"retrinet: it was trained on {self.base}, but the model here is {base}; load a {self.base} model, "
                "or another RetriNet"
            )
        other = [name for name, (own, _) in self.levels.items() if channels.get(name) != own]
        other += [name for name in (self.delta.layers if self.delta is not None else ()) if name not in layers]
        if other:
            raise ValueError(f"retrinet: the model's layer {other[0]} is not as in the one that it was trained on")

    def lookup(self, name: str) -> Lookup:
        return self.lookups[name.replace(".", ":")]

    def encode(self, references: References, t: Tensor) -> Encoded:
        """The references' features at a timestep.

        Args:
            t: (B,), or (1,) for all.
        """
        batch, count = references.latents.shape[:2]
        weight = self.encoder.conv_in.weight
        latents = references.latents.to(weight).flatten(0, 1)

        def each(rows: Tensor) -> Tensor:
            own = len(rows) == batch * count
            return rows.to(weight) if own else rows.to(weight).repeat(batch, *[1] * (rows.ndim - 1))

        extra = {name: each(rows) for name, rows in references.extra.items()}
        down, middle = self.encoder(
            latents,
            t.to(weight.device).repeat_interleave(count) if len(t) > 1 else t.to(weight.device),
            each(references.tokens),
            latents.new_zeros(()),
            added_cond_kwargs=extra or None,
            return_dict=False,
        )
        features = dict(zip(self.skips, [*down, middle]))
        masks = None if references.masks is None else references.masks.to(weight)
        return Encoded({name: features[name].unflatten(0, (batch, count)) for name in self.levels}, masks)


def blank(denoiser: Any, rank: int | None = None, levels: Sequence[str] | None = None, source: str = "") -> RetriNet:
    """A RetriNet that changes nothing yet: the U-Net's encoder copied, outputs and differences zero.

    Args:
        denoiser: a `core.diffusers.DiffusersDenoiser`.
        rank: of the decoder's differences, see `weights.blank`.
        levels: names of the skips that retrieve; None is all of them and the middle **[a choice is ours]**.
        source: hash of the U-Net.

    Raises:
        ValueError: unknown levels.
    """
    from diffusers import ControlNetModel

    copy = ControlNetModel.from_unet(denoiser.unet)
    layers = weights.layers_of(denoiser.unet, weights.DECODER)
    return copied(denoiser.sites, denoiser.skips, copy.config, copy.state_dict(), layers, rank, levels, source)


def copied(
    sites: Sequence[Site],
    skips: Sequence[Skip],
    config: Mapping[str, Any],
    encoder: Mapping[str, Tensor],
    layers: Mapping[str, nn.Module],
    rank: int | None = None,
    levels: Sequence[str] | None = None,
    source: str = "",
) -> RetriNet:
    """`blank` of any runtime's U-Net.

    Args:
        sites, skips: the U-Net's.
        config: of a ControlNet on it, in diffusers' words.
        encoder: at least the weights of the encoder and the middle, by diffusers' names.
        layers: of the decoder, by diffusers' names.

    Raises:
        ValueError: unknown levels.
    """
    known = {skip.name: skip for skip in skips}
    chosen = list(known) if levels is None else list(levels)
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"levels: {', '.join(unknown)} unknown; choose from {', '.join(known)}")
    heads = {site.level: site.heads for site in sites}
    some = next(iter(heads.values()))  # for levels without attention
    shapes = {name: (known[name].channels, heads.get(known[name].level, some)) for name in chosen}
    network = RetriNet(config, shapes, weights.blank(layers, rank), base_of(sites), source)
    network.encoder.load_state_dict({name: encoder[name] for name in network.encoder.state_dict()})
    return network


def levels_of(choice: str, skips: Sequence[Skip], network: RetriNet) -> list[str]:
    """Names of a network's levels **[the groups are ours]**.

    Args:
        choice: one of `LEVELS`, or names separated by commas. "deep" is the coarser half of the resolutions with the
            middle, "shallow" the finer half.

    Raises:
        ValueError: none of the network's, or a name that it doesn't have.
    """
    deepest = max(skip.level for skip in skips)
    groups = {
        "all": [skip.name for skip in skips],
        "deep": [skip.name for skip in skips if 2 * skip.level > deepest],
        "shallow": [skip.name for skip in skips if 2 * skip.level <= deepest],
        "middle": [skip.name for skip in skips if skip.name == "mid"],
    }
    names = groups.get(choice) or [name.strip() for name in choice.split(",") if name.strip()]
    found = [name for name in names if name in network.levels]
    if not found or (choice not in groups and len(found) < len(names)):
        raise ValueError(f"levels: {choice!r} is not in this RetriNet; it has {', '.join(network.levels)}")
    return found


def save(path: str | Path, network: RetriNet, dtype: torch.dtype = torch.float16) -> Path:
    """Write a RetriNet, atomically."""
    tensors = {f"encoder.{k}": v for k, v in network.encoder.state_dict().items()}
    tensors |= {f"lookups.{k.replace(':', '.')}": v for k, v in network.lookups.state_dict().items()}
    if network.delta is not None:
        tensors |= {f"delta.{k}": v for k, v in network.delta.whole().items()}
    settings = {**network.settings, "encoder": network.config, "levels": network.levels}
    header = files.Header(KIND, network.base, "", settings, network.source)
    return files.save(path, {k: v.to(dtype) for k, v in tensors.items()}, header)


def load(path: str | Path, base: str | None = None) -> RetriNet:
    """Read a RetriNet, in float32.

    Args:
        base: the family of models it will be used on; None takes any.

    Raises:
        FileNotFoundError, files.LearnedFileError: see `files.load`.
    """
    tensors, header = files.load(path, kind=KIND, base=base)
    settings = dict(header.settings)
    try:
        config, levels = settings.pop("encoder"), settings.pop("levels")
        parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "lookups": {}, "delta": {}}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor.float()
        delta = Delta(parts["delta"]) if parts["delta"] else None
        network = RetriNet(config, levels, delta, header.base, header.source, settings)
        network.encoder.load_state_dict(parts["encoder"])
        for name in network.levels:
            own = {k[len(name) + 1 :]: v for k, v in parts["lookups"].items() if k.startswith(f"{name}.")}
            network.lookup(name).load_state_dict(own)
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise files.LearnedFileError(f"{Path(path).name} is no whole RetriNet ({e}); copy or train it again") from e
    return network
