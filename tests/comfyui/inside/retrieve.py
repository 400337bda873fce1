"""Retrieval without training in one process: against the headless runtime, beside other methods, messages."""

import comfy.model_management
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from common import rel
from inprocess import load_nodes
from layouts import comfy_model, networks
from likeness_in_comfyui.core.diffusers import DiffusersDenoiser, Text
from likeness_in_comfyui.core.diffusion import Schedule
from likeness_in_comfyui.core.infusion.concept import blank as blank_concept
from likeness_in_comfyui.core.infusion.control import Use
from likeness_in_comfyui.core.reach import Reach
from likeness_in_comfyui.core.retrinet.free import FreeRetrieval
from likeness_in_comfyui.core.retrinet.reference import Reference
from likeness_in_comfyui.nodes import demo_model, hooks, infusion_model, retrinet_model
from retrinet import Bench
from retrinet_layouts import Clip
from retrinet_layouts import conditioning as layout_conditioning

import nodes


def references(size=64):
    g = torch.Generator().manual_seed(3)
    masks = torch.zeros(2, 1, size, size)
    masks[0, :, 8:40, 8:40] = masks[1, :, :, 20:] = 1
    return [Reference(word, torch.rand(3, size, size, generator=g), m) for word, m in zip(("face", "clothes"), masks)]


def free(bench, reach=None, model=None, shown=None, **settings):
    model = model or bench.model
    return retrinet_model.free(model, bench.clip, bench.vae, shown or references(), reach or Reach(), **settings)


def drawing(bench):
    result, plain = {}, bench.native(bench.model, sigmas=bench.sigmas)
    read = retrinet_model.read_in(bench.model, bench.clip, bench.vae, references(), 128)
    for time in ("each", "cached"):
        theirs = FreeRetrieval(read, bench.schedule, bench.base.denoiser.sites, time=time)
        expected = bench.headless(theirs.hooks)
        drawn = bench.native(free(bench, time=time), sigmas=bench.sigmas)
        result[time] = rel(drawn, expected), rel(expected, plain)
    plain = bench.native(bench.model)
    idle = (Reach(0.0), Reach(1.0, 0.0, 0.05), Reach(1.0, 0.95, 1.0))
    result["same"] = [torch.equal(bench.native(free(bench, reach)), plain) for reach in idle]
    drawn = bench.native(free(bench))
    result["order"] = rel(
        bench.native(free(bench, time="cached", shown=references()[::-1])), bench.native(free(bench, time="cached"))
    )
    result["batch"] = rel(bench.native(free(bench), batch=2)[1], drawn[0])
    some = [
        bench.native(free(bench, **s))
        for s in ({"levels": "deep"}, {"levels": "shallow"}, {"time": "each"}, {"time": "each", "seed": 1})
    ]
    some += [drawn, plain, bench.native(free(bench, Reach(0.5)))]
    result["differ"] = min(rel(a, b) for i, a in enumerate(some) for b in some[:i])
    few = ModelSamplingDiscrete().patch(bench.model, "lcm", False)[0]
    result["few timesteps"] = rel(bench.native(free(bench, model=few)), bench.native(few))
    areas = nodes.ConditioningSetArea().append(bench.positive, 64, 128, 0, 0, 1.0)[0] + bench.positive
    for name, case in {"cfg 1": {"cfg": 1.0}, "areas": {"positive": areas}}.items():
        a, b = (bench.native(m, **case) for m in (bench.model, free(bench)))
        result[name] = rel(b, a), bool(b.isfinite().all())
    return result


def lora(model, strength):
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, "duotone.safetensors", strength)[0]


def beside(bench):
    """Other methods before and after; what was read of one LoRA's network is not taken for another's."""
    g = torch.Generator().manual_seed(4)
    concept = blank_concept(list(hooks.sites(hooks.unet_of(bench.model))), ["woman"])
    concept.residuals.update({k: 0.5 * torch.randn(r.shape, generator=g) for k, r in concept.residuals.items()})
    case = {"positive": infusion_model.encode(bench.clip, "a photo of a woman on the beach", concept)}

    def others(model):
        return infusion_model.apply(lora(model, 0.7), Use(concept))

    drawn = [bench.native(model, **case) for model in (others(free(bench)), free(bench, model=others(bench.model)))]
    result = {"orders": rel(*drawn), "changes": rel(drawn[0], bench.native(others(bench.model), **case))}
    kept = free(bench, time="cached")
    first, second = (bench.native(lora(kept, strength)) for strength in (0.2, 0.9))
    result["fresh"] = [
        torch.equal(drawn, bench.native(lora(free(bench, time="cached"), strength)))
        for drawn, strength in ((first, 0.2), (second, 0.9))
    ]
    twice = free(bench, model=free(bench, shown=references()[:1]), shown=references()[1:])
    result["twice"] = bool(bench.native(twice).isfinite().all())
    return result


def one_layout(layout, nets):
    """The node's whole way, from pictures to the network call, on a small network of a family."""
    unet, texts = nets.random_unet(layout), [Text(**nets.random_prompt(layout, seed)) for seed in (1, 2)]
    schedule = Schedule(Schedule.scaled_linear().alphas, "v_prediction" if layout == "sd2" else "epsilon")
    base, model = DiffusersDenoiser(unet, schedule), comfy_model(layout, unet.state_dict())
    vae, clip = Vae(), Clip(texts[0])
    patched = retrinet_model.free(model, clip, vae, references(), Reach(), time="each")
    read = retrinet_model.read_in(model, clip, vae, references(), 128)
    bench = Bench.__new__(Bench)
    bench.model, bench.noise = model, torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    bench.positive, bench.negative = (layout_conditioning(text) for text in texts)
    sigmas = model.get_model_object("model_sampling").sigmas[torch.tensor([700, 300])]
    drawn = bench.native(patched, sigmas=sigmas)
    plain = bench.native(model, sigmas=sigmas)
    return rel(drawn, expected(base, read, texts, bench.noise, 4.0)), rel(drawn, plain)


def expected(base, read, texts, noise, weight):
    """One Euler step from timestep 700 to 300, headless; ComfyUI undoes the noise's share of the end."""
    schedule, hooks = base.schedule, FreeRetrieval(read, base.schedule, base.sites, time="each").hooks
    a, b = (schedule.alpha(t) for t in (700, 300))
    z = (1 - a).sqrt().float() * noise
    with torch.no_grad():
        uncond, cond = base(z, 700, texts[1].unconditional(), texts[0], hooks=hooks)
    out = uncond + weight * (cond - uncond)
    ends = z / a.sqrt() + (((1 - b) / b).sqrt() - ((1 - a) / a).sqrt()) * schedule.epsilon(out, z, 700)
    return ends.float()


class Vae:
    """Encodes a picture as its own small copy."""

    def encode(self, image):
        x = torch.nn.functional.interpolate(image.movedim(-1, 1), (16, 16))
        return torch.cat([x, x[:, :1]], 1) * 4


def message(work):
    try:
        work()
    except ValueError as e:
        return str(e)


def messages(bench):
    few = ModelSamplingDiscrete().patch(bench.model, "lcm", False)[0]
    return {
        "none": message(lambda: retrinet_model.free(bench.model, bench.clip, bench.vae, [], Reach())),
        "levels": message(lambda: free(bench, levels="own")),
        "few timesteps": message(lambda: free(bench, time="each", model=few)),
        "inpainting": message(lambda: free(bench, model=demo_model.load_model(demo_model.MODEL, True))),
    }


def memory(bench):
    """Nothing of a picture stays behind, nor of one that failed."""
    made, original = [], FreeRetrieval.__post_init__
    FreeRetrieval.__post_init__ = lambda self: (original(self), made.append(self))[0]
    patched = free(bench)
    FreeRetrieval.__post_init__ = original
    bench.native(patched)
    left = [made[0]._read is None]
    comfy.model_management.unload_all_models()
    unet = bench.model.model.diffusion_model
    return left, not any(m._forward_hooks for m in unet.modules())


def main(pack):
    load_nodes()
    bench = Bench()
    nets = networks()
    return {
        "drawing": drawing(bench),
        "beside": beside(bench),
        "layouts": {layout: one_layout(layout, nets) for layout in ("sd1", "sd2", "sdxl")},
        "messages": messages(bench),
        "memory": memory(bench),
    }
