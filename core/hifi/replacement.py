"""Subject replacement (HiFi Tuner, Algorithm 3): another subject in a photo, everything else as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attention import Layer, Rows, Site
from ..denoiser import Conditioning, Denoiser, Hooks
from ..diffusion import Shown, guide
from .inversion import Trajectory


class Maps:
    """Attention control that keeps the cross-attention maps of a call: site name -> (R, heads, N, L)."""

    def __init__(self):
        self.kept: dict[str, Tensor] = {}

    def wants(self, site: Site) -> bool:
        return site.kind == "cross"

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        self.kept[site.name] = site.scores(q.float(), k.float()).softmax(-1).to(q.dtype)
        return attend(q, k, v)

    @property
    def bytes(self) -> int:
        """Memory of what is kept now."""
        return sum(m.numel() * m.element_size() for m in self.kept.values())


@dataclass
class Replay:
    """Attention control: every token is drawn where the source's map has it, but for the tokens that are new.

    Args:
        maps: of the source picture's conditional rows at the same step, site name -> (B, heads, N, source tokens).
        mapper: (target tokens, source tokens), from `prompts.align`.
        fresh: names of the words whose tokens keep the maps of the run itself.
        renormalise: whether each pixel's attention sums to one again **[ours]**; the paper doesn't say so.
    """

    maps: dict[str, Tensor]
    mapper: Tensor
    fresh: tuple[str, ...]
    renormalise: bool = False

    def wants(self, site: Site) -> bool:
        return site.kind == "cross"

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Layer) -> Tensor:
        led = rows.conditional.nonzero()[:, 0]
        out, q, k, v = attend(q, k, v), q[led], k[led], v[led]
        if not len(led):
            return out
        own = site.scores(q.float(), k.float()).softmax(-1)
        new = torch.stack([rows.where(word, k.shape[1])[led] for word in self.fresh]).any(0)
        maps = torch.where(new[:, None, None], own, self._source(site, rows, led, k.shape[1]).to(own))
        if self.renormalise:
            maps = maps / maps.sum(-1, keepdim=True).clamp(min=1e-6)
        return out.index_copy(0, led, site.merge(maps.to(v.dtype) @ site.split(v)).to(out.dtype))

    def _source(self, site: Site, rows: Rows, led: Tensor, tokens: int) -> Tensor:
        """The source's maps with the target's tokens, (R, heads, N, tokens); texts repeat until they are that long."""
        maps = self.maps[site.name]
        mapped = maps[rows.picture[led] % len(maps)] @ self.mapper.to(maps).T
        repeats = tokens // len(self.mapper)
        return mapped.repeat(1, 1, 1, repeats) / repeats


@torch.no_grad()
def replace_subject(
    denoiser: Denoiser,
    source: Conditioning,
    target: Conditioning,
    negative: Conditioning,
    path: Trajectory,
    mapper: Tensor,
    word: str,
    *,
    hooks: Hooks | None = None,
    renormalise: bool = False,
    shown: Shown | None = None,
    told: Callable[[int], None] | None = None,
) -> Tensor:
    """Algorithm 3, from a trajectory with null texts (`inversion.null_text`).

    The paper stores the source's maps of all steps. Here they are made again when their step comes, from the latents
    that were stored, and forgotten after it: the same maps, one network row more a step, and the memory of one step
    instead of all **[ours]**.

    Args:
        source: the photo's caption, c^r.
        target: the caption with the new subject's word, c^g, carrying the positions of `word` and of what `hooks` asks.
        negative: takes the null texts of the trajectory in its place.
        mapper: `prompts.align(source prompt, target prompt)`.
        word: the new subject's word, w_g.
        hooks: the subject's; its tokens too keep their own maps.
        shown: called at each step with what it means.
        told: called at each step with the bytes of the maps that are kept.

    Returns:
        Latents of the picture with the new subject, (B, C, H, W).

    Raises:
        ValueError: a trajectory without null texts, or a target that lacks the word.
    """
    if path.nulls is None or path.drawn is None:
        raise ValueError("trajectory: it has no null texts; optimise them first (Null Text)")
    if not target.holds(word):
        raise ValueError(f"word: {word!r} is not in the target prompt; write it there in the old subject's place")
    hooks = hooks or Hooks()
    z, words = path.noise, tuple(dict.fromkeys((word, *hooks.words)))
    for i, (t, s) in enumerate(zip(path.timesteps, [*path.timesteps[1:], -1])):
        maps = Maps()
        denoiser(path.drawn[len(path.timesteps) - i], t, source, hooks=Hooks(attention=maps))
        if told:
            told(maps.bytes)
        led = replace(hooks, attention=Replay(maps.kept, mapper, words, renormalise), words=words)
        null = negative.with_tokens(path.nulls[i]).unconditional()
        uncond, cond = denoiser(z, t, null, target, hooks=led)
        answer = guide(cond, uncond, path.weight)
        if shown:
            shown(i, denoiser.schedule.x0(answer, z, t))
        z = denoiser.schedule.step(answer, z, t, s)
    return z


def with_word(caption: str, old: str, new: str) -> str:
    """The caption with another word in the place of the subject's, everywhere it stands as a word of its own.

    Raises:
        ValueError: a caption without the word, or no new word.
    """
    prompt, count = re.subn(rf"(?<!\w){re.escape(old)}(?!\w)", lambda match: new, caption)
    if not old.strip() or not new.strip() or not count:
        raise ValueError(f"old_word: {old!r} is not in the caption {caption!r}; name the subject as the caption does")
    return prompt
