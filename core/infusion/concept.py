"""A learned concept: a residual for the value feature of its word in each cross-attention layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import files
from ..attention import Site, base_of

KIND = "infusion-concept"
SPACES = ("text", "value")
# which cross-attention layers have a residual
LAYERS: dict[str, Callable[[Site], bool]] = {
    "all": lambda site: True,
    "down+mid": lambda site: site.part != "up",
    "mid+up": lambda site: site.part != "down",
    "up": lambda site: site.part == "up",
    "inner": lambda site: site.level > 0,
}


@dataclass(frozen=True)
class Concept:
    """Residuals of one subject (Infusion, Eq. 7).

    Args:
        words: the concept word, as in "cat", then any further words of the prompt that have residuals **[ours]**.
        residuals: site name -> (words, bins, width), float32. In space "value" the width is the site's own, in space
            "text" it is the text's, and the layer's own W_V makes a value of it: the paper can be read both ways.
            Bins divide the timesteps evenly, bin 0 is the least noisy **[ours]**; one bin is the paper's.
        space: "text" or "value".
        base: family of models it was learned on, from `attention.base_of`.
        settings: training settings, JSON values only.
        source: hash of what it was learned from.

    Raises:
        ValueError: an unknown space, no words, or residuals of the wrong shape.
    """

    words: tuple[str, ...]
    residuals: Mapping[str, Tensor] = field(repr=False)
    space: str
    base: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self):
        if self.space not in SPACES:
            raise ValueError(f"space is {self.space!r}; choose {' or '.join(SPACES)}")
        if not self.words or not self.residuals:
            raise ValueError("a concept needs a word and at least one layer with a residual")
        for name, residual in self.residuals.items():
            if residual.ndim != 3 or len(residual) != len(self.words) or residual.shape[1] != self.bins:
                shape = tuple(residual.shape)
                raise ValueError(f"residual of {name} has shape {shape}, wanted (words, time bins, width)")

    @property
    def word(self) -> str:
        """The word in a prompt that stands for the subject."""
        return self.words[0]

    @property
    def bins(self) -> int:
        return next(iter(self.residuals.values())).shape[1]

    @property
    def parameters(self) -> int:
        return sum(r.numel() for r in self.residuals.values())

    def norms(self) -> dict[str, float]:
        """Length of each layer's residual, by site name (mean over words and bins)."""
        return {name: float(r.detach().float().norm(dim=-1).mean()) for name, r in self.residuals.items()}

    def check(self, sites: Iterable[Site]) -> None:
        """Whether this concept fits a model.

        Raises:
            ValueError: naming both families, or the layer that the model lacks.
        """
        cross = {site.name: site for site in sites if site.kind == "cross"}
        if (base := base_of(list(cross.values()))) != self.base:
            raise ValueError(
                f"the concept {self.word!r} was learned on {self.base}, but the model here is {base}; "
                f"load a {self.base} model or train the concept again"
            )
        for name, residual in self.residuals.items():
            wanted = None if name not in cross else _width(cross[name], self.space)
            if wanted != residual.shape[-1]:
                raise ValueError(
                    f"the concept {self.word!r} has a residual of {residual.shape[-1]} numbers for the layer {name}, "
                    f"where this model takes {wanted or 'none'}; it was learned on another model"
                )


def blank(sites: Sequence[Site], words: Sequence[str], space: str = "text", layers: str = "all", bins: int = 1):
    """A concept that changes nothing yet: zero residuals (Infusion, section 4.2).

    Args:
        layers: one of `LAYERS`.

    Raises:
        ValueError: an unknown choice of layers or space, or a choice that no layer of the model meets.
    """
    if layers not in LAYERS:
        raise ValueError(f"layers is {layers!r}; choose one of {', '.join(LAYERS)}")
    if bins < 1:
        raise ValueError(f"bins is {bins}; at least 1")
    chosen = [site for site in sites if site.kind == "cross" and LAYERS[layers](site)]
    if not chosen:
        raise ValueError(f"layers is {layers!r}, but this model has no cross-attention there; choose all")
    if space not in SPACES:
        raise ValueError(f"space is {space!r}; choose {' or '.join(SPACES)}")
    residuals = {site.name: torch.zeros(len(words), bins, _width(site, space)) for site in chosen}
    return Concept(tuple(words), residuals, space, base_of(sites))


def _width(site: Site, space: str) -> int:
    return site.width if space == "value" else site.context


def save(path: str | Path, concept: Concept, dtype: torch.dtype = torch.float16) -> Path:
    """Write a concept, atomically; by default in half precision, of which a residual needs no more."""
    settings = {**concept.settings, "space": concept.space, "words": list(concept.words)}
    header = files.Header(KIND, concept.base, concept.word, settings, concept.source)
    return files.save(path, {name: r.to(dtype) for name, r in concept.residuals.items()}, header)


def load(path: str | Path, base: str | None = None) -> Concept:
    """Read a concept.

    Args:
        base: the family of models it will be used on; None takes any.

    Raises:
        FileNotFoundError, files.LearnedFileError: see `files.load`.
    """
    tensors, header = files.load(path, kind=KIND, base=base)
    settings = dict(header.settings)
    try:
        words, space = tuple(settings.pop("words")), settings.pop("space")
        residuals = {name: tensor.float() for name, tensor in tensors.items()}
        return Concept(words, residuals, space, header.base, settings, header.source)
    except (KeyError, TypeError, ValueError) as e:
        raise files.LearnedFileError(f"{Path(path).name} is no whole concept ({e}); copy or train it again") from e
