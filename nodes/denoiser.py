"""ComfyUI's runtime: methods inside ordinary sampling (`attach`), and a `Denoiser` over a MODEL (`run`).

Only public hooks and wrappers; LoRA patches, ControlNet and offloading are ComfyUI's own and stay in force.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ..core.denoiser import Hooks, rows_of
from ..core.diffusion import Schedule
from . import gradients as autograd
from . import streams
from .hooks import install, sites, skips, unet_of
from .words import UNCONDITIONAL, carry_rows, holds, is_conditional, seal_words, without_words

STREAMS, LAST = "likeness_streams", "likeness_last"
PER_ROW = {"y"}  # what a prompt gives the network besides its tokens


def attach(
    model: Any, hooks: Hooks, key: str | None = None, share_unconditional: bool = False, last: bool = False
) -> Any:
    """A clone of MODEL that carries a method into any sampler node.

    Conditionings whose words the method follows are marked by `words.mark_words`. A method of several streams draws
    every picture so many times, and the sampler returns the last stream; where no prompt holds any of its words there
    is nothing to do, and the picture is drawn as if the method were not there.

    Args:
        key: a name under which this attachment replaces an earlier one.
        share_unconditional: whether all streams take the first one's unconditional prediction.
        last: whether its attention lies around all other methods', also of those attached later: one that needs every
            row, where others may ask their layers for some only.

    Raises:
        ValueError: a model without U-Net, or one that another method draws in several streams already.
    """
    unet_of(model)
    name = key or (f"{LAST}_" if last else "") + _new_key()
    if hooks.streams > 1 and model.get_attachment(STREAMS) not in (None, name):
        raise ValueError("model: another method draws it in several streams already; connect the model from before it")

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        if guider.model_patcher.get_additional_models_with_key("multigpu"):
            raise ValueError(
                "model: MultiGPU draws with copies that this method can't reach; connect the model before it"
            )
        roles = [(name not in UNCONDITIONAL, cond) for name, cond in guider.conds.items()]
        held = [holds(e, word) for towards, cond in roles if towards for e in cond or () for word in hooks.words]
        if hooks.streams > 1 and hooks.words and not any(held):
            return executor(*args, **kwargs)
        rows = _new_key()
        # the guider puts its own options back when the run ends
        guider.model_options = install(guider.model_options, guider.model_patcher, hooks, rows)
        guider.conds = dict(zip(guider.conds, carry_rows(roles, hooks.words, rows)))
        if hooks.streams == 1:
            return executor(*args, **kwargs)
        if share_unconditional:
            shared = streams.share_unconditional(hooks.streams, lambda cond: is_conditional(cond, rows))
            add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, rows, shared, guider.model_options, is_model_options=True)
        return streams.sample(hooks.streams, executor, guider, *args, **kwargs)

    patched = model.clone()
    patched.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, name)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, name, wrapper)
    wrappers = patched.wrappers[WrappersMP.OUTER_SAMPLE]
    for later in [key for key in wrappers if key and key.startswith(LAST)]:
        wrappers[later] = wrappers.pop(later)  # what is installed last lies outermost
    if hooks.streams > 1:
        patched.set_attachments(STREAMS, name)
    return patched


def _new_key() -> str:
    return f"likeness_{uuid.uuid4().hex}"


@dataclass(frozen=True)
class Prompt:
    """`core.denoiser.Conditioning` over ComfyUI's processed conditioning entries."""

    name: str
    entries: tuple[dict[str, Any], ...]
    conditional: bool = True

    @property
    def tokens(self) -> Tensor:
        if len(self.entries) != 1:
            raise ValueError(
                f"{self.name}: a method that reads the text needs one prompt for the whole picture; "
                "this one combines several, or another prompt here has an area"
            )
        return self.entries[0]["model_conds"]["c_crossattn"].cond

    def with_tokens(self, tokens: Tensor) -> Prompt:
        entry, _ = self.entries[0], self.tokens
        replaced = comfy.conds.CONDCrossAttn(tokens)
        return replace(self, entries=({**entry, "model_conds": {**entry["model_conds"], "c_crossattn": replaced}},))

    def with_rows(self, others: Sequence[Prompt]) -> Prompt:
        prompts = (self, *others)
        tokens = rows_of([prompt.tokens for prompt in prompts])
        conds = [prompt.entries[0]["model_conds"] for prompt in prompts]
        rows = {k: type(c)(torch.cat([each[k].cond for each in conds])) for k, c in conds[0].items() if k in PER_ROW}
        entry = self.entries[0]
        return replace(self, entries=({**entry, "model_conds": {**conds[0], **rows}},)).with_tokens(tokens)

    def unconditional(self) -> Prompt:
        return replace(self, conditional=False)

    def holds(self, word: str) -> bool:
        return any(holds(entry, word) for entry in self.entries)


class ComfyDenoiser:
    """`core.denoiser.Denoiser` over a MODEL that is loaded and prepared; `run` makes it.

    A prompt outside of its start and end percent draws nothing, as in ComfyUI's own sampling.
    """

    def __init__(self, guider: Any, model_options: dict[str, Any]):
        self._inner, self._options = guider.inner_model, model_options
        self._model = guider.model_patcher
        unet = unet_of(self._model)
        self.schedule = schedule_of(self._inner.model_sampling)
        self.sites, self.skips = tuple(sites(unet)), skips(unet)

    def __call__(
        self, z: Tensor, t: int | Tensor, *conditions: Prompt, hooks: Hooks | None = None
    ) -> tuple[Tensor, ...]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        options, conds = self._options, [without_words(c.entries) for c in conditions]
        if hooks is not None:
            key = _new_key()
            options = install(options, self._model, hooks, key)
            conds = carry_rows([(c.conditional, c.entries) for c in conditions], hooks.words, key)
        sigmas = self._inner.model_sampling.sigmas
        sigma = sigmas[torch.as_tensor(t, device=sigmas.device)].to(z).expand(len(z))
        x = z * (1 + sigma.reshape(-1, 1, 1, 1) ** 2).sqrt()
        clean = comfy.samplers.calc_cond_batch(self._inner, conds, x, sigma, options)
        return tuple(self.schedule.output(x0, z, t) for x0 in clean)


def schedule_of(sampling: Any) -> Schedule:
    """The noise schedule of a MODEL, as its sampling patches have left it.

    Raises:
        ValueError: a model that predicts neither noise nor velocity, or has no table of noise levels.
    """
    is_v = isinstance(sampling, comfy.model_sampling.V_PREDICTION)
    is_eps = isinstance(sampling, comfy.model_sampling.EPS)
    other = isinstance(sampling, (comfy.model_sampling.EDM, comfy.model_sampling.X0))
    if other or not (is_v or is_eps) or not hasattr(sampling, "sigmas"):
        names = ", ".join(c.__name__ for c in type(sampling).__mro__[1:3])
        raise ValueError(f"model: its sampling is {names}; Likeness needs a discrete epsilon or v-prediction schedule")
    prediction = "v_prediction" if is_v else "epsilon"
    return Schedule(1 / (1 + sampling.sigmas.double() ** 2), prediction=prediction)


def timesteps_of(model: Any) -> int:
    """Timesteps of a MODEL's noise schedule; ValueError as `schedule_of`."""
    sampling = model.get_model_object("model_sampling")
    schedule_of(sampling)
    # distilled samplings keep few noise levels, but the timesteps of all
    return int(sampling.timestep(sampling.sigma_max)) + 1


Work = Callable[[ComfyDenoiser, Tensor, dict[str, Prompt]], Any]


def run(model: Any, conditionings: Mapping[str, list], latent: Tensor, work: Work, *, gradients: bool = False) -> Any:
    """Run a method's own loop over a MODEL, loaded, patched and cleaned up as for any sampler.

    Args:
        conditionings: name -> CONDITIONING; "negative" is the unconditional one.
        latent: `LATENT["samples"]`.
        work: called as `(denoiser, z, prompts)` with the latents in the model's own scale.
        gradients: whether work needs autograd. Weights made under inference mode are then lent as plain copies, and the
            caller's are put back, whatever happens; this takes the weights' memory a second time.

    Returns:
        What work returned.

    Raises:
        ValueError: a MODEL that draws several streams, whose parts a method's own loop could not tell apart.
    """
    if model.get_attachment(STREAMS):
        raise ValueError("model: it carries a concept (Apply Infusion); connect the model from before it")
    if gradients and not _paged(model):
        # moved outside of inference mode its weights would be of neither kind, and no sampler could use them after
        with torch.inference_mode():
            comfy.model_management.load_models_gpu([model])
    with _for_gradients(model) if gradients else nullcontext(model) as model:
        if gradients:
            conditionings, latent = autograd.plain(conditionings), autograd.plain(latent)
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({name: seal_words(cond) for name, cond in conditionings.items()})
        sampler = _Work(work, gradients)
        top = model.get_model_object("model_sampling").sigma_max
        guider.sample(torch.zeros_like(latent), latent, sampler, torch.tensor([float(top), 0.0]), disable_pbar=True)
        return sampler.result


def _paged(model: Any) -> bool:
    """Whether weights page in and out, and so can't be lent; versions without paging have no such method."""
    return hasattr(model, "is_dynamic") and model.is_dynamic()


@contextmanager
def _for_gradients(model: Any) -> Iterator[Any]:
    """A MODEL whose weights can be lent, with autograd; what was made for it is unloaded afterwards."""
    with autograd.enabled():
        if not _paged(model):
            yield model
            return
        delegate = model.get_non_dynamic_delegate()
        # its layers have the file's types, and don't cast by themselves
        delegate.set_model_compute_dtype(delegate.model.get_dtype_inference())
        try:
            yield delegate
        finally:
            comfy.model_management.unload_model_and_clones(delegate)


def _on(device: torch.device, entry: dict[str, Any]) -> dict[str, Any]:
    """A conditioning entry whose text lies where a method's own loop calculates."""
    if (text := entry["model_conds"].get("c_crossattn")) is None:
        return entry
    moved = type(text)(text.cond.to(device))
    return {**entry, "model_conds": {**entry["model_conds"], "c_crossattn": moved}}


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
    ) -> Tensor | None:
        device = latent_image.device
        named = {
            name: Prompt(name, tuple(_on(device, entry) for entry in entries), name not in UNCONDITIONAL)
            for name, entries in model_wrap.conds.items()
        }
        others = [patcher.model for patcher in model_wrap.loaded_models]  # ControlNets and the like
        lent = autograd.plain_weights([model_wrap.inner_model, *others]) if self.gradients else nullcontext()
        options = extra_args["model_options"]
        with lent:
            denoiser = ComfyDenoiser(model_wrap, autograd.differentiable(options) if self.gradients else options)
            self.result = self.work(denoiser, latent_image, named)
        return latent_image
