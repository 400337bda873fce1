"""RetriNet on SD1.x's, SD2.x's and SDXL's layouts with random weights: both runtimes, what it leaves, its beginning."""

import comfy.weight_adapter
import torch
from common import rel
from layouts import Control, comfy_model, networks
from likeness_in_comfyui.core.denoiser import Hooks
from likeness_in_comfyui.core.diffusers import DiffusersDenoiser, Text
from likeness_in_comfyui.core.diffusion import Schedule
from likeness_in_comfyui.core.reach import Reach
from likeness_in_comfyui.core.retrinet import network as retrinet
from likeness_in_comfyui.core.retrinet.control import Retrieval
from likeness_in_comfyui.core.retrinet.reference import References
from likeness_in_comfyui.core.weights import DECODER, layers_of
from likeness_in_comfyui.nodes import denoiser, hooks, retrinet_model

LAYER = {"sd1": "up_blocks.1.resnets.0.conv1", "sd2": "up_blocks.1.attentions.0.proj_in", "sdxl": "conv_out"}


def shaken(network, size=0.05):
    g = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p += size * torch.randn(p.shape, generator=g)
    return network.eval().requires_grad_(False)


def references(nets, layout):
    prompts = [nets.random_prompt(layout, 20 + i) for i in range(2)]
    added = [p["extra"].get("added_cond_kwargs", {}) for p in prompts]
    extra = {k: torch.cat([a[k] for a in added]) for k in added[0]}
    g = torch.Generator().manual_seed(9)
    masks = (torch.rand(2, 16, 16, generator=g) > 0.4).float()
    return References(torch.randn(2, 4, 16, 16, generator=g), torch.cat([p["tokens"] for p in prompts]), masks, extra)


def conditioning(text, **options):
    added = text.extra.get("added_cond_kwargs", {})
    return [[text.tokens, {**({"pooled_output": added["text_embeds"]} if added else {}), **options}]]


def left_behind(model):
    return sum(len(m._forward_hooks) for m in model.model.diffusion_model.modules())


class Clip:
    """Encodes everything as one text."""

    def __init__(self, text):
        [self.encoded] = conditioning(text)

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [self.encoded]


class Record:
    """Keeps the features at every skip."""

    def __init__(self):
        self.features = {}

    def wants(self, skip):
        return True

    def __call__(self, skip, features, rows):
        self.features[skip.name] = features.clone()


def one_layout(layout, nets):
    result = {}
    unet = nets.random_unet(layout)
    base = DiffusersDenoiser(
        unet, Schedule(Schedule.scaled_linear().alphas, "v_prediction" if layout == "sd2" else "epsilon")
    )
    text, null = (Text(**nets.random_prompt(layout, seed)) for seed in (1, 2))
    model, shown = comfy_model(layout, unet.state_dict()), references(nets, layout)
    known, own = (layers_of(unet), layers_of(unet, DECODER)), (hooks.layers_of(model), hooks.layers_of(model, DECODER))
    result["layers"] = set(known[0]) <= set(own[0]), set(known[1]) == set(own[1])
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    control = Control([(s.channels, s.level) for s in base.skips])
    conds = {
        "positive": conditioning(text),
        "negative": conditioning(null),
        "controlled": conditioning(text, control=control, control_apply_to_uncond=False),
    }

    def work(native, _, prompts):
        def both(hooks, name="positive"):
            return native(z, 400, prompts["negative"], prompts[name], hooks=hooks)

        plain = both(None)
        for rank in (None, 2):
            network = shaken(retrinet.blank(base, rank))
            ours = both(Retrieval(network, shown, 1000).hooks)
            wanted = base(z, 400, null.unconditional(), text, hooks=Retrieval(network, shown, 1000).hooks)
            result[f"agree {rank}"] = max(rel(a, b) for a, b in zip(ours, wanted))
            result[f"changes {rank}"] = rel(ours[1], plain[1])
            result[f"negative {rank}"] = rel(ours[0], plain[0])
            idle = [retrinet.blank(base, rank), network, network]
            reaches = [Reach(), Reach(0.0), Reach(1.0, 0.0, 0.3)]
            same = [both(Retrieval(n, shown, 1000, r).hooks) for n, r in zip(idle, reaches)]
            result[f"untouched {rank}"] = all(torch.equal(a, b) for s in same for a, b in zip(s, plain))
        # beside a ControlNet
        beside = both(Retrieval(network, shown, 1000).hooks, "controlled")[1]
        levels = [16 // 2**s.level for s in base.skips]
        extra = {
            **text.extra,
            "down_block_additional_residuals": tuple(
                torch.full((2, s.channels, n, n), 0.3) for s, n in zip(base.skips[:-1], levels)
            ),
            "mid_block_additional_residual": torch.full((2, base.skips[-1].channels, 4, 4), 0.4),
        }
        wanted = base(z, 400, Text(text.tokens, extra=extra), hooks=Retrieval(network, shown, 1000).hooks)[0]
        result["controlled"] = rel(beside, wanted)
        # rows of different prompts are what they are alone
        batch = native(z, 400, prompts["positive"].with_rows([prompts["negative"]]))[0]
        alone = [native(z, 400, prompts[name])[0][i] for i, name in enumerate(("positive", "negative"))]
        stacked = base(z, 400, text.with_rows([null]))[0]
        result["rows"] = max(rel(batch[i], alone[i]) for i in range(2)), rel(batch, stacked)
        result["left"] = left_behind(model)
        result["raised"] = raised(both, network, shown)
        result["left after an error"] = left_behind(model)
        result["still"] = all(torch.equal(a, b) for a, b in zip(both(None), plain))

    with torch.no_grad():
        denoiser.run(model, conds, torch.zeros(2, 4, 16, 16), work)
        result["lora"] = with_lora(model, base, layout, shown, z, conds, text)
        result["beginning"] = beginning(model, base, text, conds)
        tokens, extra = retrinet_model.read_word(model, Clip(text), "face", 128)
        added = text.extra.get("added_cond_kwargs", {})
        same = extra.keys() == added.keys() and all(torch.equal(extra[k], added[k]) for k in added)
        result["word"] = same and torch.equal(tokens, text.tokens)
    return result


def raised(both, network, shown):
    def stop(*looked):
        raise ZeroDivisionError

    try:
        both(Retrieval(network, shown, 1000, watch=stop).hooks)
    except ZeroDivisionError:
        return True


def with_lora(model, base, layout, shown, z, conds, text):
    """A LoRA on one of the layers that the differences work in, against weights changed by hand."""
    name = LAYER[layout]
    layer = base.unet.get_submodule(name)
    own = next(n for n, m in model.model.diffusion_model.named_modules() if m is hooks.layers_of(model)[name])
    g = torch.Generator().manual_seed(5)
    out, into = layer.weight.flatten(1).shape
    up, down = 0.1 * torch.randn(out, 4, generator=g), torch.randn(4, into, generator=g)
    adapter = comfy.weight_adapter.LoRAAdapter(set(), (up, down, None, None, None, None))
    patched = model.clone()
    patched.add_patches({f"diffusion_model.{own}.weight": adapter}, 0.7)
    network, found = shaken(retrinet.blank(base)), []

    def work(native, _, prompts):
        found.append(native(z, 400, prompts["positive"], hooks=Retrieval(network, shown, 1000).hooks)[0])

    denoiser.run(patched, conds, torch.zeros(2, 4, 16, 16), work)
    before = layer.weight.clone()
    plain = base(z, 400, text, hooks=Retrieval(network, shown, 1000).hooks)[0]
    layer.weight += 0.7 * (up @ down).reshape(before.shape)
    wanted = base(z, 400, text, hooks=Retrieval(network, shown, 1000).hooks)[0]
    layer.weight.copy_(before)
    return rel(found[0], wanted), rel(wanted, plain)


def beginning(model, base, text, conds):
    """The encoder that a MODEL begins with, its LoRA included, sees what the MODEL's own does."""
    unet = model.model.diffusion_model
    weight = unet.input_blocks[4][0].in_layers[2].weight
    g = torch.Generator().manual_seed(6)
    change = 0.05 * torch.randn(weight.shape, generator=g)
    patched = model.clone()
    patched.add_patches({"diffusion_model.input_blocks.4.0.in_layers.2.weight": ("diff", (change,))})
    network, again = (retrinet_model.beginning(patched, 2, 3, "")() for _ in range(2))
    z, record = torch.randn(1, 4, 16, 16, generator=g), Record()
    denoiser.run(
        patched,
        {"positive": conds["positive"]},
        torch.zeros(1, 4, 16, 16),
        lambda native, _, prompts: native(z, 400, prompts["positive"], hooks=Hooks(skips=record)),
    )
    # ComfyUI tells SDXL the size of the latents that it was asked for
    extra = text.extra.get("added_cond_kwargs", {})
    own = network.encode(References(z, text.tokens, extra=extra), torch.tensor([400.0])).features
    headless = retrinet.blank(base, 2)
    apart = {name: rel(features[0], record.features[name]) for name, features in own.items()}
    other = rel(
        record.features["mid"],
        headless.encode(References(z, text.tokens, extra=extra), torch.tensor([400.0])).features["mid"][0],
    )
    same = network.state_dict().keys() == headless.state_dict().keys()
    alike = all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values()))
    return max(apart.values()), len(apart) == len(base.skips), other, same, alike


def main(pack):
    nets = networks()
    return {layout: one_layout(layout, nets) for layout in nets.LAYOUTS}
