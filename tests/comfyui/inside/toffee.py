"""Toffee's nodes in one process: encode, blend, load, apply, inpaint, refine; against the headless runtime."""

import gc
from types import SimpleNamespace

import comfy.samplers
import server
import torch
from common import conditioning, controlled, rel
from inprocess import load_nodes, new_executor, run_prompt
from likeness_in_comfyui.core import checkpoint, diffusion
from likeness_in_comfyui.core.demo import MODEL, judges
from likeness_in_comfyui.core.denoiser import guided
from likeness_in_comfyui.core.diffusers import DiffusersDenoiser, Text
from likeness_in_comfyui.core.infusion.control import Use
from likeness_in_comfyui.core.metrics.similarity import masked
from likeness_in_comfyui.core.reach import Reach
from likeness_in_comfyui.core.toffee.adapter import Injection
from likeness_in_comfyui.core.toffee.inpainting import masked_channels, widened
from likeness_in_comfyui.core.toffee.matching import blend
from likeness_in_comfyui.nodes import infusion_model, learned, toffee, toffee_adapters, toffee_model
from toffee_graphs import GUIDANCE, LONG, OURS, PROMPT, SHORT, WHAT, graph, node, refining, save_files

import nodes

# --- drawing ---------------------------------------------------------------------------------------------------------


class Draw:
    """One picture pair in both runtimes, on the same timesteps."""

    def __init__(self, base, clip, steps):
        self.base, self.clip = base, clip
        self.schedule = diffusion.Schedule(base.denoiser.schedule.alphas, final_alpha=1.0)
        self.timesteps = self.schedule.timesteps(steps)
        self.noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(11))
        self.conds = conditioning(clip, PROMPT), conditioning(clip, "")

    def native(self, model, conds=None, cfg=GUIDANCE, noise=None):
        sigmas = torch.cat([model.get_model_object("model_sampling").sigmas[self.timesteps], torch.zeros(1)])
        guider, noise = comfy.samplers.CFGGuider(model), self.noise if noise is None else noise
        guider.set_conds(*(conds or self.conds))
        guider.set_cfg(cfg)
        out = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.ksampler("euler"), sigmas, disable_pbar=True)
        return model.model.process_latent_in(out)

    def headless(self, hooks, denoiser=None, channels=None, cfg=GUIDANCE):
        texts = [Text(self.base.text(prompt).tokens, channels=channels) for prompt in (PROMPT, "")]
        z = self.noise * (1 - self.schedule.alpha(self.timesteps[0])).sqrt().float()
        predict = guided(denoiser or self.base.denoiser, *texts, cfg, hooks)
        return diffusion.sample(self.schedule, predict, z, self.timesteps)


def message(work):
    try:
        return str(work())
    except (ValueError, FileNotFoundError) as e:
        return str(e)


def main(pack):
    load_nodes()
    server.PromptServer.instance.send_progress_text = lambda text, node_id, sid=None: told.append(text)
    told, result = [], {}
    base = checkpoint.load(MODEL)
    wide = DiffusersDenoiser(widened(base.denoiser.unet), base.denoiser.schedule)
    files = save_files(base.denoiser, wide)
    (learned.folder() / "broken.safetensors").write_bytes(b"nothing")
    kept = {"images": ["subject", 0], "masks": ["subject", 1], "drawn": ["drawn", 0], "drawn masks": ["drawn", 1]}
    kept |= {f"{name} {i}": [name, i] for name in ("tokens", "alone", "known", "generated") for i in (0, 1)}
    kept |= {f"{name} {i}": [name, i] for name in ("demo", "inputs") for i in (0, 1, 2)} | {"wide": ["wide", 0]}
    kept |= {name: [name, 0] for what in WHAT for name in (what, f"{what} model")}
    seen = run_prompt(graph(), keep=kept)
    model, clip, vae = (seen[f"demo {i}"] for i in range(3))
    draw = Draw(base, clip, SHORT)
    result |= listed(told) | encoded(seen) | blending(seen)
    plain = draw.native(model)
    result |= agreement(seen, files, Draw(base, clip, LONG)) | resting(seen, draw, plain)
    result |= inpainting(seen, files, draw, plain, wide, vae) | beside(seen, files, draw, plain, model) | refined(seen)
    for headless in (base.denoiser, wide):
        headless._running = None
    result["left"] = [
        sum(len(m._forward_hooks) for m in model.model.diffusion_model.modules()),
        [len(i._keys) for i in gc.get_objects() if isinstance(i, Injection) and i._keys],
    ]
    result["still"] = torch.equal(draw.native(model), plain)
    return result | messages(seen, model)


def listed(told):
    load = toffee_adapters.LoadDINOAdapter.define_schema().inputs[0].options
    dinos = toffee.EncodeDINO.define_schema().inputs[1].options
    before = toffee_adapters.LoadDINOAdapter.fingerprint_inputs(OURS[0])
    path = learned.path_of(OURS[0])
    path.touch()
    after = toffee_adapters.LoadDINOAdapter.fingerprint_inputs(OURS[0])
    return {"files": load, "dinos": dinos, "told": told[:], "written again": after > before}


def encoded(seen):
    pictures, masks = seen["images"].movedim(-1, 1), seen["masks"][:, None]
    tokens, alone, dino = seen["tokens 0"], seen["alone 0"], judges.dino()
    pooled = torch.nn.functional.adaptive_avg_pool2d(masks, 8).flatten(1)
    return {
        "tokens": [list(tokens.tokens.shape), tokens.grid, tokens.dino, tokens.subject is None],
        "tokens are the core's": torch.equal(tokens.tokens, dino.tokens(pictures)),
        "alone": [alone.dino, torch.equal(alone.tokens, dino.tokens(masked(pictures, masks)))],
        "patches": torch.equal(alone.subject, pooled > pooled.amax(1, keepdim=True) / 2),
        "seen": [list(seen["tokens 1"].shape), float((seen["alone 1"][:, 0, 0] - 1).abs().max())],
    }


def blending(seen):
    generated, subject = seen["generated 0"], seen["tokens 0"]
    toffee.BlendDINO.hidden = SimpleNamespace(unique_id="n")
    tokens, matches = toffee.BlendDINO.execute(generated, subject, 0.4, 0.7).args
    known = toffee.BlendDINO.execute(generated, seen["known 0"], 0.4, 0.7).args[0]
    masked_after = toffee.BlendDINO.execute(generated, subject, 0.4, 0.7, seen["masks"]).args[0]
    expected = [blend(a, b, 0.4, 0.7)[0] for a, b in zip(generated.tokens, subject.tokens)]
    where = seen["alone 0"].subject
    within = [blend(a, b, 0.4, 0.7, w)[0] for a, b, w in zip(generated.tokens, subject.tokens, where)]
    return {
        "blended": torch.equal(tokens.tokens, torch.stack(expected)) and not torch.equal(*expected),
        "blended within": torch.equal(masked_after.tokens, torch.stack(within)),
        "within differs": not torch.equal(masked_after.tokens, tokens.tokens),
        "known": not torch.equal(known.tokens, tokens.tokens),
        "matches": list(matches.shape),
    }


def agreement(seen, files, draw):
    plain, tokens, result = draw.native(seen["demo 0"]), seen["tokens 0"].tokens, {}
    for what in ("adapter", "low-rank", "whole"):
        wanted = draw.headless(Injection(files[what], tokens, 1000, Reach(0.8)).hooks)
        ours = draw.native(seen[f"{what} model"])
        result[f"agree {what}"], result[f"changes {what}"] = rel(ours, wanted), rel(ours, plain)
    part = Reach(1.3, 0.2, 0.7)
    loaded, model = seen["whole"], seen["demo 0"]
    ours = draw.native(toffee_model.apply(model, loaded, seen["tokens 0"], part), cfg=1.0)
    wanted = draw.headless(Injection(files["whole"], tokens, 1000, part).hooks, cfg=1.0)
    result["agree for a while"], result["changes for a while"] = rel(ours, wanted), rel(ours, plain)
    return result


def resting(seen, draw, plain):
    result, tokens, loaded, model = {}, seen["tokens 0"].tokens, seen["whole"], seen["demo 0"]
    idle = [Reach(0.0), Reach(1.0, 1.0, 1.0)]
    result["idle"] = [
        torch.equal(draw.native(toffee_model.apply(model, loaded, seen["tokens 0"], reach)), plain) for reach in idle
    ]
    zero = _with(seen["tokens 0"], torch.zeros(1, *tokens.shape[1:]))
    result["dropped"] = torch.equal(draw.native(toffee_model.apply(model, seen["adapter"], zero, Reach())), plain)
    # a batch of subjects is each of them alone
    one = [toffee_model.apply(model, seen["adapter"], _with(seen["tokens 0"], t[None]), Reach(0.8)) for t in tokens]
    rows = torch.cat([draw.native(m, noise=n[None]) for m, n in zip(one, draw.noise)])
    result["batch"] = rel(draw.native(seen["adapter model"]), rows), rel(draw.native(one[0]), rows)
    return result


def _with(tokens, values):
    return type(tokens)(**{**tokens.__dict__, "tokens": values})


def inpainting(seen, files, draw, plain, wide, vae):
    result, model = {}, seen["wide"]
    images, masks = seen["drawn"].movedim(-1, 1), seen["drawn masks"][:, None]
    wanted, shown = masked_channels(images, masks, draw.base.encode), []
    conds = seen["inputs 0"], seen["inputs 1"]
    handle = model.model.diffusion_model.input_blocks[0][0].register_forward_pre_hook(
        lambda module, args: shown.append(args[0][:, 4:].clone())
    )
    drawn = draw.native(seen["nine model"], conds)
    result["channels"] = len(shown), max(rel(rows, wanted) for x in shown for rows in x.split(2))
    shown.clear()
    grey = nodes.InpaintModelConditioning().encode(*draw.conds, seen["drawn"], vae, seen["drawn masks"], False)
    native = draw.native(model, grey[:2])
    result["grey"] = rel(shown[0][:2, 1:], wanted[:, 1:]), rel(shown[0][:2, :1], wanted[:, :1]), rel(native, plain)
    handle.remove()
    result["variant"] = rel(draw.native(model), plain), model.model.concat_keys == ("mask", "masked_image")
    hooks = Injection(files["nine"], seen["tokens 0"].tokens, 1000, Reach(0.8)).hooks
    long = Draw(draw.base, draw.clip, LONG)
    headless = long.headless(hooks, wide, wanted)
    result["agree nine"] = rel(long.native(seen["nine model"], conds), headless)
    result["changes nine"], result["mask counts"] = (
        rel(drawn, plain),
        rel(drawn, draw.headless(hooks, wide, wanted * 0)),
    )
    odd, empty = seen["drawn"][:, :125, :122], (conditioning(draw.clip, ""),) * 2
    *_, everywhere = toffee_model.inputs(*empty, vae, odd, None, True)
    positive, _, edit = toffee_model.inputs(*empty, vae, odd, seen["drawn masks"][:, :125, :122], True)
    result["everywhere"] = list(everywhere), list(everywhere["samples"].shape), float(everywhere["samples"].abs().max())
    result["edit"] = [list(edit["noise_mask"].shape), list(positive[0][1]["concat_mask"].shape)]
    result["edit latents"] = rel(edit["samples"], vae.encode(seen["drawn"][:, 2:122, 1:121]))
    return result


def beside(seen, files, draw, plain, model):
    result, tokens = {}, seen["tokens 0"]
    subject = run_prompt({"1": node("LikenessLoadConcept", file="demo cat.safetensors")}, keep={"c": ["1", 0]})["c"]
    positive = infusion_model.encode(draw.clip, PROMPT, subject)
    conds = positive, draw.conds[1]

    def both(model, *steps):
        for step in steps:
            model = step(model)
        return draw.native(model, conds)

    def infuse(model):
        return infusion_model.apply(model, Use(subject))

    def inject(model, what="whole"):
        return toffee_model.apply(model, seen[what], tokens, Reach(0.8))

    def style(model):
        return nodes.LoraLoaderModelOnly().load_lora_model_only(model, "duotone.safetensors", 1.0)[0]

    ways = {
        (a, b): both(model, a, b) for a, b in ((infuse, inject), (inject, infuse), (style, inject), (inject, style))
    }
    alone = {step: both(model, step) for step in (infuse, inject, style)}
    for name, step in (("infusion", infuse), ("lora", style)):
        first, second = ways[step, inject], ways[inject, step]
        result[name] = rel(first, second), rel(first, alone[step]), rel(first, alone[inject])
    _, *led = controlled(*draw.conds)
    zero = _with(tokens, torch.zeros_like(tokens.tokens))
    with_control = draw.native(model, led)
    dropped = draw.native(toffee_model.apply(model, seen["adapter"], zero, Reach()), led)
    result["controlnet"] = (
        rel(with_control, plain),
        torch.equal(dropped, with_control),
        rel(draw.native(inject(model, "adapter"), led), with_control),
    )
    twice = inject(inject(model, "adapter"), "adapter")
    doubled = Injection(files["adapter"], tokens.tokens, 1000, Reach(1.6)).hooks
    result["twice"] = rel(draw.native(twice), draw.headless(doubled))
    return result | changed_once(seen, files, draw, model)


def changed_once(seen, files, draw, model):
    """Two subjects by one network: their tokens add up, what training changed in the model does not."""

    def inject(model, *reach):
        return toffee_model.apply(model, seen["whole"], seen["tokens 0"], Reach(*reach))

    def headless(*reach):
        return draw.headless(Injection(files["whole"], seen["tokens 0"].tokens, 1000, Reach(*reach)).hooks)

    part, whole = (0.4, 0.2, 0.7), (0.4,)
    first, second = (draw.native(inject(inject(model, *a), *b)) for a, b in ((part, whole), (whole, part)))
    return {
        "twice whole": rel(draw.native(inject(inject(model, 0.8), 0.8)), headless(1.6)),
        "twice for a while": rel(draw.native(inject(inject(model, *part), *part)), headless(0.8, 0.2, 0.7)),
        "one for a while": rel(first, second),
    }


def refined(seen):
    """The Refiner's chain, queued twice on one executor: the second time nothing runs."""
    import asyncio

    import execution
    from inprocess import KEPT

    executor, found, cached = new_executor(), [], []
    for number in range(2):
        KEPT.clear()
        prompt = refining()
        prompt_id = f"refining {number}"
        _, _, outputs, errors = asyncio.run(execution.validate_prompt(prompt_id, prompt, None))
        assert not errors, errors
        executor.execute(prompt, prompt_id, {}, outputs)
        assert executor.success, executor.status_messages[-1]
        found.append(dict(KEPT))
        cached.append(
            next(len(data["nodes"]) for event, data in executor.status_messages if event == "execution_cached")
        )
    start = nodes.VAEEncode().encode(seen["demo 2"], seen["drawn"])[0]["samples"]
    once = found[0]["refined"]["samples"]
    again = run_prompt(refining(), keep={"again": ["refined", 0]})["again"]["samples"]
    return {
        "refined": [list(once.shape), bool(once.isfinite().all()), rel(once, start)],
        "the same again": torch.equal(once, again),
        "cached": cached,
        "ran again": bool(found[1]),
        "matches shown": list(found[0]["matches"].shape),
    }


def messages(seen, model):
    tokens, generated, loaded = seen["tokens 0"], seen["generated 0"], seen["nine"]
    files = {name: run_prompt(
        {"1": node("LikenessLoadDINOAdapter", file=f"z {name}.safetensors")}, keep={"a": ["1", 0]}
    )["a"] for name in ("other dino", "other family")}  # fmt: skip
    conds = conditioning(seen["demo 1"], ""), conditioning(seen["demo 1"], "")
    image, mask, vae, dino = (
        seen["images"],
        seen["masks"],
        seen["demo 2"],
        toffee_model.vision.find("dino", "mine/dino"),
    )
    encode, apply, inputs = toffee_model.encode, toffee_model.apply, toffee_model.inputs
    three = _with(tokens, tokens.tokens[:1].repeat(3, 1, 1))
    short = type(tokens)(**{**tokens.__dict__, "dino": "mine"})
    bad = {
        "family": lambda: apply(model, files["other family"], tokens, Reach()),
        "width": lambda: apply(model, files["other dino"], tokens, Reach()),
        "four channels": lambda: apply(model, loaded, tokens, Reach()),
        "nine channels": lambda: apply(seen["wide"], seen["whole"], tokens, Reach()),
        "order": lambda: apply(model, seen["adapter"], tokens, Reach(1.0, 0.8, 0.2)),
        "count": lambda: drawn_two(apply(model, seen["adapter"], three, Reach()), conds),
        "mask size": lambda: encode(image, mask[:, :64], dino),
        "mask count": lambda: encode(image, mask.repeat(2, 1, 1), dino),
        "mask empty": lambda: encode(image, 0 * mask, dino),
        "other dino": lambda: toffee.BlendDINO.execute(generated, short, 0.5, 0.5),
        "subjects": lambda: toffee.BlendDINO.execute(generated, three, 0.5, 0.5),
        "blend mask": lambda: toffee.BlendDINO.execute(generated, tokens, 0.5, 0.5, mask[:, :64]),
        "inputs mask": lambda: inputs(*conds, vae, image, mask.repeat(2, 1, 1), True),
        "inputs empty": lambda: inputs(*conds, vae, image, 0 * mask, True),
        "gone": lambda: toffee_adapters.LoadDINOAdapter.execute("gone.safetensors"),
        "broken": lambda: toffee_adapters.LoadDINOAdapter.execute("broken.safetensors"),
    }
    return {"messages": {name: message(work) for name, work in bad.items()}}


def drawn_two(model, conds):
    empty = nodes.EmptyLatentImage().generate(128, 128, 2)[0]
    return nodes.common_ksampler(model, 1, 2, 1.0, "euler", "normal", *conds, empty)
