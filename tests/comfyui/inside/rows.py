"""Whatever conditionings ComfyUI batches together, each row of the network call knows its role and its words."""

import comfy.samplers
import torch
from common import Everywhere, conditioning
from inprocess import load_nodes
from likeness_in_comfyui.core.denoiser import Hooks
from likeness_in_comfyui.nodes import demo_model, denoiser, words

import nodes

SITE = "down.0.0.0.cross"
LONG = ", a big green cup on the beach" * 10
TEXTS = {
    "cat": "a photo of a red cat",
    "other": "a cat on a blue house",
    "dog": "a photo of a dog",
    "two": "a painting of a cat" + LONG,
    "three": "a drawing of a cat" + 2 * LONG,
    "away": "a brown cat",
    "empty": "",
}


class Identify(Everywhere):
    """Recognises each row's prompt by its keys, and compares the row's description with what that prompt deserves."""

    def __init__(self, project, known, batch):
        super().__init__()
        self.project, self.known, self.batch = project, known, batch
        self.seen, self.wrong = set(), []

    def __call__(self, site, *args):
        if site.name == SITE:
            _, k, _, rows, _ = args
            for r in range(len(k)):
                self.check(k[r], rows, r)
        return super().__call__(site, *args)

    def check(self, keys, rows, r):
        for name, (tokens, where, role) in self.known.items():
            times = len(keys) // tokens.shape[1]
            if times * tokens.shape[1] != len(keys):
                continue
            if torch.allclose(self.project(tokens)[0].repeat(times, 1), keys, rtol=1e-3, atol=1e-4):
                self.seen.add(name)
                marks = rows.where("cat", len(keys))[r]
                if bool(rows.conditional[r]) != role or not torch.equal(marks, where.repeat(times)):
                    self.wrong.append([name, bool(rows.conditional[r]), marks.nonzero().flatten().tolist()])
                return
        self.wrong.append(["unknown", r])


def main(pack):
    load_nodes()
    model, clip, _ = demo_model.load()
    project = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn2.to_k
    where = {name: words.find_words(clip, text, ["cat"]) for name, text in TEXTS.items()}
    c = {name: words.mark_words(conditioning(clip, text), where[name]) for name, text in TEXTS.items()}

    def known(*names, away=(), **more):
        base = {n: (c[n][0][0], where[n]["cat"], n not in away) for n in names}
        return {**base, **more}

    def area(cond):
        return nodes.ConditioningSetArea().append(cond, 64, 128, 0, 0, 1.0)[0]

    def concat(to, of):
        return nodes.ConditioningConcat().concat(to, of)[0]

    def sample(name, positive, negative, expected, *, cfg=4.0, batch=2, guider=None):
        identify = Identify(project, expected, batch)
        patched = denoiser.attach(model, Hooks(attention=identify, words=("cat",)))
        run = guider(patched) if guider else comfy.samplers.CFGGuider(patched)
        if not guider:
            run.set_conds(positive, negative)
            run.set_cfg(cfg)
        noise = torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        steps = torch.tensor([5.0, 1.0, 0.0])
        run.sample(noise, torch.zeros_like(noise), comfy.samplers.ksampler("euler"), steps, disable_pbar=True)
        return {"wrong": identify.wrong, "unseen": sorted(set(expected) - identify.seen), "case": name}

    cases = [
        sample("plain", c["cat"], c["away"], known("cat", "away", away=("away",))),
        sample("cfg 1", c["cat"], c["away"], known("cat"), cfg=1.0, batch=3),
        sample("two prompts", c["cat"] + c["other"], c["empty"], known("cat", "other", "empty", away=("empty",))),
        sample("areas", area(c["cat"]) + c["other"], c["empty"], known("cat", "other", "empty", away=("empty",))),
        sample("lengths", c["three"] + c["cat"], c["two"], known("three", "cat", "two", away=("two",)), batch=1),
    ]
    joined = concat(c["cat"], c["dog"])
    marks = torch.cat([where["cat"]["cat"], torch.zeros(77, dtype=torch.bool)])
    expected = known("empty", away=("empty",), joined=(joined[0][0], marks, True))
    cases.append(sample("concatenated", joined, c["empty"], expected))

    def perp_neg(patched):
        from comfy_extras.nodes_perpneg import Guider_PerpNeg

        guider = Guider_PerpNeg(patched)
        guider.set_conds(c["cat"], c["away"], c["empty"])
        guider.set_cfg(4.0, 1.0)
        return guider

    expected = known("cat", "away", "empty", away=("away", "empty"))
    cases.append(sample("perp neg", None, None, expected, guider=perp_neg))

    # the same inside `run`, where ComfyUI gives one prompt's areas to another
    identify = Identify(project, known("cat", "empty", away=("empty",)), 2)

    def work(native, z, prompts):
        hooks = Hooks(attention=identify, words=("cat",))
        native(z, 500, prompts["negative"], prompts["positive"], hooks=hooks)
        native(z, torch.tensor([5, 500]), prompts["negative"], prompts["positive"])
        try:
            native(z, 500, prompts["positive"], hooks=Hooks(attention=identify, streams=3))
        except ValueError as e:
            return str(e)

    zeros = torch.zeros(2, 4, 16, 16)
    refused = denoiser.run(model, {"positive": area(c["cat"]), "negative": c["empty"]}, zeros, work)
    cases.append({"wrong": identify.wrong, "unseen": sorted({"cat", "empty"} - identify.seen), "case": "run, areas"})
    return {"cases": cases, "refused": refused}
