"""The headless runtime: a `Denoiser` over diffusers' `UNet2DConditionModel`, for SD1.x, SD2.x and SDXL layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .attention import Rows, Site
from .denoiser import Hooks, rows_of
from .diffusers_skips import residuals, skips_of
from .diffusion import Schedule
from .weights import put_in


@dataclass(frozen=True)
class Text:
    """A prompt for a diffusers U-Net.

    Args:
        tokens: (1 or B, L, width).
        words: word -> bool (L,), where it stands in the prompt.
        conditional: False in the role of the negative prompt.
        extra: further keyword arguments of the U-Net's forward, opaque to every method (`added_cond_kwargs`,
            `down_block_additional_residuals`, ...); tensors in it have 1 or B rows.
        channels: further input channels (inpainting mask and masked latent), (1 or B, C, H, W).
    """

    tokens: Tensor
    words: Mapping[str, Tensor] = field(default_factory=dict)
    conditional: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    channels: Tensor | None = None

    def with_tokens(self, tokens: Tensor) -> Text:
        return replace(self, tokens=tokens)

    def with_rows(self, others: Sequence[Text]) -> Text:
        texts = (self, *others)
        extra = _stack([text.extra for text in texts], 1, self.tokens.dtype)
        return replace(self, tokens=rows_of([text.tokens for text in texts]), words={}, extra=extra)

    def unconditional(self) -> Text:
        return replace(self, conditional=False)

    def holds(self, word: str) -> bool:
        return word in self.words and bool(self.words[word].any())


class DiffusersDenoiser:
    """`core.denoiser.Denoiser` over a diffusers U-Net.

    Hooks are put in for the time of a call and taken out again, whatever happens; adapters inside the layers (LoRA)
    stay in force.

    Args:
        unet: a `UNet2DConditionModel`.
        schedule: the checkpoint's noise schedule.
    """

    def __init__(self, unet: Any, schedule: Schedule):
        self.unet, self.schedule = unet, schedule
        self._modules = dict(_attention_modules(unet))
        self.sites = tuple(self._modules)
        self.skips = skips_of(unet)
        self._running: tuple[Hooks, Rows] | None = None

    def save_memory(self) -> None:
        """From now on recompute activations in the backward pass instead of keeping them; hooks take part again."""
        from torch.utils.checkpoint import checkpoint

        def rerun(function: Any, *args: Any) -> Any:
            again = self._inside(*self._running)
            return checkpoint(function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again))

        self.unet.enable_gradient_checkpointing(rerun)

    def __call__(self, z: Tensor, t: int | Tensor, *conditions: Text, hooks: Hooks | None = None) -> tuple[Tensor, ...]:
        hooks = hooks or Hooks()
        if len(conditions) > 1 and not all(_alike(c.extra, conditions[0].extra) for c in conditions):
            # what only one of them has (a ControlNet, say) can't be stacked
            return tuple(self(z, t, c, hooks=hooks)[0] for c in conditions)
        batch, count = len(z), len(conditions)
        inputs = torch.cat([_with_channels(z, c.channels) for c in conditions])
        length = math.lcm(*(c.tokens.shape[1] for c in conditions))
        tokens = torch.cat([_rows(c.tokens.repeat(1, length // c.tokens.shape[1], 1), batch) for c in conditions])
        extra = _stack([c.extra for c in conditions], batch, self.unet.dtype)
        times = torch.as_tensor(t, device=z.device).expand(batch).repeat(count)
        rows = _describe(conditions, batch, hooks, times, (z.shape[-2], z.shape[-1]))
        if hooks.before is not None:
            hooks.before(self._alone, rows)
        if hooks.text is not None:
            tokens = hooks.text(tokens, rows)
        inputs, tokens = inputs.to(self.unet.dtype), tokens.to(self.unet.dtype)
        self._running = hooks, rows
        with self._inside(hooks, rows), residuals(self.unet, self.skips, hooks, rows):
            output = self.unet(inputs, times, encoder_hidden_states=tokens, return_dict=False, **extra)[0]
        return output.to(z.dtype).chunk(count)

    def _alone(self, z: Tensor, t: Tensor, tokens: Tensor, attention: Any, **extra: Tensor) -> None:
        """`core.denoiser.Network`."""
        added = {"added_cond_kwargs": extra} if extra else {}
        self(z, t, Text(tokens, extra=added), hooks=Hooks(attention=attention))

    @contextmanager
    def _inside(self, hooks: Hooks, rows: Rows) -> Iterator[None]:
        """What takes part inside of the blocks, and takes part again where a block is recomputed."""
        handles = put_in(self.unet.get_submodule, hooks.weights, rows)
        try:
            with _attention(self._modules, hooks, rows):
                yield
        finally:
            for handle in handles:
                handle.remove()


def _rows(x: Tensor, batch: int) -> Tensor:
    if len(x) not in (1, batch):
        raise ValueError(f"a conditioning has {len(x)} rows for a batch of {batch} latents; give it 1 or {batch}")
    return x.expand(batch, *x.shape[1:])


def _with_channels(z: Tensor, channels: Tensor | None) -> Tensor:
    return z if channels is None else torch.cat([z, _rows(channels.to(z), len(z))], dim=1)


def _alike(a: Any, b: Any) -> bool:
    """Whether two opaque arguments can be stacked row-wise: one structure, equal where they hold no tensors."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape[1:] == b.shape[1:]
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_alike(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(_alike, a, b))
    return not isinstance(b, Tensor) and a == b


def _stack(values: list[Any], batch: int, dtype: torch.dtype) -> Any:
    """Opaque arguments of several conditionings, stacked row-wise wherever they hold tensors."""
    first = values[0]
    if isinstance(first, Tensor):
        rows = torch.cat([_rows(v, batch) for v in values])
        return rows.to(dtype) if rows.is_floating_point() else rows
    if isinstance(first, Mapping):
        return {k: _stack([v[k] for v in values], batch, dtype) for k in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_stack(list(v), batch, dtype) for v in zip(*values))
    return first


def _describe(conditions: tuple[Text, ...], batch: int, hooks: Hooks, times: Tensor, size: tuple[int, int]) -> Rows:
    if batch % hooks.streams:
        raise ValueError(f"a batch of {batch} latents can't hold {hooks.streams} equal streams")
    length = math.lcm(*(c.tokens.shape[1] for c in conditions))  # positions repeat as the tokens do
    marks = torch.zeros(len(conditions), len(hooks.words), length, dtype=torch.bool)
    for i, condition in enumerate(conditions):
        for j, word in enumerate(hooks.words):
            if word in condition.words:
                where = condition.words[word].cpu()
                marks[i, j] = where.repeat(-(-length // len(where)))[:length]
    each, device = batch // hooks.streams, times.device
    number = torch.arange(batch, device=device).repeat(len(conditions))
    return Rows(
        conditional=torch.tensor([c.conditional for c in conditions]).repeat_interleave(batch).to(device),
        stream=number // each,
        timestep=times.float(),
        words=marks.repeat_interleave(batch, 0).to(device),
        picture=number % each,
        names=hooks.words,
        size=size,
    )


# --- attention -------------------------------------------------------------------------------------------------------


def _attention_modules(unet: Any) -> Iterator[tuple[Site, Any]]:
    """Every attention layer in the order of execution, with its site."""
    top = len(unet.down_blocks) - 1
    parts = [("down", i, block) for i, block in enumerate(unet.down_blocks)]
    parts += [("mid", top, unet.mid_block)]
    parts += [("up", top - i, block) for i, block in enumerate(unet.up_blocks)]
    order = 0
    for part, level, block in parts:
        for index, transformer in enumerate(getattr(block, "attentions", None) or ()):
            for depth, layer in enumerate(transformer.transformer_blocks):
                for kind, attn in (("self", layer.attn1), ("cross", layer.attn2)):
                    if attn is None:
                        continue
                    name = f"{part}.{level}.{index}.{depth}.{kind}"
                    width, context = attn.to_v.out_features, attn.to_v.in_features
                    yield Site(name, part, level, kind, order, attn.heads, width, context), attn
                    order += 1


class _Processor:
    """Runs diffusers' attention with a method's control in the place of the softmax."""

    def __init__(self, site: Site, control: Any, rows: Rows):
        self.site, self.control, self.rows = site, control, rows

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        # the transformer blocks of these U-Nets hand over (B, N, C) and use no norms or residual inside the layer
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(q))
            attention_mask = attention_mask.view(len(q), attn.heads, -1, attention_mask.shape[-1])

        out = self.control(self.site, q, k, v, self.rows, _Layer(self.site, attn, attention_mask)).to(q.dtype)
        for layer in attn.to_out:
            out = layer(out)
        return out / attn.rescale_output_factor


@dataclass(frozen=True)
class _Layer:
    """`core.attention.Layer` over a diffusers attention module."""

    site: Site
    module: Any
    mask: Tensor | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.mask is not None and len(q) != len(self.mask):
            raise NotImplementedError("a method that runs two streams can't use a text attention mask; leave it out")
        q, k, v = self.site.split(q), self.site.split(k), self.site.split(v)
        return self.site.merge(torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask))

    def values(self, context: Tensor) -> Tensor:
        return self.module.to_v(context.to(self.module.to_v.weight.dtype))


@contextmanager
def _attention(modules: Mapping[Site, Any], hooks: Hooks, rows: Rows) -> Iterator[None]:
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    before = []
    try:
        for site, attn in modules.items():
            if hooks.attention is None or not hooks.attention.wants(site):
                continue
            if not isinstance(attn.processor, (AttnProcessor, AttnProcessor2_0)):
                raise NotImplementedError(
                    f"attention layer {site.name} runs {type(attn.processor).__name__}; a method can only take part in "
                    "diffusers' standard attention. Call unet.set_default_attn_processor() first."
                )
            before.append((attn, attn.processor))
            attn.processor = _Processor(site, hooks.attention, rows)
        yield
    finally:
        for attn, processor in before:
            attn.processor = processor
