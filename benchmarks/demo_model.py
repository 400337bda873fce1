"""What the embedded model and the embedded judges can do: `python benchmarks/demo_model.py`.

Prints tables and writes `benchmarks/results/demo_model.json`; a run of some parts leaves the others' results in it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from likeness.core import checkpoint, files
from likeness.core.attention import MuteWord
from likeness.core.demo import MODEL, judges, sheet, world
from likeness.core.demo.captions import PLACES, article
from likeness.core.demo.judges import JUDGES
from likeness.core.denoiser import Hooks
from likeness.training import judge_measures as measures
from likeness.training.demo_export import HELD_OUT
from likeness.training.judge_pictures import round_trip

ROOT = Path(__file__).resolve().parent.parent
DOCS, RESULT = ROOT / "docs", Path(__file__).resolve().parent / "results" / "demo_model.json"
STEPS, GUIDANCE = 30, 5.0
ASKED = ("kind", "colour", "background")  # what prompts name
BATCH, COLUMNS = 12, 6


def measure_vae(options: argparse.Namespace) -> dict:
    """PSNR of the round trip over unseen pictures, mean over pictures, overall and per style."""
    vae = checkpoint.load(options.model).vae.float()
    pictures = [world.sample(HELD_OUT + i) for i in range(options.pictures)]
    images = torch.stack([picture.image for picture in pictures])
    back = torch.cat([round_trip(vae, chunk) for chunk in images.split(BATCH)])
    psnr = -10 * torch.log10((back - images).square().mean((1, 2, 3)))
    found = {"all": (float(psnr.mean()), len(pictures))}
    for style in world.STYLES:
        own = torch.tensor([picture.scene.style == style for picture in pictures])
        found[style] = (float(psnr[own].mean()), int(own.sum()))
    rows = [(label, part[:COLUMNS]) for label, part in (("unseen pictures", images), ("after the autoencoder", back))]
    contact_sheet(rows, DOCS / "demo-reconstructions.jpg")
    show(f"autoencoder, PSNR in dB on {len(pictures)} unseen pictures", found, "{:.1f}")
    return {"psnr": found}


def measure_judges(options: argparse.Namespace) -> dict:
    """Accuracy of the attribute judge where attributes are visible, also after the autoencoder's round trip."""
    unseen = measures.Unseen.draw(options.judged)
    vae = checkpoint.load(options.model).vae.float()
    back = torch.cat([round_trip(vae, chunk) for chunk in unseen.images.split(BATCH)])
    judge = judges.attributes(options.judges)
    rendered, after = (measures.accuracy(judge, images, unseen.labels) for images in (unseen.images, back))
    show(f"attribute judge, right where visible, {options.judged} unseen pictures", rendered)
    show("the same after the autoencoder's round trip", after)
    return {"rendered": rendered, "after the autoencoder": after}


def measure_identity(options: argparse.Namespace) -> dict:
    """Same subject in another scene against another subject of its class, and captions against wrong ones."""
    asked = measures.triples(options.triples)
    dino, clip = judges.dino(options.judges), judges.clip(options.judges)
    found = {name: measures.ranked_right(judge, asked) for name, judge in (("DINO", dino), ("CLIP-I", clip))}
    for name, shares in found.items():
        show(f"{name}, triples of held-out subjects ranked right", shares)
    found["patches"] = measures.patches_right(dino, asked)
    show("DINO, nearest patch in another scene of the same subject", found["patches"])
    right = measures.captions_right(clip, measures.Unseen.draw(options.judged))
    found["CLIP-T"] = {"own caption before a wrong one": (right, options.judged)}
    show("CLIP-T, unseen pictures", found["CLIP-T"])
    return found


def prompts(count: int) -> list[tuple[dict[str, str], str]]:
    """What is asked and in which words; classes in turn, so that each is asked for equally often."""
    rng, asked = random.Random("demo prompts"), []
    for i in range(count):
        kind, background = world.KINDS[i % len(world.KINDS)], rng.choice(world.BACKGROUNDS)
        colour = rng.choice(list(world.COLOURS))
        prompt = f"a photo of {article(f'{colour} {kind}')} {PLACES[background]}"
        asked.append(({"kind": kind, "colour": colour, "background": background}, prompt))
    return asked


def measure_prompts(options: argparse.Namespace) -> dict:
    """Pictures drawn from prompts, read by the attribute judge: share in which it sees what was asked."""
    model, judge, asked = checkpoint.load(options.model), judges.attributes(options.judges), prompts(options.prompts)
    images, started = [], time.monotonic()
    for i, (_, prompt) in enumerate(asked):
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(i))
        images.append(sheet.text_to_image(model, prompt, noise, steps=STEPS, guidance=GUIDANCE))
    seconds, images = time.monotonic() - started, torch.cat(images)
    answers = judge(images)
    right = {name: [a == want[name] for a, (want, _) in zip(answers[name].values, asked)] for name in ASKED}
    right["all three"] = [all(row) for row in zip(*right.values())]
    found = {name: (sum(row) / len(row), len(row)) for name, row in right.items()}
    show(f"prompts followed, {STEPS} DDIM steps, guidance {GUIDANCE:.0f}", found)
    print(f"{seconds / len(asked):.2f} s a picture")
    rows = []
    for kind in world.KINDS[:: len(world.KINDS) // 4]:
        own = [i for i, (want, _) in enumerate(asked) if want["kind"] == kind][:COLUMNS]
        said = ", ".join(f"{asked[i][0]['colour']} {asked[i][0]['background']}" for i in own)
        if own:
            rows.append((f"{kind}: {said}", images[own]))
    contact_sheet(rows, DOCS / "demo-samples.jpg")
    return found


def measure_muted(options: argparse.Namespace) -> dict:
    """The same prompts and noise with one word's attention column zeroed: what the attribute judge still sees."""
    model, judge, asked = checkpoint.load(options.model), judges.attributes(options.judges), prompts(options.muted)
    noise = torch.randn(len(asked), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    found = {}
    for muted in (None, *ASKED):
        images = torch.cat([_muted(model, want, prompt, muted, z[None]) for (want, prompt), z in zip(asked, noise)])
        answers = judge(images)
        right = {n: [a == want[n] for a, (want, _) in zip(answers[n].values, asked)] for n in ASKED}
        found[f"{muted or 'nothing'} muted"] = {n: (sum(row) / len(row), len(row)) for n, row in right.items()}
        show(f"{muted or 'nothing'} muted: prompts followed", found[f"{muted or 'nothing'} muted"])
    return found


def _muted(model, want: dict[str, str], prompt: str, muted: str | None, noise: torch.Tensor) -> torch.Tensor:
    """One picture (1, 3, 128, 128), the word for one of its attributes muted."""
    word = None if muted is None else PLACES[want[muted]].split()[-1] if muted == "background" else want[muted]
    hooks = Hooks(attention=MuteWord(word), words=(word,)) if word else None
    return sheet.text_to_image(model, prompt, noise, steps=STEPS, guidance=GUIDANCE, hooks=hooks)


def contact_sheet(rows: list[tuple[str, torch.Tensor]], path: Path) -> None:
    """A sheet of no more than 250 KB, for the docs."""
    sheet.contact_sheet(rows, path)
    if path.stat().st_size > 250_000:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes; show fewer pictures")


def show(title: str, found: dict[str, tuple[float, int]], form: str = "{:.1%}") -> None:
    """Print one table: name, value, on how many."""
    print(f"\n{title}")
    for name, (value, count) in found.items():
        print(f"  {name:<32} {form.format(value):>7}  of {count}")


PARTS = {
    "vae": measure_vae,
    "judges": measure_judges,
    "identity": measure_identity,
    "prompts": measure_prompts,
    "muted": measure_muted,
}
DRAWN_BY_MODEL = ("vae", "judges", "prompts", "muted")  # the parts whose numbers depend on it
USED = {
    "judges": ("attributes",),
    "identity": ("dino", "clip"),
    "prompts": ("attributes",),
    "muted": ("attributes",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--model", type=Path, default=MODEL, help="a model in diffusers' layout")
    parser.add_argument("--judges", type=Path, default=JUDGES, help="folder of the judges")
    parser.add_argument("--pictures", type=int, default=64, help="of the autoencoder's PSNR")
    parser.add_argument("--judged", type=int, default=480, help="unseen pictures that the judges are measured on")
    parser.add_argument("--triples", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--muted", type=int, default=48, help="prompts that are drawn with each of their words muted")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.parts:
        results[name] = PARTS[name](options)
        weights = {judge: weights_of(options.judges / judge) for judge in USED.get(name, ())}
        if name in DRAWN_BY_MODEL:
            weights["model"] = weights_of(options.model)
        results[name]["weights"] = weights
        files.write_atomically(options.out, (json.dumps(results, indent=2) + "\n").encode())
    print(f"\nwrote {options.out}")


def weights_of(folder: Path) -> str:
    """A short hash of all weights in a folder: which weights a number belongs to."""
    from safetensors.torch import load_file

    paths = sorted(folder.rglob("*.safetensors"))
    return files.fingerprint({f"{p.relative_to(folder)} {k}": t for p in paths for k, t in load_file(p).items()})


if __name__ == "__main__":
    main()
