"""A learned subject: text vectors in the place of a prompt's last padding, one set for each DDIM timestep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import files, prompts
from ..attention import Rows, Site, base_of
from ..denoiser import Hooks
from ..diffusers import Text

KIND = "hifi-subject"
ROWS = 5  # n in the paper
MARK = "<hifi "  # how the names of subjects' places begin


@dataclass(frozen=True)
class Subject:
    """Step-wise subject embeddings C_s (HiFi Tuner, section 3.2).

    Args:
        rows: (T, n, width), float32; T = 1 is one c_s for all timesteps.
        timesteps: the DDIM timestep of each set of rows, falling; with another sampler or step count the nearest one
            decides **[ours]**.
        word: the class word that prompts, as "a photo of a cat", name the subject by.
        base: family of models it was learned on, from `attention.base_of`.
        settings: training settings, JSON values only.
        source: hash of what it was learned from.

    Raises:
        ValueError: rows of the wrong shape, or timesteps that are not one for each set, falling.
    """

    rows: Tensor = field(repr=False)
    timesteps: tuple[int, ...]
    word: str
    base: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self):
        if self.rows.ndim != 3 or not len(self.rows) or not self.rows.shape[1]:
            raise ValueError(f"subject has rows of shape {tuple(self.rows.shape)}, wanted (timesteps, rows, width)")
        t = self.timesteps
        if len(t) != len(self.rows) or list(t) != sorted(set(t), reverse=True):
            raise ValueError(f"subject has {len(self.rows)} sets of rows, so it needs as many falling timesteps")

    @property
    def count(self) -> int:
        """Number of text tokens that it takes, n."""
        return self.rows.shape[1]

    @cached_property
    def mark(self) -> str:
        """The name under which a conditioning carries its places; no word of a prompt is like it."""
        return f"{MARK}{self.word} {files.fingerprint({'rows': self.rows})}>"

    def at(self, timestep: Tensor) -> Tensor:
        """The rows for each timestep (R,): those of the nearest timestep that was trained, (R, n, width)."""
        trained = torch.tensor(self.timesteps, dtype=torch.float32, device=timestep.device)
        nearest = (timestep.float()[:, None] - trained).abs().argmin(1)
        return self.rows.to(timestep.device)[nearest]

    def check(self, sites: Sequence[Site]) -> None:
        """Whether this subject fits a model; ValueError naming both families if not."""
        width = next(site.context for site in sites if site.kind == "cross")
        if base_of(sites) != self.base or width != self.rows.shape[-1]:
            raise ValueError(
                f"the subject {self.word!r} was learned on {self.base}, but the model here is {base_of(sites)}; "
                f"load a {self.base} model or train the subject again"
            )


def places(tokens: int, used: int, count: int) -> Tensor:
    """Where a subject's rows stand in a prompt: its last `count` text tokens, bool (tokens,).

    Args:
        used: position after the prompt's last word.

    Raises:
        ValueError: a prompt whose words reach them.
    """
    if used > tokens - count:
        raise ValueError(
            f"prompt: its words fill {used} of {tokens} text tokens, but the subject takes the last {count}; "
            "shorten the prompt"
        )
    return torch.arange(tokens) >= tokens - count


def carry(text: Text, prompt: str, tokenize: prompts.Tokenize, subject: Subject) -> Text:
    """A headless conditioning of `prompt` that carries the subject's places; ValueError as `places`."""
    where = places(text.tokens.shape[1], prompts.used(prompt, tokenize), subject.count)
    return replace(text, words={**text.words, subject.mark: where})


@dataclass
class SubjectText:
    """Text control `[c, c_s^t]`: the right rows in their places, in every row of the batch that carries them.

    Args:
        subject: what was learned.
        strength: 1 is what was learned, 0 the prompt's own padding, between them a mixture **[ours]**.
    """

    subject: Subject
    strength: float = 1.0

    @property
    def hooks(self) -> Hooks:
        return Hooks(text=self, words=(self.subject.mark,))

    def __call__(self, tokens: Tensor, rows: Rows) -> Tensor:
        where = rows.where(self.subject.mark, tokens.shape[1])
        if not self.strength or not bool(where.any()):
            return tokens
        return put(tokens, where, self.subject.at(rows.timestep), self.strength)


def put(tokens: Tensor, where: Tensor, rows: Tensor, strength: float = 1.0) -> Tensor:
    """Text tokens with a subject's rows in their places.

    Args:
        tokens: (R, L, width).
        where: bool, (R, L): no place, or a multiple of n, in each row.
        rows: (R, n, width).
    """
    index = (where.cumsum(1) - 1).clamp(min=0) % rows.shape[1]
    wanted = rows.to(tokens).gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
    mixed = wanted if strength == 1 else torch.lerp(tokens, wanted, strength)
    return torch.where(where[..., None], mixed, tokens)


def save(path: str | Path, subject: Subject, dtype: torch.dtype = torch.float16) -> Path:
    """Write a subject, atomically; by default in half precision."""
    settings = {**subject.settings, "timesteps": list(subject.timesteps)}
    header = files.Header(KIND, subject.base, subject.word, settings, subject.source)
    return files.save(path, {"rows": subject.rows.to(dtype)}, header)


def load(path: str | Path, base: str | None = None) -> Subject:
    """Read a subject.

    Args:
        base: the family of models it will be used on; None takes any.

    Raises:
        FileNotFoundError, files.LearnedFileError: see `files.load`.
    """
    tensors, header = files.load(path, kind=KIND, base=base)
    settings = dict(header.settings)
    try:
        timesteps = tuple(settings.pop("timesteps"))
        return Subject(tensors["rows"].float(), timesteps, header.word, header.base, settings, header.source)
    except (KeyError, TypeError, ValueError) as e:
        raise files.LearnedFileError(f"{Path(path).name} is no whole subject ({e}); copy or train it again") from e
