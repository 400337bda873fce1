"""Train RetriNet in one process: previews, Cancel, resume, data sets; against the headless training."""

from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import server
import torch
from inprocess import load_nodes, run_prompt
from likeness_in_comfyui.core import checkpoint
from likeness_in_comfyui.core.demo import MODEL
from likeness_in_comfyui.core.retrinet import network as networks
from likeness_in_comfyui.nodes import demo_model, identities, learned, retrinet_model
from likeness_in_comfyui.training import loop
from likeness_in_comfyui.training import retrinet as training
from likeness_in_comfyui.training.data import identities as people_of
from likeness_in_comfyui.training.data import photos, records

SIZE, STEPS = 64, 5


def graph(steps=STEPS, **widgets):
    settings = dict(identities=identities.DEMO, references=2, task="composition", seed=3)
    advanced = dict(learning_rate=1e-3, batch_size=2, accumulation=2, rank=2, size=SIZE, people=2, preview_every=2)
    parts = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
    return {
        "1": {"class_type": "LikenessLoadDemoModel", "inputs": {}},
        "3": {
            "class_type": "LikenessTrainRetriNet",
            "inputs": {**parts, **settings, **advanced, "steps": steps, **widgets},
        },
    }


def trained(**widgets):
    return run_prompt(graph(**widgets), keep={"n": ["3", 0], "plot": ["3", 1]})


def fails(**widgets):
    try:
        trained(**widgets)
    except (RuntimeError, ValueError) as e:
        return short(e)


def short(e):
    """What the user reads: ComfyUI's report holds the traceback too."""
    return next((part[:300] for part in str(e).split("'exception_message': ")[1:]), str(e)[:300])


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values()))


def headless(plain):
    """The same training without ComfyUI, from the same beginning."""
    with torch.inference_mode(False):
        base = checkpoint.load(MODEL)
        network = retrinet_model.beginning(plain, 2, 3, "")()
        settings = loop.Settings(steps=STEPS, lr=1e-3, warmup=100, accumulation=2, ema=0.999, seed=3)
        learn = training.Learn(references=2, rank=2, batch=2, size=SIZE, loop=settings)
        bank = people_of.Bank(people_of.rendered(2, 4, 3, size=SIZE), base.encode, SIZE)
        begun = training.Training(base.denoiser, network, base.text, bank, learn)
        return begun.run(), begun.trainer.losses


def data_sets(folder):
    """What lies in the input folder, and learning from it."""
    people = people_of.rendered(2, 2, size=SIZE)
    for i, person in enumerate(people):
        for j, load in enumerate(person):
            for name, part in (("", load().image), ("masks", load().figure)):
                target = folder / "people" / f"person {i}" / name / f"{j}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(photos.png(part))
    (folder / "people.tar").write_bytes(records.to_tar(list(records.read(folder / "people"))))
    (folder / "alone").mkdir()
    (folder / "alone" / "0.png").write_bytes(photos.png(people[0][0]().image))
    (folder / "empty").mkdir()
    (folder / "broken.tar").write_bytes(b"nothing")
    listed = identities.names()
    before = identities.changed("people")
    found = {
        "listed": listed,
        "learned": [
            trained(steps=1, identities=name)["n"].model.settings["steps"] for name in ("people", "people.tar")
        ],
        "alone": fails(identities="alone"),
        "broken": fails(identities="broken.tar"),
        "gone": fails(identities="../x"),
        "prompts": [identities.load("people", SIZE, "a man", 0, 0)[0][0]().prompt],
    }
    for name in ("../x", "empty", "people/person 0"):
        try:
            identities.path_of(name)
        except FileNotFoundError as e:
            found[f"path {name}"] = str(e)
    (folder / "people" / "person 0" / "1.png").unlink()
    return {**found, "changed": before != identities.changed("people")}


def main(pack):
    load_nodes()
    previews, texts = [], []
    server.PromptServer.instance.send_progress_text = lambda text, node_id, sid=None: texts.append([text, node_id])
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: previews.append([value, total, preview is not None])
    )
    unbroken = trained()
    result = {"previews": previews[:], "texts": texts[:], "plot": list(unbroken["plot"].shape)}
    folder = learned.folder()
    checkpoints = sorted((folder / ".training").iterdir())
    result["checkpoints"] = len(checkpoints)
    losses = loop.files.load(checkpoints[0], kind=loop.CHECKPOINT)[0]["losses"].tolist()
    for file in checkpoints:
        file.unlink()

    # --- cancelled in the middle, then queued again
    def interrupt(value, total, preview, node_id=None):
        if value == 3 and preview is None:
            comfy.model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt)
    result["interrupted"] = fails()
    comfy.utils.set_progress_bar_global_hook(None)
    result["cancelled_file"] = [p.name for p in folder.glob("*.safetensors")]
    result["cancelled"] = networks.load(folder / result["cancelled_file"][0]).settings
    resumed = trained()["n"]
    result["resumed"] = same(resumed, unbroken["n"])
    result["fewer"] = trained(steps=2, preview_every=0)["n"].model.settings["steps"]
    result["settings"] = resumed.model.settings

    # --- the same headless
    plain, _, _ = demo_model.load()
    expected, wanted = headless(plain)
    result["losses"] = max(abs(a - b) / b for a, b in zip(losses, wanted))
    own, theirs = resumed.model.state_dict(), expected.state_dict()
    begun = retrinet_model.beginning(plain, 2, 3, "")().state_dict()
    moved = torch.cat([(theirs[k] - begun[k]).flatten() for k in theirs])
    apart = torch.cat([(own[k] - theirs[k]).flatten() for k in theirs])
    result["headless"] = float(apart.norm() / moved.norm()), float(moved.norm())
    untouched = demo_model.load()[0].model.diffusion_model.state_dict()
    used = plain.model.diffusion_model.state_dict()
    result["base_left"] = all(torch.equal(used[k], v) for k, v in untouched.items())
    result["size"] = fails(size=33)
    result["data"] = data_sets(Path(folder_paths.get_input_directory()))
    return result
