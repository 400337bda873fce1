"""Toffee on SD1.x, SD2.x and SDXL layouts with random weights: both runtimes, merged or beside, what it leaves."""

import torch
from common import rel
from layouts import Control, comfy_model, networks
from likeness_in_comfyui.core import weights
from likeness_in_comfyui.core.diffusers import DiffusersDenoiser, Text
from likeness_in_comfyui.core.diffusion import Schedule
from likeness_in_comfyui.core.reach import Reach
from likeness_in_comfyui.core.toffee import adapter as adapters
from likeness_in_comfyui.core.toffee.adapter import Injection
from likeness_in_comfyui.core.toffee.tokens import Tokens
from likeness_in_comfyui.core.vision.preprocess import Preprocess
from likeness_in_comfyui.nodes import denoiser, toffee_model

WIDTH = 24
WHAT = {"adapter": 0, "whole": None, "low-rank": 2}


def learned(base, rank):
    """A Refiner whose every tensor is random."""
    torch.manual_seed(0)
    delta = None if rank == 0 else weights.blank(weights.layers_of(base.unet), rank)
    adapter = adapters.blank("refiner", base.sites, WIDTH, delta, dino="some/dino")
    g = torch.Generator().manual_seed(0)
    for p in adapter.parameters():
        p += 0.05 * torch.randn(p.shape, generator=g)
    return adapter.eval().requires_grad_(False)


def described(rows=1):
    g = torch.Generator().manual_seed(4)
    tokens, pictures = torch.randn(rows, 17, WIDTH, generator=g), torch.zeros(rows, 3, 8, 8)
    return Tokens(tokens, (4, 4), "somebody/DINO", pictures, (8, 8), Preprocess())


def conditioning(text, **options):
    added = text.extra.get("added_cond_kwargs", {})
    return [[text.tokens, {**({"pooled_output": added["text_embeds"]} if added else {}), **options}]]


def residuals(base):
    """What `layouts.Control` adds, in diffusers' words."""
    sizes = [(2, s.channels, 16 // 2**s.level, 16 // 2**s.level) for s in base.skips]
    down = tuple(torch.full(size, 0.3) for size in sizes[:-1])
    middle = torch.full((*sizes[-1][:2], 4, 4), 0.4)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def one_layout(layout, nets):
    result, unet = {}, nets.random_unet(layout)
    prediction = "v_prediction" if layout == "sd2" else "epsilon"
    base = DiffusersDenoiser(unet, Schedule(Schedule.scaled_linear().alphas, prediction))
    text, null = (Text(**nets.random_prompt(layout, seed)) for seed in (1, 2))
    null, model = null.unconditional(), comfy_model(layout, unet.state_dict())
    control = Control([(s.channels, s.level) for s in base.skips])
    conds = {
        "positive": conditioning(text),
        "negative": conditioning(null),
        "controlled": conditioning(text, control=control, control_apply_to_uncond=False),
    }
    z, tokens = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(7)), described(2)

    def ask(model, name="positive"):
        def work(native, _, prompts):
            return native(z, 400, prompts["negative"], prompts[name])

        return denoiser.run(model, conds, torch.zeros(2, 4, 16, 16), work)

    plain = ask(model)
    for what, rank in WHAT.items():
        loaded = toffee_model.loaded(learned(base, rank))
        hooks = Injection(learned(base, rank), tokens.tokens, 1000, Reach(0.7)).hooks
        wanted = base(z, 400, null, text, hooks=hooks)
        ours = {
            "merged": toffee_model.apply(model, loaded, tokens, Reach(0.7)),
            "beside": toffee_model.apply(model, loaded, tokens, Reach(0.7, 0.0, 0.9)),
        }
        for way, applied in ours.items():
            seen = ask(applied)
            result[f"{what} {way}"] = max(rel(a, b) for a, b in zip(seen, wanted))
            result[f"{what} {way} changes"] = rel(seen[1], plain[1])
        away = toffee_model.apply(model, loaded, tokens, Reach(0.7, 0.0, 0.3))
        result[f"{what} away"] = all(torch.equal(a, b) for a, b in zip(ask(away), plain))
        result[f"{what} off"] = all(
            torch.equal(a, b) for a, b in zip(ask(toffee_model.apply(model, loaded, tokens, Reach(0.0))), plain)
        )
        controlled = base(z, 400, Text(text.tokens, extra={**text.extra, **residuals(base)}), hooks=hooks)[0]
        result[f"{what} controlled"] = rel(ask(ours["merged"], "controlled")[1], controlled)
    result["merged keys"] = len(ours["merged"].patches) == sum(
        name.endswith("/down") for name in loaded.delta.model.whole()
    )
    result["left"] = sum(len(m._forward_hooks) for m in model.model.diffusion_model.modules())
    result["still"] = all(torch.equal(a, b) for a, b in zip(ask(model), plain))
    return result


def main(pack):
    nets = networks()
    with torch.no_grad():
        return {layout: one_layout(layout, nets) for layout in nets.LAYOUTS}
