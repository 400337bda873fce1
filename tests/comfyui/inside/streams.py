"""Two streams inside ordinary sampling: with a concept that changes nothing, every case must give the plain picture."""

from dataclasses import replace

import comfy.patcher_extension
import comfy.samplers
import torch
from common import Everywhere, conditioning, controlled, rel
from inprocess import load_nodes
from likeness_in_comfyui.core.denoiser import Hooks
from likeness_in_comfyui.core.infusion.concept import blank
from likeness_in_comfyui.core.infusion.control import Infusion, Use
from likeness_in_comfyui.nodes import demo_model, denoiser, hooks
from likeness_in_comfyui.nodes.words import find_words, mark_words

import nodes


def concept(model, size=0.0, word="cat", seed=4):
    empty = blank(list(hooks.sites(model.model.diffusion_model)), [word])
    g = torch.Generator().manual_seed(seed)
    return replace(empty, residuals={k: size * torch.randn(r.shape, generator=g) for k, r in empty.residuals.items()})


class Spy:
    """Counts the rows that the U-Net gets, keeps the latents, and whether the streams' stay equal."""

    def __init__(self):
        self.rows, self.equal, self.key, self.latents = 0, True, "spy", []

    def __call__(self, model):
        model = model.clone()
        kinds = comfy.patcher_extension.WrappersMP
        model.add_wrapper_with_key(kinds.DIFFUSION_MODEL, self.key, self.count)
        model.add_wrapper_with_key(kinds.PREDICT_NOISE, self.key, self.compare)
        return model

    def count(self, executor, x, *args, **kwargs):
        self.rows += len(x)
        return executor(x, *args, **kwargs)

    def compare(self, executor, x, *args, **kwargs):
        half = len(x) // 2
        self.latents.append(x.clone())
        self.equal &= half > 0 and torch.equal(x[:half], x[half:])
        return executor(x, *args, **kwargs)


class Bench:
    def __init__(self):
        self.model, self.clip, self.vae = demo_model.load()
        self.positive, self.negative = self.marked("a photo of a red cat"), conditioning(self.clip, "")

    def marked(self, prompt):
        return mark_words(conditioning(self.clip, prompt), find_words(self.clip, prompt, ["cat", "dog"]))

    def sample(self, model, *, sampler="euler", steps=2, cfg=4.0, batch=1, size=(16, 16), positive=None, **more):
        negative, mask = more.get("negative", self.negative), more.get("mask")
        latent = more.get("latent", torch.zeros(batch, 4, *size))
        latent = {"samples": latent} if mask is None else {"samples": latent, "noise_mask": mask}
        positive = self.positive if positive is None else positive
        arguments = (7, steps, cfg, sampler, "normal", positive, negative, latent)
        return nodes.common_ksampler(model, *arguments, denoise=more.get("denoise", 1.0))[0]["samples"]

    def case(self, model=None, share=False, **arguments):
        """The plain picture and the customised one of a concept without effect: how far apart, how many rows."""
        model, spies = model or self.model, (Spy(), Spy())
        plain = self.sample(spies[0](model), **arguments)
        two = denoiser.attach(model, Infusion([Use(concept(self.model))]).hooks, share_unconditional=share)
        ours = self.sample(spies[1](two), **arguments)
        return {
            "apart": rel(ours, plain),
            "paired": spies[1].equal,
            "rows": spies[1].rows / spies[0].rows,
            "shape": list(ours.shape) == list(plain.shape),
        }


def main(pack):
    load_nodes()
    bench = Bench()
    small = small_benches()
    size = {"size": (8, 8)}
    result = {"samplers": {name: small["sd1"].case(sampler=name, **size) for name in comfy.samplers.SAMPLER_NAMES}}
    result["layouts"] = {
        layout: {"exact": each.case(batch=2, **size), "fast": each.case(batch=2, share=True, **size)}
        for layout, each in small.items()
    }
    _, *under = controlled(bench.positive, bench.negative)
    half = torch.zeros(1, 1, 128, 128)
    half[..., 64:] = 1
    picture = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    dog = bench.marked("a photo of a dog")
    left = [[c, {**o, "mask": 1 - half[0], "mask_strength": 1.0}] for c, o in bench.positive]
    right = [[c, {**o, "mask": half[0], "mask_strength": 1.0}] for c, o in dog]
    area = nodes.ConditioningSetArea().append(bench.positive, 64, 128, 0, 0, 1.0)[0]
    three = [[torch.cat([bench.positive[0][0], dog[0][0], bench.positive[0][0]]), bench.positive[0][1]]]
    many = [[c, {**o, "control": with_hints(o["control"], 3)}] for c, o in under[0]]
    long = bench.marked("a cat" + ", a big green cup on the beach" * 10)

    def halve(q, k, v, extra):
        return comfy.ldm.modules.attention.optimized_attention(q, k, v, extra["n_heads"]) * 0.5

    other = bench.model.clone()
    other.set_model_attn2_replace(halve, "output", 3)
    result["cases"] = {
        "cfg 1": bench.case(cfg=1.0),
        "batch 4": bench.case(batch=4),
        "not square": bench.case(size=(20, 12)),
        "fast": bench.case(share=True),
        "fast, cfg 1": bench.case(share=True, cfg=1.0),
        "fast, batch 3, stochastic": bench.case(share=True, batch=3, sampler="dpmpp_2m_sde"),
        "fast, ControlNet": bench.case(share=True, positive=under[0], negative=under[1], batch=2),
        "ControlNet": bench.case(positive=under[0], negative=under[1], batch=2),
        "ControlNet with three pictures": bench.case(positive=many, batch=2),
        "attn2_replace": bench.case(other),
        "mask": bench.case(mask=half, latent=picture, batch=2),
        "mask, a row each": bench.case(mask=torch.cat([half, 1 - half]), latent=picture),
        "mask, ddim": bench.case(mask=half, latent=picture, sampler="ddim"),
        "second pass": bench.case(latent=picture, denoise=0.5, steps=4),
        "regions by mask": bench.case(positive=left + right, batch=2),
        "regions by area": bench.case(positive=area + dog),
        "three prompts in a batch of two": bench.case(positive=three, batch=2),
        "long prompt": bench.case(positive=long, negative=bench.negative),
    }
    result["cases"]["inpainting model, two pictures"] = inpainting(picture)
    result["lora"] = with_lora(bench)
    result |= effects(bench, under)
    return result


def with_lora(bench):
    """A LoRA loaded before Apply Infusion and after it: the foundation draws what the LoRA alone would draw."""

    def lora(model):
        return nodes.LoraLoaderModelOnly().load_lora_model_only(model, "duotone.safetensors", 1.0)[0]

    spy = Spy()
    plain = bench.sample(spy(lora(bench.model)), batch=2)
    bare = denoiser.attach(bench.model, Infusion([Use(concept(bench.model, 2.0))]).hooks)
    result = {"lora": rel(plain, bench.sample(bench.model, batch=2)), "bare": rel(bench.sample(bare, batch=2), plain)}
    for kind, size in (("blank", 0.0), ("learned", 2.0)):
        two = Infusion([Use(concept(bench.model, size))]).hooks
        orders = (denoiser.attach(lora(bench.model), two), lora(denoiser.attach(bench.model, two)))
        watchers = Spy(), Spy()
        drawn = [bench.sample(watch(model), batch=2) for watch, model in zip(watchers, orders)]
        steps = [(a, b[:2], c[:2]) for a, b, c in zip(spy.latents, *(w.latents for w in watchers), strict=True)]
        result[kind] = {
            "paired": [w.equal for w in watchers],
            "rows": [w.rows / spy.rows for w in watchers],
            "foundation": [all(torch.equal(step[0], step[1 + i]) for step in steps) for i in (0, 1)],
            "picture": [torch.equal(x, plain) for x in drawn],
            "apart": [rel(x, plain) for x in drawn],
            "one order is the other": torch.equal(*drawn),
        }
    return result


def with_hints(control, count):
    control = control.copy()
    g = torch.Generator().manual_seed(8)
    control.set_cond_hint(torch.rand(count, 3, 128, 128, generator=g), 1.0, (0.0, 1.0))
    return control


def inpainting(pictures):
    """A model with nine input channels and another picture in each row."""
    from layouts import comfy_model, networks

    nets = networks()
    model = comfy_model("sd1", nets.random_unet("sd1", channels=9).state_dict(), channels=9)
    model.model.concat_keys = ("mask", "masked_image")
    bench = small_bench(nets, "sd1", model)
    g = torch.Generator().manual_seed(3)
    concat = {"concat_latent_image": torch.randn(2, 4, 8, 8, generator=g), "concat_mask": torch.ones(2, 1, 64, 64)}
    concat["concat_mask"][1, :, :32] = 0
    both = [[[c, {**o, **concat}] for c, o in cond] for cond in (bench.positive, bench.negative)]
    return bench.case(positive=both[0], negative=both[1], batch=2, size=(8, 8))


def small_benches():
    """SD1.x, SD2.x (v prediction) and SDXL (pooled vectors) with few channels and random weights."""
    from layouts import comfy_model, networks

    nets = networks()
    return {
        layout: small_bench(nets, layout, comfy_model(layout, nets.random_unet(layout).state_dict()))
        for layout in nets.LAYOUTS
    }


def small_bench(nets, layout, model):
    bench = Bench.__new__(Bench)
    bench.model = model
    prompts = [nets.random_prompt(layout, seed) for seed in (1, 2)]
    where = torch.zeros(77, dtype=torch.bool)
    where[3] = True
    conds = []
    for p in prompts:
        pooled = p["extra"].get("added_cond_kwargs", {}).get("text_embeds")
        conds.append([[p["tokens"], {} if pooled is None else {"pooled_output": pooled}]])
    bench.positive, bench.negative = mark_words(conds[0], {"cat": where}), conds[1]
    return bench


def effects(bench, under):
    """A concept that has an effect: where it may and may not be seen."""
    uses = [Use(concept(bench.model, 2.0))]
    two = denoiser.attach(bench.model, Infusion(uses).hooks)
    plain, ours = bench.sample(bench.model), bench.sample(two)
    spy, previews = Spy(), []
    absent = bench.sample(spy(two), positive=bench.marked("a photo of a dog"))
    unmarked = conditioning(bench.clip, "a photo of a red cat")

    guider = comfy.samplers.CFGGuider(two)
    guider.set_conds(bench.positive, bench.negative)
    guider.set_cfg(4.0)
    sigmas = torch.tensor([10.0, 3.0, 1.0, 0.0])
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    def watch(step, x0, x, total):
        previews.append([list(x0.shape), list(x.shape)])

    out = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.ksampler("euler"), sigmas, callback=watch)
    shared = comfy.samplers.ksampler("dpmpp_sde")
    before = shared.sampler_function
    guider.sample(noise, torch.zeros_like(noise), shared, sigmas)
    try:
        refused = denoiser.attach(two, Infusion([Use(concept(bench.model, 2.0, "dog"))]).hooks)
    except ValueError as e:
        refused = str(e)
    watched = denoiser.attach(two, Hooks(Everywhere(), Everywhere()))
    return {
        "changes": rel(ours, plain),
        "again": torch.equal(ours, bench.sample(two)),
        "clean_after": torch.equal(plain, bench.sample(bench.model)),
        "absent": torch.equal(absent, bench.sample(bench.model, positive=bench.marked("a photo of a dog"))),
        "absent_rows": spy.rows,
        "unmarked": torch.equal(bench.sample(two, positive=unmarked), plain),
        "control_changes": rel(bench.sample(two, positive=under[0]), bench.sample(bench.model, positive=under[0])),
        "fast_differs": rel(
            bench.sample(denoiser.attach(bench.model, Infusion(uses).hooks, share_unconditional=True)), ours
        ),
        "previews": previews,
        "guider_shape": list(out.shape),
        "shared_sampler_kept": shared.sampler_function is before,
        "refused": refused,
        "beside_another_method": torch.equal(bench.sample(watched), ours),
        "replaced": torch.equal(
            bench.sample(
                denoiser.attach(
                    denoiser.attach(bench.model, Infusion([Use(concept(bench.model, 1.0))]).hooks, key="k"),
                    Infusion(uses).hooks,
                    key="k",
                )
            ),
            ours,
        ),
    }
