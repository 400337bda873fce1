"""HiFi Tuner part by part, as in the paper's Table 2: `python benchmarks/hifi_ablation.py`, written to
benchmarks/results/hifi-ablation.json, the picture to runs/hifi-ablation.jpg.

Textual inversion, then with the subject's mask, regularisation, step-wise rows, reference guidance; and a fine-tune in
DreamBooth's manner without and with guidance. Each row draws from the same noise, compared with the one before it.
Learned subjects and drawn cells are cached in runs/grid, so a stopped run goes on. `--sweep` tries weights of the
regularisation instead, `--attention` measures how widely a subject's rows are attended to at each step (Figure 3).
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from grid import CACHE, KINDS, RESULTS, Case, Draw, Method, cases, model, pictures, run, table
from likeness.core import files
from likeness.core.demo import judges, sheet
from likeness.core.denoiser import Hooks, guided
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import sample
from likeness.core.hifi import guidance, subject
from likeness.core.hifi.align import align
from likeness.core.hifi.guidance import Guidance
from likeness.core.hifi.inversion import Trajectory, invert
from likeness.core.hifi.maps import SubjectMaps
from likeness.core.hifi.reference import pick
from likeness.core.hifi.subject import Subject, SubjectText, carry
from likeness.training import hifi, loop
from likeness.training.data import photos
from torch import Tensor

SHOWN = ("car", "teapot")
STEPS, WEIGHT = 25, 5.0
GUIDE = Guidance(steps=5)
TURN = 30.0  # most degrees that a photo is turned by, as in Align Reference: else subjects end upside down
WEIGHTS = (0.0, 0.01, 0.03, 0.1)
FINE_TUNE = loop.Settings(steps=200, lr=1e-4, every=100)


@dataclass(frozen=True)
class Row:
    """What a row of the table learns, and whether a photo leads it."""

    masked: bool = True
    start: str = "null"
    regularisation: float = 0.03
    timesteps: int = 50
    fine_tuned: bool = False
    led: bool = False


TABLE = {
    "textual inversion": Row(masked=False, start="word", regularisation=0.0, timesteps=0),
    "+ mask": Row(start="word", regularisation=0.0, timesteps=0),
    "+ regularisation": Row(timesteps=0),
    "+ step-wise": Row(),
    "+ guidance": Row(led=True),
    "DreamBooth": Row(fine_tuned=True),
    "DreamBooth + guidance": Row(fine_tuned=True, led=True),
}


def groups(case: Case, masked: bool) -> list[photos.Group]:
    fitted = photos.prepare(list(case.images), 128, "crop", list(case.masks) if masked else None)
    return photos.encode(fitted, model()[0].encode)


def learned(case: Case, row: Row, steps: int) -> Subject:
    """The subject of a row; rows that share the first stage share its checkpoint."""
    loaded, base = model()
    own = (row.masked, row.start, row.regularisation, steps)
    known = files.fingerprint({f"{case.name} {own} {base}": case.images})
    path = CACHE / "subjects" / f"{known}-{row.timesteps}.safetensors"
    if not path.exists():
        settings = loop.Settings(steps=steps, lr=5e-3, clip=0.0, every=100)
        learn = hifi.Learn(regularisation=row.regularisation, timesteps=row.timesteps, loop=settings)
        prompt, null = (loaded.text(text, [case.word]) for text in (f"a photo of a {case.word}", ""))
        word = prompt.tokens[:, prompt.words[case.word]].mean(1, keepdim=True).expand(-1, learn.rows, -1)
        start = word if row.start == "word" else None
        data, kept = groups(case, row.masked), path.with_name(f"{known}.checkpoint")
        training = hifi.Training(loaded.denoiser, prompt, null, data, case.word, learn, start, kept)
        subject.save(path, training.run(), torch.float32)
    return subject.load(path)


@functools.lru_cache(maxsize=2)
def tuned(case_name: str, word: str) -> DiffusersDenoiser:
    """The U-Net fine-tuned on a subject's photos, all weights, without prior pictures (DreamBooth-style)."""
    loaded, base = model()
    case = next(c for c in cases(len(KINDS), KINDS) if c.name == case_name)
    path = CACHE / "tuned" / f"{files.fingerprint({f'{case_name} {FINE_TUNE} {base}': case.images})}.safetensors"
    denoiser = DiffusersDenoiser(copy.deepcopy(loaded.denoiser.unet).requires_grad_(True), loaded.denoiser.schedule)
    if not path.exists():
        data, text = groups(case, masked=False), loaded.text(f"a photo of a {word}")

        def loss(step: int, generator: torch.Generator) -> Tensor:
            z0, _ = photos.some(data, 4, generator)
            t, eps = denoiser.schedule.stratified(4, generator), torch.randn(z0.shape, generator=generator)
            answer = denoiser(denoiser.schedule.noise(z0, eps, t), t, text)[0]
            return (answer - denoiser.schedule.target(z0, eps, t)).square().mean()

        weights = loop.Trainer(dict(denoiser.unet.named_parameters()), loss, FINE_TUNE).run()
        files.save(path, weights, files.Header("benchmark-weights"))
    denoiser.unet.load_state_dict(files.load(path, kind="benchmark-weights")[0], strict=False)
    denoiser.unet.requires_grad_(False)
    return denoiser


def method(name: str, row: Row, steps: int) -> Method:
    led = f"{GUIDE} {TURN}"
    settings = (
        f"{model()[1]} {STEPS} {WEIGHT} {row} {steps} {led if row.led else ''} {FINE_TUNE if row.fine_tuned else ''}"
    )
    return Method(name, settings, lambda case: drawer(case, row, steps))


def foundation() -> Method:
    def learn(case: Case) -> Draw:
        return lambda prompt, noise: sheet.text_to_image(model()[0], prompt, noise, steps=STEPS, guidance=WEIGHT)

    return Method("foundation", f"{model()[1]} {STEPS} {WEIGHT}", learn)


def drawer(case: Case, row: Row, steps: int) -> Draw:
    """Pictures of a prompt: plain, or drawn again with their subject led by the most similar photo."""
    loaded, _ = model()
    denoiser = tuned(case.name, case.word) if row.fine_tuned else loaded.denoiser
    what = None if row.fine_tuned else learned(case, row, steps)
    hooks = Hooks() if what is None else SubjectText(what).hooks
    times, null = denoiser.schedule.timesteps(STEPS), loaded.text("")
    references = References(denoiser, case) if row.led else None

    @torch.no_grad()
    def pictures_of(prompt: str, noise: Tensor) -> Tensor:
        text = loaded.text(prompt)
        text = text if what is None else carry(text, prompt, loaded.text.tokenize, what)
        plain = loaded.decode(sample(denoiser.schedule, guided(denoiser, text, null, WEIGHT, hooks), noise, times))
        if references is None:
            return plain
        path, mask, found = references(plain, times)
        if not bool(found.any()):
            return plain
        z = guidance.reference_guided(denoiser, text, null, noise[found], times, path, mask, WEIGHT, GUIDE, hooks=hooks)
        plain[found] = loaded.decode(z)
        return plain

    return pictures_of


class References:
    """A case's photos, laid where a generated picture has its subject and inverted (HiFi Tuner, section 3.3)."""

    def __init__(self, denoiser: DiffusersDenoiser, case: Case):
        self.denoiser, self.case = denoiser, case
        self.segment, self.dino = judges.segments(), judges.dino()

    def __call__(self, plain: Tensor, times: Sequence[int]) -> tuple[Trajectory | None, Tensor | None, Tensor]:
        """Trajectory and masks of the pictures that have a subject, and which those are, bool (B,)."""
        loaded, _ = model()
        seen = self.segment(plain)[:, 0]
        found = (seen > 0.5).flatten(1).float().mean(1) > 0.01
        images, masks = [], []
        for picture, mask in zip(plain[found], seen[found]):
            best, _ = pick(self.dino, picture[None], self.case.images, mask[None], self.case.masks[:, 0])
            moved = align(self.case.masks[best], mask[None], max_angle=TURN)
            size = (picture.shape[-2], picture.shape[-1])
            images.append(moved.apply(self.case.images[best : best + 1], size))
            masks.append(moved.apply(self.case.masks[best], size))
        if not images:
            return None, None, found
        latents = loaded.encode(torch.cat(images))
        caption = loaded.text(f"a photo of a {self.case.word}")
        path = invert(self.denoiser, caption, latents, times)
        return path, guidance.at_latent_size(torch.cat(masks), (latents.shape[-2], latents.shape[-1])), found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=8, help="those of guided rows are half as many")
    parser.add_argument("--steps", type=int, default=400, help="of the first stage; 1000 in the paper")
    parser.add_argument("--rows", nargs="+", default=list(TABLE), choices=list(TABLE))
    parser.add_argument("--sweep", action="store_true", help="weights of the regularisation, on half of the subjects")
    parser.add_argument("--attention", action="store_true", help="of the step-wise rows, on all of the subjects")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    subjects = cases(options.subjects, KINDS)
    if options.attention:
        measure_attention(subjects, options.steps)
        return
    half = subjects[: max(1, options.subjects // 2)]
    if options.sweep:
        rows = {f"w_s {w:g}": replace(TABLE["+ regularisation"], regularisation=w) for w in WEIGHTS}
        report("hifi-sweep", rows, half, options.steps)
        return
    rows = {name: TABLE[name] for name in options.rows}
    report("hifi-ablation", {name: row for name, row in rows.items() if not row.led}, subjects, options.steps)
    if any(row.led for row in rows.values()):
        guided_rows = {name: row for name, row in rows.items() if row.led or replace(row, led=True) in rows.values()}
        report("hifi-guidance", guided_rows, half, options.steps)


def measure_attention(subjects: Sequence[Case], steps: int, seeds: int = 4) -> None:
    """How evenly places look at a subject's step-wise rows, and at the untouched model's own word for it: entropy as a
    share of the largest, by timestep."""
    loaded, _ = model()
    found: dict[str, dict[str, Any]] = {"rows": {}, "untouched word": {}}
    noise = torch.randn(seeds, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def looked_at(text: Text, mark: str, count: int, hooks: Hooks) -> dict[int, float]:
        maps = SubjectMaps(mark, count)
        predict = guided(loaded.denoiser, text, loaded.text(""), WEIGHT, replace(hooks, attention=maps))
        with torch.no_grad():
            sample(loaded.denoiser.schedule, predict, noise, loaded.denoiser.schedule.timesteps(STEPS))
        return {t: round(evenness(looked), 4) for t, looked in sorted(maps.seen.items(), reverse=True)}

    for case in subjects:
        what, prompt = learned(case, TABLE["+ step-wise"], steps), f"a photo of a {case.word} on the beach"
        text = carry(loaded.text(prompt), prompt, loaded.text.tokenize, what)
        found["rows"][case.name] = looked_at(text, what.mark, what.count, SubjectText(what).hooks)
        word = loaded.text(prompt, [case.word])
        found["untouched word"][case.name] = looked_at(word, case.word, 1, Hooks(words=(case.word,)))
        print({name: own[case.name] for name, own in found.items()}, flush=True)
    path = files.write_atomically(RESULTS / "hifi-attention.json", (json.dumps(found, indent=1) + "\n").encode())
    print(f"wrote {path}")


def evenness(looked: Tensor) -> float:
    """Mean entropy of maps (n, h, w), as a share of the largest there is."""
    p = looked.flatten(1) / looked.flatten(1).sum(1, keepdim=True)
    return float((-(p * p.clamp_min(1e-12).log()).sum(1) / math.log(p.shape[1])).mean())


def report(name: str, rows: dict[str, Row], subjects: Sequence[Case], steps: int) -> None:
    methods: list[Method] = [foundation(), *(method(each, row, steps) for each, row in rows.items())]
    result = run(methods, subjects, previous=True)
    print(table(result))
    print(f"wrote {result.save(name)}")
    shown = [case for case in subjects if case.word in SHOWN] or list(subjects[:1])
    print(f"wrote {pictures(methods, shown, CACHE.parent / f'{name}.jpg')}")


if __name__ == "__main__":
    main()
