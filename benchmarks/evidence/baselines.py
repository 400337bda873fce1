"""Baselines that are tuned on a subject: Textual Inversion, DreamBooth, DreamBooth-LoRA, Custom Diffusion.

Networks, attention processors and LoRA layers are those of diffusers, transformers and peft; losses are those of
diffusers' example trainers, which are scripts and can't be called on a model in memory.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial

import torch
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from grid import Case
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.metrics.overfitting import Model
from likeness.core.text import Tower
from likeness.training.data.photos import Group
from likeness.training.demo_lora import add_lora
from torch import Tensor, nn

from .bench import Bench
from .learned import Customised, Recipe, Tuning, class_pictures, denoising, plain, with_prior

NEW = "<subject>"
RARE = "sks"  # the identifier of diffusers' DreamBooth trainers
CLASS_PICTURES = 32  # diffusers' trainers draw 100; ours are smaller


def latents_of(groups: Sequence[Group]) -> Tensor:
    """All photos; ValueError where they have several shapes, which the baselines' trainers don't take."""
    if len(groups) != 1:
        raise ValueError("images: the baselines learn from photos of one shape; crop them to squares")
    return groups[0].data


def renamed(prompt: str, word: str, other: str) -> str:
    """A prompt with the subject's word replaced wherever it stands."""
    return re.sub(rf"\b{re.escape(word)}\b", other, prompt)


# --- Textual Inversion -----------------------------------------------------------------------------------------------


class NewWord:
    """A text encoder with one more word, whose embedding is learned (Gal et al. 2022).

    Args:
        tower: of the foundation; copied.
        like: text whose tokens' mean embedding the word begins as.

    Raises:
        ValueError: see `one_tower`.
    """

    def __init__(self, tower: Tower, like: str):
        self.tokenizer = copy.deepcopy(tower.tokenizer)
        self.tokenizer.add_tokens([NEW])
        self.model = copy.deepcopy(tower.model)
        self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.model.requires_grad_(False)
        self.id = self.tokenizer.convert_tokens_to_ids(NEW)
        table = self.model.get_input_embeddings()
        start = table.weight[self.tokenizer(like, add_special_tokens=False).input_ids].mean(0)
        self.vector = nn.Parameter(start.detach().float().clone())
        table.register_forward_hook(self._put)

    def _put(self, layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return torch.where((args[0] == self.id)[..., None], self.vector.to(output), output)

    def __call__(self, prompt: str) -> Text:
        """A prompt, with gradients to the word where they are wanted."""
        length = min(77, self.tokenizer.model_max_length)
        ids = self.tokenizer(prompt, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return Text(self.model(ids.input_ids.to(self.model.device)).last_hidden_state)


def one_tower(bench: Bench) -> Tower:
    """The only text encoder; ValueError for a model with two, for which these baselines are not written."""
    if len(bench.model.text.towers) != 1:
        raise ValueError(f"model: {bench.name} has two text encoders; this baseline works on SD1.x and SD2.x")
    return bench.model.text.towers[0]


def textual_inversion(bench: Bench, case: Case, recipe: Recipe) -> Tuning:
    """One new word in the place of the class word, which it begins as."""
    word, denoiser = NewWord(one_tower(bench), case.word), bench.model.denoiser
    text = partial(word, f"a photo of a {NEW}")
    loss = denoising(denoiser, text, latents_of(bench.groups(case)), recipe.batch)

    def use(costs: Mapping[str, float]) -> Customised:
        return plain(bench, denoiser, lambda prompt: word(renamed(prompt, case.word, NEW)), costs=costs)

    return Tuning({"word": word.vector}, with_prior(loss, None, 0), use)


# --- DreamBooth ------------------------------------------------------------------------------------------------------


def copied(bench: Bench) -> DiffusersDenoiser:
    """A denoiser of its own, whose weights may change."""
    return DiffusersDenoiser(copy.deepcopy(bench.model.denoiser.unet), bench.model.denoiser.schedule)


def dreambooth(bench: Bench, case: Case, recipe: Recipe) -> Tuning:
    """The whole U-Net, with prior preservation (Ruiz et al. 2023)."""
    denoiser = copied(bench)
    denoiser.unet.requires_grad_(True)
    return _network(bench, case, recipe, denoiser, dict(denoiser.unet.named_parameters()))


def dreambooth_lora(bench: Bench, case: Case, recipe: Recipe) -> Tuning:
    """peft's LoRA on the attention projections, else as DreamBooth."""
    denoiser = copied(bench)
    return _network(bench, case, recipe, denoiser, add_lora(denoiser.unet, recipe.rank, seed=0))


def _network(
    bench: Bench, case: Case, recipe: Recipe, denoiser: DiffusersDenoiser, parameters: dict[str, Tensor]
) -> Tuning:
    named = f"{recipe.identifier} {case.word}".strip()
    text = bench.text(f"a photo of a {named}")
    own = denoising(denoiser, lambda: text, latents_of(bench.groups(case)), recipe.batch)
    loss = with_prior(own, prior_of(bench, case, recipe, denoiser), recipe.prior)

    def use(costs: Mapping[str, float]) -> Customised:
        def read(prompt: str) -> Text:
            return bench.text(renamed(prompt, case.word, named))

        return plain(bench, denoiser, read, model=Model(denoiser), costs=costs)

    return Tuning(parameters, loss, use)


def prior_of(bench: Bench, case: Case, recipe: Recipe, denoiser: DiffusersDenoiser):
    """The loss of class pictures; None where the recipe has none."""
    if not recipe.prior:
        return None
    text = bench.text(f"a photo of a {case.word}")

    @cache
    def ready():  # drawn when the first step needs them: what has been learned needs none
        return denoising(denoiser, lambda: text, class_pictures(bench, case, CLASS_PICTURES), recipe.batch)

    return lambda generator: ready()(generator)


# --- Custom Diffusion ------------------------------------------------------------------------------------------------


def custom_diffusion(bench: Bench, case: Case, recipe: Recipe) -> Tuning:
    """Keys and values of every cross-attention layer and a new word before the class word (Kumari et al. 2023)."""
    denoiser, word = copied(bench), NewWord(one_tower(bench), RARE)
    parameters = {f"unet.{name}": p for name, p in add_keys_and_values(denoiser.unet).items()} | {"word": word.vector}
    own = denoising(
        denoiser, partial(word, f"a photo of a {NEW} {case.word}"), latents_of(bench.groups(case)), recipe.batch
    )
    loss = with_prior(own, prior_of(bench, case, recipe, denoiser), recipe.prior)

    def use(costs: Mapping[str, float]) -> Customised:
        def read(prompt: str) -> Text:
            return word(renamed(prompt, case.word, f"{NEW} {case.word}"))

        return plain(bench, denoiser, read, model=Model(denoiser), costs=costs)

    return Tuning(parameters, loss, use)


def add_keys_and_values(unet) -> dict[str, Tensor]:
    """diffusers' Custom Diffusion processors in every cross-attention layer, which begin as its own projections."""
    processors = dict(unet.attn_processors)
    for name in processors:
        layer = unet.get_submodule(name.removesuffix(".processor"))
        if name.endswith("attn2.processor"):
            made = CustomDiffusionAttnProcessor2_0(
                train_kv=True,
                train_q_out=False,
                hidden_size=layer.to_k.out_features,
                cross_attention_dim=layer.to_k.in_features,
            )
            made.to_k_custom_diffusion.weight.data.copy_(layer.to_k.weight)
            made.to_v_custom_diffusion.weight.data.copy_(layer.to_v.weight)
            processors[name] = made
    unet.set_attn_processor(processors)
    return {n: p for n, p in unet.named_parameters() if "custom_diffusion" in n}
