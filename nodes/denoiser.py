"""ComfyUI's runtime: methods inside ordinary sampling (`attach`), and a `Denoiser` over a MODEL (`run`).

Only public hooks and wrappers; LoRA patches, ControlNet and offloading are ComfyUI's own and stay in force.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core import prompts
from ..core.denoiser import Hooks
from ..core.diffusion import Schedule
from .hooks import install, sites, skips, unet_of

WORDS = "likeness_words"
NEGATIVE = "negative"
PREDICTIONS = {"EPS": "epsilon", "V_PREDICTION": "v_prediction"}


# --- words -----------------------------------------------------------------------------------------------------------


def find_words(clip: Any, prompt: str, words: Sequence[str]) -> dict[str, Tensor]:
    """Where each word stands among the text tokens that this CLIP makes of a prompt: bool, (tokens,)."""

    def pieces(text: str) -> list[list[prompts.Piece]]:
        chunks = next(iter(clip.tokenize(text).values()))
        # an embedding stands for tokens that have no text
        texts = [
            ["\0" + prompts.END if torch.is_tensor(p[0]) else clip.tokenizer.untokenize([p])[0][1] for p in c]
            for c in chunks
        ]
        return [[prompts.Piece(0, t, p[1]) for t, p in zip(row, c)] for row, c in zip(texts, chunks)]

    def tokenize(text: str) -> list[prompts.Piece]:
        return [p for p in pieces(text)[0] if not p.text.startswith("<|")]

    chunks = pieces(prompt)
    starts = [sum(len(c) for c in chunks[:i]) for i in range(len(chunks))]
    placed = [(s + i, p) for s, c in zip(starts, chunks) for i, p in enumerate(c) if not p.text.startswith("<|")]
    return {word: prompts.find(word, placed, sum(map(len, chunks)), tokenize) for word in words}


def mark_words(conditioning: list, where: Mapping[str, Tensor]) -> list:
    """The same CONDITIONING, whose entries know where words stand."""
    return [[tokens, {**options, WORDS: {**options.get(WORDS, {}), **where}}] for tokens, options in conditioning]


def _carry_rows(conds: Sequence[tuple[bool, Any]], words: Sequence[str], key: str) -> list[Any]:
    """Conditionings whose entries carry, as a model input, whether they are conditional and where the words stand.

    Args:
        conds: (conditional, entries) of each conditioning; entries may be None.
    """
    entries = [e for _, cond in conds for e in cond or ()]
    # one length for all, or ComfyUI could not batch prompts of different lengths; positions repeat as tokens do
    length = math.lcm(1, *(e["cross_attn"].shape[1] for e in entries if e.get("cross_attn") is not None))

    def carry(conditional: bool, entry: dict[str, Any]) -> dict[str, Any]:
        marks = torch.zeros(1, 1 + len(words), length, dtype=torch.int)
        marks[:, 0] = int(conditional)
        for i, word in enumerate(words):
            where = entry.get(WORDS, {}).get(word)
            if where is not None:
                marks[0, 1 + i] = where.repeat(-(-length // len(where)))[:length]
        return {**entry, "model_conds": {**entry["model_conds"], key: comfy.conds.CONDRegular(marks)}}

    return [cond and [carry(conditional, e) for e in cond] for conditional, cond in conds]


# --- inside ordinary sampling ----------------------------------------------------------------------------------------


def attach(model: Any, hooks: Hooks) -> Any:
    """A clone of MODEL that carries a method into any sampler node.

    Conditionings whose words the method follows are marked by `mark_words`.
    """
    unet_of(model)
    key = f"likeness_{uuid.uuid4().hex}"

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        # the guider puts its own options back when the run ends
        guider.model_options = install(guider.model_options, unet_of(guider.model_patcher), hooks, key)
        carried = _carry_rows([(name != NEGATIVE, c) for name, c in guider.conds.items()], hooks.words, key)
        guider.conds = dict(zip(guider.conds, carried))
        return executor(*args, **kwargs)

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, wrapper)
    return patched


# --- as a Denoiser ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """`core.denoiser.Conditioning` over ComfyUI's processed conditioning entries."""

    name: str
    entries: tuple[dict[str, Any], ...]

    @property
    def tokens(self) -> Tensor:
        if len(self.entries) != 1:
            raise ValueError(f"{self.name}: a method that reads the text needs one prompt, this one combines several")
        return self.entries[0]["model_conds"]["c_crossattn"].cond

    def with_tokens(self, tokens: Tensor) -> Prompt:
        entry, _ = self.entries[0], self.tokens
        replaced = comfy.conds.CONDCrossAttn(tokens)
        return Prompt(self.name, ({**entry, "model_conds": {**entry["model_conds"], "c_crossattn": replaced}},))


class ComfyDenoiser:
    """`core.denoiser.Denoiser` over a MODEL that is loaded and prepared; `run` makes it."""

    def __init__(self, guider: Any, model_options: dict[str, Any]):
        self._inner, self._options = guider.inner_model, model_options
        self._unet = unet_of(guider.model_patcher)
        kind = PREDICTIONS.get(self._inner.model_type.name)
        if kind is None:
            raise ValueError(
                f"model: it predicts {self._inner.model_type.name}; Likeness knows {', '.join(PREDICTIONS)}"
            )
        self.schedule = Schedule(1 / (1 + self._inner.model_sampling.sigmas.double() ** 2), prediction=kind)
        self.sites, self.skips = tuple(sites(self._unet)), skips(self._unet)

    def __call__(self, z: Tensor, t: int, *conditions: Prompt, hooks: Hooks | None = None) -> tuple[Tensor, ...]:
        options, conds = self._options, [list(c.entries) for c in conditions]
        if hooks is not None:
            key = f"likeness_{uuid.uuid4().hex}"
            options = install(options, self._unet, hooks, key)
            conds = _carry_rows([(c.name != NEGATIVE, c.entries) for c in conditions], hooks.words, key)
        sigma = self._inner.model_sampling.sigmas[t].to(z)
        x = z * (1 + sigma**2).sqrt()
        clean = comfy.samplers.calc_cond_batch(self._inner, conds, x, sigma.expand(len(z)), options)
        return tuple(self.schedule.output(x0, z, t) for x0 in clean)


Work = Callable[[ComfyDenoiser, Tensor, dict[str, Prompt]], Any]


def run(model: Any, conditionings: Mapping[str, list], latent: Tensor, work: Work, *, gradients: bool = False) -> Any:
    """Run a method's own loop over a MODEL, loaded, patched and cleaned up as for any sampler.

    Args:
        conditionings: name -> CONDITIONING; "negative" is the unconditional one.
        latent: `LATENT["samples"]`.
        work: called as `(denoiser, z, prompts)` with the latents in the model's own scale.
        gradients: whether work needs autograd. Weights made under inference mode are then lent as plain copies, and the
            caller's are put back, whatever happens.

    Returns:
        What work returned.
    """
    with (
        torch.inference_mode(False) if gradients else nullcontext(),
        torch.enable_grad() if gradients else nullcontext(),
    ):
        if gradients:
            conditionings, latent = _plain(conditionings), _plain(latent)
            if getattr(model, "is_dynamic", bool)():
                model = model.get_non_dynamic_delegate()  # weights that page in and out can't be lent to autograd
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds(dict(conditionings))
        sampler = _Work(work, gradients)
        top = model.get_model_object("model_sampling").sigma_max
        guider.sample(torch.zeros_like(latent), latent, sampler, torch.tensor([float(top), 0.0]), disable_pbar=True)
        return sampler.result


class _Work(comfy.samplers.Sampler):
    """A sampler that hands the prepared model to a method."""

    def __init__(self, work: Work, gradients: bool):
        self.work, self.gradients, self.result = work, gradients, None

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ):
        named = {name: Prompt(name, tuple(entries)) for name, entries in model_wrap.conds.items()}
        with _plain_weights(model_wrap.inner_model) if self.gradients else nullcontext():
            self.result = self.work(ComfyDenoiser(model_wrap, extra_args["model_options"]), latent_image, named)
        return latent_image


def _plain(value: Any) -> Any:
    """A copy whose tensors autograd may save; anything else is shared."""
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value


@contextmanager
def _plain_weights(module: torch.nn.Module) -> Iterator[None]:
    """Lend plain copies of inference tensors to a module whose weights others share."""
    lent = []
    try:
        for part in module.modules():
            for store in (part._parameters, part._buffers):
                for name, tensor in store.items():
                    if tensor is not None and tensor.is_inference():
                        lent.append((store, name, tensor))
                        copy = tensor.detach().clone()
                        store[name] = torch.nn.Parameter(copy, False) if store is part._parameters else copy
        yield
    finally:
        for store, name, tensor in lent:
            store[name] = tensor
