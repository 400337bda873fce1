"""The node that measures overfitting, whole graphs and bad inputs; against the headless runtime."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import comfy.utils
import folder_paths
import server
import torch
from inprocess import load_nodes, run_prompt
from likeness_in_comfyui.core import checkpoint
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.core.infusion import concept as concepts
from likeness_in_comfyui.core.infusion.control import Infusion, Use
from likeness_in_comfyui.core.metrics.overfitting import Captioned, Model, fisher_divergence, wasserstein2
from likeness_in_comfyui.nodes import demo_model, infusion_model, learned, metrics_model
from likeness_in_comfyui.nodes.metrics import MeasureOverfitting
from safetensors.torch import save_file

import nodes

WEIGHT = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
TWIN = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
BEACH, FOREST, CAT = "a photo of a duck on the beach", "a duck in the forest", "a photo of a cat on the beach"
COUNT, DRAWS, SEED = 3, 2, 5


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def subject(kind, seed):
    widgets = dict(identity=0, background="any", style="photo", view="front", size=128)
    return node("LikenessDemoSubject", kind=kind, count=COUNT, seed=seed, **widgets)


def lora(model):
    return node("LoraLoaderModelOnly", model=model, lora_name="drift.safetensors", strength_model=0.7)


def concept(model):
    inputs = dict(model=model, clip=["1", 1], concept=["concept", 0], prompt=CAT, strength=1.0)
    return node("LikenessApplyInfusion", **inputs)


def freeu(model):
    return node("FreeU", model=model, b1=1.1, b2=1.2, s1=0.9, s2=0.2)


def measured(base=("1", 0), custom=("1", 0), captions=BEACH, more=None, **widgets):
    """What the node gives, and what it told the progress bar last."""
    settings = dict(draws=DRAWS, batch_size=4, seed=SEED)
    links = dict(model=list(base), custom=list(custom), clip=["1", 1], vae=["1", 2], images=["ducks", 0])
    graph = {
        "1": node("LikenessLoadDemoModel"),
        "ducks": subject("duck", 0),
        "cats": subject("cat", 1),
        "concept": node("LikenessLoadConcept", file="random.safetensors"),
        "lora": lora(["1", 0]),
        "applied": concept(["1", 0]),
        "lora then applied": concept(["lora", 0]),
        "applied then lora": lora(["applied", 0]),
        "freeu": freeu(["1", 0]),
        "freeu then applied": concept(["freeu", 0]),
        "duck latents": node("VAEEncode", pixels=["ducks", 0], vae=["1", 2]),
        "cat latents": node("VAEEncode", pixels=["cats", 0], vae=["1", 2]),
        "m": node("LikenessMeasureOverfitting", captions=captions, **links, **{**settings, **widgets}),
    }
    progress = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: progress.append([value, total]))
    names = {name: ["m", i] for i, name in enumerate(("fisher", "error", "w2", "text"))}
    kept = run_prompt(graph, keep={**names, **(more or {})})
    return {**kept, "progress": [p for p in progress if p[1] in (COUNT * DRAWS, 2 * COUNT * DRAWS)][-1]}


def write_files(sites, shape):
    """A LoRA and a concept of random numbers; returns what each adds to the model."""
    g = torch.Generator().manual_seed(1)
    up, down = torch.randn(shape[0], 4, generator=g) * 0.3, torch.randn(4, shape[1], generator=g) * 0.3
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(4.0)}
    key = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    save_file({f"{key}.{name}": value for name, value in tensors.items()}, folder / "drift.safetensors")
    blank = concepts.blank(sites, ["cat"])
    residuals = {name: 3 * torch.randn(r.shape, generator=g) for name, r in blank.residuals.items()}
    path = learned.folder() / "random.safetensors"
    concepts.save(path, concepts.Concept(blank.words, residuals, blank.space, blank.base))
    return 0.7 * up @ down, concepts.load(path)


class Headless:
    """The same measurements on diffusers' U-Net."""

    def __init__(self, images):
        self.images = images
        self.base, self.other = checkpoint.load(MODEL), checkpoint.load(MODEL)

    def __call__(self, captions, custom=None):
        """`captions` maps each caption to its pictures; `custom` is the customised model's `Model`."""
        latents = self.base.encode(self.images)
        pictures = [Captioned(latents[which], self.base.text(text, ["cat"])) for text, which in captions.items()]
        custom = custom or Model(self.other.denoiser)
        generator = torch.Generator().manual_seed(SEED)
        return fisher_divergence(Model(self.base.denoiser), custom, pictures, generator=generator, draws=DRAWS)


def cancelled(measure):
    """Latents done when the node stopped, cancelled after its first batch."""
    done = []

    def interrupt(value, *_, **__):
        done.append(value)
        comfy.model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt)
    try:
        measure()
    except comfy.model_management.InterruptProcessingException:
        return done
    finally:
        comfy.utils.set_progress_bar_global_hook(None)


def otherwise_built(folder):
    """The demo's U-Net with other heads."""
    shutil.copytree(MODEL / "unet", folder / "unet")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "attention_head_dim": 2}))
    return demo_model.load_model(folder)


def main(pack):
    load_nodes()
    model, clip, vae = demo_model.load()
    shape = model.model.diffusion_model.get_parameter(WEIGHT).shape
    change, concept = write_files(infusion_model.sites(infusion_model.unet_of(model)), shape)
    result = {}

    # --- whole graphs
    plain = measured(more={"images": ["ducks", 0], "ducks": ["duck latents", 0], "cats": ["cat latents", 0]})
    latents = plain.pop("ducks"), plain.pop("cats")
    images = plain.pop("images")
    result["plain"] = plain
    result["lora"] = measured(custom=["lora", 0])
    result["small batches"] = measured(custom=["lora", 0], batch_size=1)
    result["other seed"] = measured(custom=["lora", 0], seed=6)
    result["lines"] = measured(custom=["lora", 0], captions=f"{BEACH}\n\n{FOREST}\n{BEACH}\n")
    result["concept"] = measured(custom=["applied", 0])
    result["word"] = measured(custom=["applied", 0], captions=CAT)
    result["one word"] = measured(custom=["applied", 0], captions=f"{BEACH}\n{CAT}\n{BEACH}")
    result["concept on lora"] = measured(base=["lora", 0], custom=["lora then applied", 0])
    result["lora on concept"] = measured(custom=["applied then lora", 0])
    result["lora on concept, word"] = measured(custom=["applied then lora", 0], captions=CAT)
    result["freeu"] = measured(custom=["freeu", 0])
    result["concept on freeu"] = measured(custom=["freeu then applied", 0])
    result["both freeu"] = measured(base=["freeu", 0], custom=["freeu then applied", 0])
    result["both applied"] = measured(base=["applied", 0], custom=["applied", 0], captions=CAT)
    result["samples"] = measured(base_samples=["duck latents", 0], custom_samples=["cat latents", 0])

    # --- headless
    everything = list(range(COUNT))
    with torch.inference_mode(False):
        headless = Headless(images.movedim(-1, 1).clone())
        headless.other.denoiser.unet.get_parameter(TWIN).data += change.clone()
        hooks = Infusion([Use(concept)]).hooks
        expected = {
            "lora": headless({BEACH: everything}),
            "lines": headless({BEACH: [0, 2], FOREST: [1]}),
            "word": headless({CAT: everything}, Model(headless.base.denoiser, hooks)),
            "lora on concept, word": headless({CAT: everything}, Model(headless.other.denoiser, hooks)),
        }
    result["expected"] = {name: [estimate.mean, estimate.error] for name, estimate in expected.items()}
    result["expected w2"] = wasserstein2(*(model.model.process_latent_in(each["samples"]) for each in latents)).w2

    # --- without a graph: merged weights, Cancel, bad inputs
    def measure(base=model, custom=model, images=images, captions=BEACH, **widgets):
        return metrics_model.measure(base, custom, clip, vae, images, captions, **{"seed": SEED, "draws": 2, **widgets})

    merged = demo_model.load()[0]
    merged.model.diffusion_model.get_parameter(WEIGHT).add_(change)
    result["merged"] = measure(custom=merged)
    inputs = dict(clip=clip, vae=vae, images=images, captions=BEACH, draws=DRAWS, seed=SEED)
    shown = []
    server.PromptServer.instance.send_progress_text = lambda text, node_id: shown.append([text, node_id])
    MeasureOverfitting.hidden = SimpleNamespace(unique_id="m")
    recorded = MeasureOverfitting.execute(model=model, custom=merged, **inputs).ui.as_dict()["text"]
    result["shown"] = [*recorded, *shown]
    result["one picture"] = measure(custom=merged, images=images[:1])
    result["cancelled"] = cancelled(lambda: measure(draws=5, batch_size=1))
    applied = infusion_model.apply(model, Use(concept))
    result["left"] = measure(custom=applied)[0] == 0 and len(infusion_model.uses_of(applied)) == 1
    result["still refused by others"] = applied.get_attachment(metrics_model.denoiser.STREAMS) == infusion_model.KEY

    sampling = nodes.NODE_CLASS_MAPPINGS["ModelSamplingDiscrete"]()
    broken = model.clone()
    broken.add_patches({f"diffusion_model.{WEIGHT}": ("diff", (torch.full(shape, torch.inf),))})
    one = {"samples": latents[0]["samples"][:1]}
    wide = {"samples": torch.zeros(2, 4, 16, 24)}
    bad = {
        "lines": {"captions": f"{BEACH}\n{FOREST}"},
        "no caption": {"captions": " \n"},
        "no images": {"images": images[:0]},
        "base only": {"base_samples": latents[0]},
        "custom only": {"custom_samples": latents[0]},
        "one sample": {"base_samples": one, "custom_samples": latents[1]},
        "sizes": {"base_samples": latents[0], "custom_samples": wide},
        "schedules": {"custom": sampling.patch(model, "eps", True)[0]},
        "sampling": {"custom": sampling.patch(model, "x0", False)[0]},
        "base sampling": {"base": sampling.patch(model, "x0", False)[0]},
        "built": {"custom": otherwise_built(Path(folder_paths.get_output_directory()) / "other")},
        "broken": {"custom": broken},
    }
    result["messages"] = {name: message(measure, **inputs) for name, inputs in bad.items()}
    return result


def message(measure, **inputs):
    try:
        return str(measure(**inputs))
    except ValueError as e:
        return str(e)
