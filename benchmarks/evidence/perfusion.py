"""Perfusion (Tewel et al. 2023) by perfusion-pytorch, where that package is installed; it is no dependency of ours.

Of its version 0.1.23 the function that wires a network raises, and `parameters()` of what is to be learned is empty, so
its `Rank1EditModule` is put into the layers here and its values are handed to the optimiser directly.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from grid import Case
from likeness.core import prompts
from likeness.core.demo import world
from likeness.core.diffusers import Text
from likeness.core.metrics.overfitting import Model
from torch import Tensor, nn

from .baselines import NEW, NewWord, copied, latents_of, one_tower, renamed
from .bench import Bench
from .learned import Customised, Recipe, Tuning, denoising, plain, with_prior

CAPTIONS = 2000  # of the world, for the covariance of text features; the paper takes 100,000 of LAION


def missing(bench: Bench) -> str:
    """Why it can't be measured; "" where it can."""
    return (
        "" if find_spec("perfusion_pytorch") else "perfusion-pytorch is not installed (pip install perfusion-pytorch)"
    )


@dataclass
class Now:
    """What every layer is told in training: where the new word stands, and the class word's text in its place."""

    index: Tensor
    superclass: Tensor


class Edited(nn.Module):
    """A key or value projection with the package's rank-one edit."""

    def __init__(self, module: nn.Module, now: Now):
        super().__init__()
        self.module, self.now = module, now

    def forward(self, context: Tensor) -> Tensor:
        if not self.training:
            return self.module(context)
        rows = len(context)
        superclass = self.now.superclass.to(context).expand(rows, -1, -1)
        return self.module(context, concept_indices=self.now.index.expand(rows), text_enc_with_superclass=superclass)


@torch.no_grad()
def covariance(bench: Bench) -> Tensor | None:
    """Uncentred second moment of text features over captions; None leaves the package's own for SD1.x."""
    if bench.name != "demo":
        return None
    total, count = 0.0, 0
    for seed in range(CAPTIONS):
        caption = world.caption(*world.sample_scene(seed), random.Random(seed))
        tokens = bench.text(caption).tokens[0, 1 : prompts.used(caption, bench.model.text.tokenize)]
        total, count = total + tokens.T @ tokens, count + len(tokens)
    return total / count + 1e-4 * torch.eye(tokens.shape[-1])


def edit(unet: nn.Module, now: Now, c: Tensor | None) -> dict[str, Edited]:
    """Edits in every cross-attention layer, by name: keys are locked to the class word's, values are learned."""
    from perfusion_pytorch import Rank1EditModule

    found = {}
    for name in list(unet.attn_processors):
        if name.endswith("attn2.processor"):
            layer = unet.get_submodule(name.removesuffix(".processor"))
            for which in ("to_k", "to_v"):
                made = Rank1EditModule(getattr(layer, which), C=c, is_key_proj=which == "to_k", text_seq_len=77)
                edited = Edited(made, now)
                setattr(layer, which, edited)
                found[f"{name.removesuffix('.processor')}.{which}"] = edited
    return found


def begin(bench: Bench, case: Case, recipe: Recipe) -> Tuning:
    """A new word in the place of the class word, its keys the class word's, its values learned.

    Raises:
        ValueError: a class word of several tokens, which the package's edits don't take.
    """
    denoiser, word = copied(bench), NewWord(one_tower(bench), case.word)
    plain_text, new_text = bench.text(f"a photo of a {case.word}", [case.word]), f"a photo of a {NEW}"
    (where,) = plain_text.words[case.word].nonzero(as_tuple=True)
    if len(where) != 1:
        raise ValueError(f"class: {case.word!r} is {len(where)} tokens long; Perfusion's edits take words of one token")
    edits = edit(denoiser.unet, Now(where, plain_text.tokens), covariance(bench))
    parameters: dict[str, Tensor] = {"word": word.vector}
    for name, edited in edits.items():
        kept = edited.module
        # what only moves by averaging is kept with what is learned
        parameters |= {f"{name}.outputs": kept.concept_outputs, f"{name}.inputs": kept.ema_concept_text_encs}
        parameters[f"{name}.begun"] = kept.initted
    own = denoising(denoiser, lambda: word(new_text), latents_of(bench.groups(case)), recipe.batch)

    def use(costs: Mapping[str, float]) -> Customised:
        for edited in edits.values():
            edited.eval()

        def read(prompt: str) -> Text:
            return word(renamed(prompt, case.word, NEW))

        return plain(bench, denoiser, read, model=Model(denoiser), costs=costs)

    return Tuning(parameters, with_prior(own, None, 0), use)
