"""Subject replacement measured: `python benchmarks/replacement.py`, written to benchmarks/results/replacement.json.

Photos of the demo world get a learned subject of another kind in the place of theirs (HiFi Tuner, Algorithm 3). The
judges say whether the new subject is recognised and how much it is itself; outside of both subjects' masks the picture
is compared with the photo, and with what null texts alone make of the photo. Subjects are those of
`benchmarks/hifi_ablation.py`, learned when they are missing.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from grid import Case, cases, model
from hifi_ablation import TABLE, WEIGHT, learned
from likeness.core import files, prompts
from likeness.core.demo import judges, sheet, world
from likeness.core.demo.captions import PLACES
from likeness.core.hifi.inversion import invert, null_text
from likeness.core.hifi.replacement import replace_subject, with_word
from likeness.core.hifi.subject import SubjectText, carry
from likeness.core.metrics.similarity import average, masked
from torch import Tensor
from torch.nn import functional as F

RESULTS = Path(__file__).resolve().parent / "results" / "replacement.json"
DOCS = RESULTS.parents[2] / "docs"
KINDS = ("cat", "car", "teapot", "house")  # of the new subjects
STEPS, SEED = 50, 40_000_000
REACH = 17  # pixels around a mask that the autoencoder mixes with it
COLUMNS = ("photo", "null texts alone", "replaced")


def scenes(count: int, case: Case, number: int) -> list[tuple[world.Picture, str, str]]:
    """Photos of other kinds, with caption and the subject's word there."""
    rng, found = random.Random(SEED + number), []
    others = [kind for kind in world.KINDS if kind != case.word]
    while len(found) < count:
        kind = rng.choice(others)
        thing = world.random_subject(rng, (kind,), characters=0.0)
        shot = world.draw(thing, world.random_scene(rng, style="photo", view="front", accessory=None))
        found.append((shot, f"a photo of a {kind} {PLACES[shot.scene.background]}", kind))
    return found


def outside(a: Tensor, b: Tensor, masks: Tensor) -> Tensor:
    """PSNR in dB of pictures where no mask, widened by what the autoencoder mixes, is, (B,)."""
    near = F.max_pool2d(masks, 2 * REACH + 1, 1, REACH) > 0.5
    where = (~near).float().expand_as(a)
    error = ((a - b).square() * where).flatten(1).sum(1) / where.flatten(1).sum(1).clamp(min=1)
    return -10 * error.log10()


@torch.no_grad()
def measure(case: Case, count: int, number: int, steps: int) -> tuple[list[dict], list[Tensor]]:
    """A subject in so many photos: numbers a photo, and photo, null texts' picture and result side by side."""
    loaded, _ = model()
    panel, what, found, shown = judges.attributes(), learned(case, TABLE["+ step-wise"], steps), [], []
    dino, segment = judges.dino(), judges.segments()
    references = dino.images(masked(case.images, case.masks))
    times, null = loaded.denoiser.schedule.timesteps(STEPS), loaded.text("")
    for shot, caption, kind in scenes(count, case, number):
        target = with_word(caption, kind, case.word)
        image, source = shot.image[None], loaded.text(caption, [kind])
        path = invert(loaded.denoiser, source, loaded.encode(image), times)
        path = null_text(loaded.denoiser, source, null, path, WEIGHT)
        wanted = carry(loaded.text(target, [case.word]), target, loaded.text.tokenize, what)
        mapper = prompts.align(caption, target, loaded.text.tokenize)
        hooks = SubjectText(what).hooks
        z = replace_subject(loaded.denoiser, source, wanted, null, path, mapper, case.word, hooks=hooks)
        back, new = loaded.decode(path.drawn[0]), loaded.decode(z)
        seen = segment(new)
        both = torch.maximum(shot.mask[None], (seen > 0.5).float())
        found.append(
            {
                "old": kind,
                "recognised": panel(new)["kind"].values[0] == case.word,
                "dino": float(average(dino.images(masked(new, seen)), references)),
                "dino of the photo": float(average(dino.images(masked(image, shot.mask[None])), references)),
                "outside, against the photo": float(outside(new, image, both)),
                "outside, null texts against the photo": float(outside(back, image, both)),
                "outside, against null texts": float(outside(new, back, both)),
            }
        )
        shown.append(torch.cat([image, back, new]))
    return found, shown


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=6, help="photos a subject")
    parser.add_argument("--steps", type=int, default=400, help="of the subjects' first stage")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    found, rows = [], []
    for number, case in enumerate(cases(len(KINDS), KINDS)):
        numbers, shown = measure(case, options.scenes, number, options.steps)
        found += [{"subject": case.name, **each} for each in numbers]
        rows.append((f"{case.name}: {', '.join(COLUMNS)}", torch.cat(shown[:3])))
        print(f"{case.name}: {sum(n['recognised'] for n in numbers)} of {len(numbers)} recognised", flush=True)
    means = {k: sum(n[k] for n in found) / len(found) for k in found[0] if k not in ("subject", "old")}
    worst = {k: min(n[k] for n in found) for k in means if k.startswith("outside")}
    for name, value in means.items():
        print(f"{name:<40} {value:7.3f}" + (f"   worst {worst[name]:.2f} dB" if name in worst else ""))
    result = {"scenes": len(found), "means": means, "worst": worst, "each": found}
    files.write_atomically(RESULTS, (json.dumps(result, indent=2) + "\n").encode())
    print(f"wrote {RESULTS}\nwrote {sheet.contact_sheet(rows, DOCS / 'hifi-replacement.jpg')}")


if __name__ == "__main__":
    main()
