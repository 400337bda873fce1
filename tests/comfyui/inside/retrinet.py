"""RetriNet in one process, its scripts one after the other; drawing here, against the headless runtime."""

import comfy.model_management
import comfy.samplers
import retrinet_layouts
import retrinet_training
import server
import torch
from common import conditioning, controlled, rel
from inprocess import load_nodes
from likeness_in_comfyui.core import checkpoint, diffusion
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.core.denoiser import guided
from likeness_in_comfyui.core.hifi.subject import Subject
from likeness_in_comfyui.core.infusion.concept import blank as blank_concept
from likeness_in_comfyui.core.infusion.control import Use
from likeness_in_comfyui.core.reach import Reach
from likeness_in_comfyui.core.retrinet import network as networks
from likeness_in_comfyui.core.retrinet.control import Retrieval
from likeness_in_comfyui.core.retrinet.reference import References
from likeness_in_comfyui.nodes import demo_model, hifi_model, hooks, infusion_model, learned, retrinet_model
from likeness_in_comfyui.nodes.managed import managed
from retrinet_nodes import PROMPT, SIZE, messages, nodes_and_files

import nodes

STEPS = 10


def shaken(network):
    """A network that was trained, as far as anybody can tell; its decoder not so much that nothing else counts."""
    g = torch.Generator().manual_seed(0)
    for name, p in network.named_parameters():
        p += (0.002 if name.endswith((":weight", "/weight", "/bias")) else 0.02) * torch.randn(p.shape, generator=g)
    network.settings["size"] = SIZE
    return network.eval().requires_grad_(False)


class Bench:
    def __init__(self):
        self.model, self.clip, self.vae = demo_model.load()
        self.base = checkpoint.load(MODEL)
        self.schedule = diffusion.Schedule(self.base.denoiser.schedule.alphas, final_alpha=1.0)
        self.timesteps = self.schedule.timesteps(STEPS)
        sigmas = self.model.get_model_object("model_sampling").sigmas[self.timesteps]
        self.sigmas = torch.cat([sigmas, torch.zeros(1)])
        self.noise = torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(11))
        self.short = self.sigmas[::4]  # three steps, the last of them to 0.05 of the noise
        self.positive, self.negative = conditioning(self.clip, PROMPT), conditioning(self.clip, "")
        self.managed = {}  # one patcher a network, as a loader node has it
        self.text, self.null = self.base.text(PROMPT), self.base.text("").unconditional()

    def native(self, model, positive=None, negative=None, batch=1, cfg=4.0, sampler="euler", sigmas=None):
        noise = self.noise[-batch:]
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive or self.positive, negative or self.negative)
        guider.set_cfg(cfg)
        sampler = comfy.samplers.sampler_object(sampler)
        drawn = guider.sample(
            noise, torch.zeros_like(noise), sampler, self.short if sigmas is None else sigmas, disable_pbar=True, seed=1
        )
        return self.model.model.process_latent_in(drawn)

    def headless(self, hooks):
        z = self.noise[1:] * (1 - self.schedule.alpha(self.timesteps[0])).sqrt().float()
        predict = guided(self.base.denoiser, self.text, self.null, 4.0, hooks)
        with torch.no_grad():
            return diffusion.sample(self.schedule, predict, z, self.timesteps)

    def read(self, shown):
        """References as the headless runtime reads them."""
        cut = [reference.cut(SIZE) for reference in shown]
        latents = self.base.encode(torch.stack([square for square, _ in cut]))
        tokens = torch.cat([self.base.text(reference.word).tokens for reference in shown])
        return References(latents, tokens, torch.cat([mask for _, mask in cut]))

    def apply(self, network, shown, reach=None, model=None, **settings):
        if network not in self.managed:
            self.managed[network] = managed(network)
        parts = model or self.model, self.clip, self.vae
        return retrinet_model.apply(*parts, self.managed[network], shown, reach or Reach(), **settings)


def drawing(bench, whole, low, blank, shown):
    result, plain = {}, bench.native(bench.model, sigmas=bench.sigmas)
    read = bench.read(shown)
    for name, network in (("whole", whole), ("low", low)):
        for time in ("each", "cached"):
            expected = bench.headless(Retrieval(network, read, 1000, time=time).hooks)
            drawn = bench.native(bench.apply(network, shown, time=time), sigmas=bench.sigmas)
            result[f"agree {name} {time}"] = rel(drawn, expected), rel(expected, plain)
    plain = bench.native(bench.model)
    drawn = bench.native(bench.apply(whole, shown))
    idle = {
        "zero": (blank, Reach()),
        "strength": (whole, Reach(0.0)),
        "outside": (whole, Reach(1.0, 0.0, 0.05)),
        "at the end": (whole, Reach(1.0, 0.95, 1.0)),
    }
    result["same"] = {
        name: torch.equal(bench.native(bench.apply(n, shown, reach)), plain) for name, (n, reach) in idle.items()
    }
    some = [bench.apply(whole, shown, levels=levels) for levels in ("deep", "shallow", "middle", "skip.1, mid")]
    some = [bench.native(model) for model in some] + [drawn, plain]
    result["levels differ"] = min(rel(a, b) for i, a in enumerate(some) for b in some[:i])
    result["order"] = rel(bench.native(bench.apply(whole, shown[::-1])), drawn)
    result["batch"] = rel(bench.native(bench.apply(whole, shown), batch=2)[1], drawn[0])
    result["samplers"] = {}
    for sampler in ("dpmpp_2m_sde", "heun", "dpmpp_2s_ancestral"):
        a, b = (bench.native(m, sampler=sampler) for m in (bench.model, bench.apply(blank, shown)))
        result["samplers"][sampler] = torch.equal(a, b)
    # at cfg 1 the negative prompt is not drawn; beside prompts of areas some rows are parts of the picture
    areas = nodes.ConditioningSetArea().append(bench.positive, SIZE // 2, SIZE, 0, 0, 1.0)[0] + bench.positive
    for name, case in {"cfg 1": {"cfg": 1.0}, "areas": {"positive": areas}}.items():
        a, b, c = (bench.native(m, **case) for m in (bench.model, bench.apply(blank, shown), bench.apply(whole, shown)))
        result[name] = torch.equal(a, b), rel(c, a), bool(c.isfinite().all())
    # references act on what follows the positive prompt alone: with both prompts alike the negative one stays the base
    rows = Watched()
    away = bench.apply(whole, shown, watch=rows)
    bench.native(away, negative=bench.positive)
    result["rows"] = sorted(rows.seen)
    return result


class Watched:
    def __init__(self):
        self.seen = set()

    def __call__(self, name, timestep, looked):
        self.seen.add(len(looked))


def beside(bench, whole, blank, shown):
    """A LoRA, a ControlNet, a concept and a subject in the same picture, put in before and after."""
    result, sites = {}, tuple(hooks.sites(hooks.unet_of(bench.model)))
    g = torch.Generator().manual_seed(4)
    concept = blank_concept(list(sites), ["woman"])
    concept.residuals.update({k: 0.5 * torch.randn(r.shape, generator=g) for k, r in concept.residuals.items()})
    subject = Subject(torch.randn(1, 5, 192, generator=g), (0,), "woman", concept.base)

    def others(model):
        model = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "duotone.safetensors", 0.7)[0]
        model = infusion_model.apply(model, Use(concept))
        return hifi_model.apply(model, subject)

    positive = infusion_model.encode(bench.clip, PROMPT, concept)
    positive = hifi_model.encode(bench.clip, PROMPT, subject, positive)
    _, positive, negative = controlled(positive, bench.negative)
    case = {"positive": positive, "negative": negative}
    plain = bench.native(others(bench.model), **case)
    result["others"] = rel(plain, bench.native(bench.model))
    pairs = {
        name: [
            bench.native(model, **case)
            for model in (others(bench.apply(n, shown)), bench.apply(n, shown, model=others(bench.model)))
        ]
        for name, n in (("blank", blank), ("whole", whole))
    }
    result["same"] = all(torch.equal(drawn, plain) for drawn in pairs["blank"])
    result["either order"], result["changes"] = rel(*pairs["whole"]), rel(pairs["whole"][0], plain)
    twice = bench.apply(whole, shown[:1], model=bench.apply(whole, shown[1:]))
    result["twice"] = bool(bench.native(twice).isfinite().all()), len(twice.get_additional_models())
    return result


def memory(bench, whole, shown):
    """ComfyUI loads the network with the model, and nothing of a picture stays behind."""
    kept = []
    original = Retrieval.__post_init__
    Retrieval.__post_init__ = lambda self: (original(self), kept.append(self))[0]
    patched = bench.apply(whole, shown)
    Retrieval.__post_init__ = original
    comfy.model_management.unload_all_models()
    bench.native(patched)
    loaded = [m.model.model is whole for m in comfy.model_management.current_loaded_models if m.model]
    left = [kept[0]._call is None]

    def stop(*looked):
        raise ZeroDivisionError

    kept[0].watch = stop
    try:
        bench.native(patched)
    except ZeroDivisionError:
        left.append(kept[0]._call is None)
    unet = bench.model.model.diffusion_model
    left.append(not any(m._forward_hooks for m in unet.modules()))
    comfy.model_management.unload_all_models()
    return sum(loaded), left, bench.model.get_additional_models() == []


def main(pack):
    load_nodes()
    result = {"learning": retrinet_training.main(pack)}
    server.PromptServer.instance.send_progress_text = lambda text, node_id, sid=None: None
    bench, folder = Bench(), learned.folder()
    blank = retrinet_model.beginning(bench.model, None, 0, "")()
    whole, low = (shaken(retrinet_model.beginning(bench.model, rank, 0, "")()) for rank in (None, 2))
    networks.save(folder / "whole.safetensors", whole, torch.float32)
    found, shown = nodes_and_files(bench, folder)
    result |= found
    result["drawing"] = drawing(bench, whole, low, blank, shown)
    result["beside"] = beside(bench, whole, blank, shown)
    result["memory"] = memory(bench, whole, shown)
    result["messages"] = messages(bench, whole, shown, folder)
    result["layouts"] = retrinet_layouts.main(pack)
    return result
