"""The part that all three models share: DINO tokens enter every cross-attention layer beside the text.

    out = Attn(Q, K_text, V_text) + s Attn(Q, K_dino, V_dino)

DINO's K and V are the layer's own, without bias, from tokens that a linear map without bias brings to the text's width
(after AnyDoor and IP-Adapter **[ours]**; Toffee says "via cross-attention" and that both outputs are added). Zero
tokens have zero values, so a dropped condition is exactly the branch left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import files
from ..attention import Layer, Rows, Site, base_of
from ..denoiser import Hooks
from ..reach import Reach, Reached
from ..weights import Changed, Delta

KIND = "dino-adapter"
MODELS = ("refiner", "view-generator", "toffeenet")


class Adapter(nn.Module):
    """Keys and values for DINO tokens, and what training changed in the U-Net.

    Args:
        model: one of `MODELS`.
        width: of the DINO tokens.
        sites: cross-attention site -> (text's width, the layer's width).
        delta: of the U-Net; None leaves it as it is.
        base: family of models it fits, from `attention.base_of`.
        dino: name of the DINO that it was trained with.
        source: hash of the U-Net that it was trained on.
        settings: training settings, JSON values only.
    """

    def __init__(
        self,
        model: str,
        width: int,
        sites: Mapping[str, Sequence[int]],
        delta: Delta | None = None,
        base: str = "",
        dino: str = "",
        source: str = "",
        settings: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if model not in MODELS:
            raise ValueError(f"model is {model!r}; choose {', '.join(MODELS)}")
        self.model, self.width, self.sites = model, width, {name: list(shape) for name, shape in sites.items()}
        self.base, self.dino, self.source, self.settings = base, dino, source, dict(settings or {})
        context = next(iter(self.sites.values()))[0]
        self.project = nn.Linear(width, context, bias=False)
        # a module's name can hold no dots
        shapes = {name.replace(".", ":"): shape for name, shape in self.sites.items()}
        self.to_k = nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()})
        self.to_v = nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()})
        for layer in self.to_v.values():  # at first nothing is added
            nn.init.zeros_(layer.weight)
        self.delta = delta

    def keys(self, name: str, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """k and v of DINO tokens (B, T, D) at a site, each (B, T, the layer's width)."""
        projected, name = self.project(tokens.to(self.project.weight)), name.replace(".", ":")
        return self.to_k[name](projected), self.to_v[name](projected)

    def check(self, sites: Sequence[Site]) -> None:
        """Whether this adapter fits a model; ValueError naming both families if not."""
        there = {s.name: [s.context, s.width] for s in sites if s.kind == "cross"}
        if base_of(sites) != self.base or any(there.get(name) != shape for name, shape in self.sites.items()):
            raise ValueError(
                f"the {self.model} was trained on {self.base}, but the model here is {base_of(sites)}; "
                f"load a {self.base} model or another adapter"
            )

    def check_inputs(self, channels: int) -> None:
        """Whether a U-Net's own input channels are those of the one it was trained on, before `inpainting.widened`.

        Raises:
            ValueError: an inpainting model where it was an ordinary one, or the other way round.
        """
        if channels != (wanted := self.settings.get("inputs", channels)):
            raise ValueError(
                f"model: the {self.model} was trained on a model of {wanted} input channels, this one has {channels}; "
                "give the model that it was trained on"
            )


def blank(model: str, sites: Sequence[Site], width: int, delta: Delta | None = None, **about: str) -> Adapter:
    """An adapter that changes nothing yet, at every cross-attention layer.

    Args:
        about: `dino` and `source` of `Adapter`.
    """
    shapes = {s.name: (s.context, s.width) for s in sites if s.kind == "cross"}
    return Adapter(model, width, shapes, delta, base_of(sites), **about)


@dataclass
class Injection:
    """DINO tokens in a picture: the adapter's part in cross-attention.

    The tokens act on rows that follow their prompt, what was trained in the U-Net on all: the guidance goes away from a
    prediction with both conditions dropped, as in training **[one weight for both is ours]**. The strength scales the
    tokens' attention alone (Toffee, section 3.3); at 0 the trained weights rest too.

    Args:
        adapter: on the model's device.
        tokens: class token and patches, (1 or B, T, D); fewer than there are pictures repeat in turn.
        steps: timesteps of the model's noise schedule.
        reach: strength s, and when **[when is ours]**.

    Raises:
        ValueError: tokens of another DINO's width; when drawing, tokens that don't go into the number of pictures.
    """

    adapter: Adapter
    tokens: Tensor = field(repr=False)
    steps: int
    reach: Reach = field(default_factory=Reach)

    def __post_init__(self):
        if self.tokens.ndim != 3 or self.tokens.shape[-1] != self.adapter.width:
            raise ValueError(
                f"dino: tokens of shape {tuple(self.tokens.shape)}, but the {self.adapter.model} takes tokens of "
                f"{self.adapter.width} numbers; encode with the DINO that it was trained with ({self.adapter.dino})"
            )
        self.forget()

    @property
    def hooks(self) -> Hooks:
        """What to put into the network call."""
        delta = self.adapter.delta
        return Hooks(attention=self, weights=None if delta is None else changed(delta, self.steps, self.reach))

    def forget(self) -> None:
        """Let go of what was kept for a run; the next one makes it anew."""
        self._now: tuple[Rows, Reached, Tensor | None] | None = None
        self._keys: dict[str, tuple[Tensor, Tensor]] = {}

    def wants(self, site: Site) -> bool:
        return bool(self.reach.strength) and site.name in self.adapter.sites

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        out, (reached, picture) = attend(q, k, v), self._at(rows)
        if not reached.some:
            return out
        asking = site.split(q[reached.where])
        own = [self._each(site.split(x).to(asking), asking, picture) for x in self._known(site.name)]
        return reached.add(out, site.merge(F.scaled_dot_product_attention(asking, *own)))

    def _at(self, rows: Rows) -> tuple[Reached, Tensor | None]:
        """What holds for all layers of one network call: the rows that are on, and whose tokens each of them takes."""
        if self._now is None or self._now[0] is not rows:
            reached, picture = Reached(self.reach, self.steps, rows), None
            if len(self.tokens) > 1:
                self._check(int(rows.picture.max()) + 1)
                picture = rows.picture[reached.where] % len(self.tokens)
            self._now = rows, reached, picture
        return self._now[1:]

    def _check(self, pictures: int) -> None:
        if pictures % len(self.tokens):
            raise ValueError(
                f"dino: tokens of {len(self.tokens)} pictures for {pictures} that are drawn; encode one picture for "
                "all, or one for each"
            )

    def _known(self, name: str) -> tuple[Tensor, Tensor]:
        """Keys and values, made once a run: tokens do not change with the timestep."""
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.adapter.parameters()):
            return self.adapter.keys(name, self.tokens)
        if name not in self._keys:
            self._keys[name] = self.adapter.keys(name, self.tokens)
        return self._keys[name]

    @staticmethod
    def _each(x: Tensor, asking: Tensor, picture: Tensor | None) -> Tensor:
        return x.expand(len(asking), *x.shape[1:]) if picture is None else x[picture]


def changed(delta: Delta, steps: int, reach: Reach) -> Changed:
    """What training changed in the U-Net, on every row and whole wherever the tokens have any strength."""
    return Changed(delta, replace(reach, strength=float(bool(reach.strength))), steps, every=True)


def channels_of(delta: Delta | None) -> int | None:
    """Input channels of the U-Net that differences are of; None where they say nothing about it."""
    tensors = {} if delta is None else delta.whole()
    first = [tensors[key] for key in ("conv_in/weight", "conv_in/down") if key in tensors]
    return first[0].shape[1] if first else None


def save(path: str | Path, adapter: Adapter, dtype: torch.dtype = torch.float16) -> Path:
    """Write an adapter, atomically."""
    parts = ("project", "to_k", "to_v")
    tensors = {k.replace(":", "."): v for k, v in adapter.state_dict().items() if k.split(".")[0] in parts}
    if adapter.delta is not None:
        tensors |= {f"delta.{k}": v for k, v in adapter.delta.whole().items()}
    about = {"model": adapter.model, "width": adapter.width, "sites": adapter.sites, "dino": adapter.dino}
    header = files.Header(KIND, adapter.base, "", {**adapter.settings, **about}, adapter.source)
    return files.save(path, {k: v.to(dtype) for k, v in tensors.items()}, header)


def load(path: str | Path, base: str | None = None) -> Adapter:
    """Read an adapter, in float32.

    Args:
        base: the family of models it will be used on; None takes any.

    Raises:
        FileNotFoundError, files.LearnedFileError: see `files.load`.
    """
    tensors, header = files.load(path, kind=KIND, base=base)
    settings = dict(header.settings)
    try:
        model, width, sites, dino = (settings.pop(key) for key in ("model", "width", "sites", "dino"))
        changed = {k.removeprefix("delta."): v.float() for k, v in tensors.items() if k.startswith("delta.")}
        delta = Delta(changed) if changed else None
        adapter = Adapter(model, width, sites, delta, header.base, dino, header.source, settings)
        names = {k.replace(":", "."): k for k in adapter.state_dict() if not k.startswith("delta.")}
        missing = [k for k in names if k not in tensors]
        if missing:
            raise KeyError(f"no {missing[0]}")
        adapter.load_state_dict({own: tensors[k].float() for k, own in names.items()}, strict=False)
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise files.LearnedFileError(f"{Path(path).name} is no whole adapter ({e}); copy or train it again") from e
    return adapter
