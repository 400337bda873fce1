"""What Toffee's three models do on the demo world: `python benchmarks/toffee_quality.py`.

* refine: the foundation model draws a held-out subject's kind, the Refiner gives it the subject's patches.
* redraw: the same without any patch of the subject, so that the Refiner draws the picture again from its own tokens.
* blend: the same with other thresholds, shares and starts, by which the defaults were chosen.
* views: the View Generator draws held-out subjects from one photo; who it is and from where, by the judges.
* generate: ToffeeNet draws held-out subjects from one photo each, beside what the foundation model draws of their kind.
* edit: ToffeeNet draws a subject inside a mask of a photo; outside, the photo has to be left alone.
* segmented: what plain and segmented metrics say of the same subject elsewhere and of another one in its place.

Strength and other methods are in `python benchmarks/evidence`, other trainings of ToffeeNet, with segmented photos too,
in `toffee_variants.py`. Adapters are those that come with the pack, or `--folder`. Written to
results/toffee-quality.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from grid import RESULTS, Case, asked_of, cases, model
from likeness.core.controlnet import load as load_controlnet
from likeness.core.demo import MODEL, judges, sheet, world
from likeness.core.demo.captions import PLACES
from likeness.core.demo.judges import Panel
from likeness.core.denoiser import guided
from likeness.core.diffusion import Predict, Schedule, sample
from likeness.core.metrics.similarity import average, masked, paired_bootstrap
from likeness.core.toffee import adapter as adapters
from likeness.core.toffee.adapter import Injection
from likeness.core.toffee.drawing import prepared
from likeness.training.data.pairs.draw import Adapted, Painter, Settings, noise
from likeness.training.data.pairs.masks import pasted
from likeness.training.data.pairs.models import shipped
from torch import Tensor
from torch.nn import functional as F

SIZE, STEPS, GUIDANCE = 128, 25, 3.0
# threshold, share, start
BLENDS = ((0.5, 0.5, 0.6), (0.3, 0.9, 0.6), (0.1, 1.0, 0.6), (0.3, 0.9, 0.8), (0.1, 1.0, 0.8))
PARTS = ("refine", "redraw", "blend", "views", "generate", "edit", "segmented")
DEPTH = MODEL.parent / "controlnet" / "depth.safetensors"
REACH = 16  # pixels over a mask's edge that the autoencoder mixes; its norms and middle attention see all of a picture


def interval(values: dict[str, Tensor]) -> list[float]:
    """Mean and 95% interval over subjects."""
    found = paired_bootstrap(values)
    return [round(x, 4) for x in (found.mean, found.low, found.high)]


@cache
def panel() -> Panel:
    return Panel()


@cache
def dino() -> Any:
    return judges.dino()


@cache
def attributes() -> Any:
    return judges.attributes()


def file_of(folder: Path | None, name: str) -> Path:
    """An adapter of a folder, or the one that comes with the pack."""
    return folder / f"{name}.safetensors" if folder else shipped(name)


def painter(folder: Path | None, refiner: bool = False, views: bool = False, **settings: float) -> Painter:
    """The factory's, with some of the adapters."""
    loaded = model()[0]

    def adapted(name: str) -> Adapted:
        return Adapted(loaded, adapters.load(file_of(folder, name)).eval().requires_grad_(False))

    parts = adapted("refiner") if refiner else None, adapted("view-generator") if views else None
    return Painter(loaded, dino(), *parts, None, Settings(size=SIZE, steps=STEPS, **settings))


# --- Refiner, View Generator -----------------------------------------------------------------------------------------


def refine(
    folder: Path | None, subjects: Sequence[Case], picture: Path | None = None, **settings: float
) -> dict[str, Any]:
    """Differences that refining makes, over subjects."""
    paint, gains, rows = painter(folder, refiner=True, **settings), {}, []
    for case in subjects:
        asked = asked_of(case)
        keys = [f"{case.name} {i}" for i in range(len(asked))]
        drawn = paint.draw([each.prompt for each in asked], keys)
        count = (len(drawn), -1, -1, -1)
        refined, shares = paint.refine(drawn, case.images[:1].expand(count), case.masks[:1].expand(count), keys)
        before, after = (panel().score(side, asked, case.images, case.masks) for side in (drawn, refined))
        for name, values in after.items():
            gains.setdefault(name, {})[case.name] = values.float() - before[name].float()
        gains.setdefault("matched patches", {})[case.name] = torch.tensor(shares)
        rows += [
            (f"{case.name}: photo, drawn", torch.cat([case.images[:1], drawn])),
            (f"{case.name}: refined", refined),
        ]
    if picture is not None:
        sheet.contact_sheet(rows, picture)
    return {name: interval(values) for name, values in gains.items()}


def blend(folder: Path | None, subjects: Sequence[Case]) -> dict[str, Any]:
    """The same for each of `BLENDS`."""
    names = ("threshold", "share", "start")
    return {", ".join(map(str, each)): refine(folder, subjects, **dict(zip(names, each))) for each in BLENDS}


def views(folder: Path | None, count: int, picture: Path | None = None) -> dict[str, float]:
    """Shares of held-out subjects that are kept, and that are seen from another side than in the photo."""
    paint, read = painter(folder, views=True), attributes()
    subjects = world.held_out_subjects(count)
    photos = [world.photos(s, 3, seed=i, style="photo", accessory=None) for i, s in enumerate(subjects)]
    shown = torch.stack([own[0].image for own in photos])
    words = [s.word for s in subjects]
    drawn = torch.cat(
        [
            paint.view(part, [f"{i + k}" for k in range(len(part))], words[i : i + len(part)])
            for i, part in _parts(shown)
        ]
    )
    turned = [a != b for a, b in zip(read(drawn)["view"].values, read(shown)["view"].values)]
    kind = [a == s.word for a, s in zip(read(drawn)["kind"].values, subjects)]
    kept = 0
    for i, image in enumerate(dino().images(drawn).split(1)):
        rivals = [k for k, s in enumerate(subjects) if s.word == subjects[i].word and k != i]
        own = average(image, dino().images(torch.stack([p.image for p in photos[i]])))
        other = photos[rivals[i % len(rivals)]] if rivals else photos[i - 1]
        kept += float(own) > float(average(image, dino().images(torch.stack([p.image for p in other]))))
    if picture is not None:
        both, three = torch.stack([shown, drawn], 1), range(0, min(count, 12), 3)
        sheet.contact_sheet([(", ".join(words[i : i + 3]), both[i : i + 3].flatten(0, 1)) for i in three], picture)
    found = {"same subject": kept / count, "another view": sum(turned) / count, "same kind": sum(kind) / count}
    return {name: round(value, 4) for name, value in found.items()}


def _parts(images: Tensor, size: int = 8) -> list[tuple[int, Tensor]]:
    return [(i, images[i : i + size]) for i in range(0, len(images), size)]


# --- ToffeeNet -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def drawn(
    file: Path,
    photo: Tensor,
    prompts: Sequence[str],
    keys: Sequence[str],
    *,
    inside: tuple[Tensor, Tensor] | None = None,
    network: Any = None,
    depth: Tensor | None = None,
) -> Tensor:
    """Pictures (B, 3, S, S) of the subject of a photo (1, 3, S, S).

    Args:
        inside: picture (1, 3, S, S) and mask (1, 1, S, S) that are edited, the rest stays the picture's at each step,
            as by ComfyUI's noise mask; everything is drawn without.
        network: a ControlNet.
        depth: what it sees, (1, S, S); a constant without.
    """
    loaded = model()[0]
    adapter = adapters.load(file).eval().requires_grad_(False)
    picture, mask = inside or (photo, None)
    denoiser, carried = prepared(loaded, picture, mask, network, depth)
    hooks = Injection(adapter, dino().tokens(photo), len(denoiser.schedule)).hooks
    text, null = (
        carried(texts[0].with_rows(texts[1:]))
        for texts in ([loaded.text(p) for p in prompts], [loaded.text("") for _ in prompts])
    )
    z = torch.stack([noise(key, (4, SIZE // 8, SIZE // 8)) for key in keys])
    schedule, predict = loaded.denoiser.schedule, guided(denoiser, text, null, GUIDANCE, hooks)
    if inside is not None:
        predict = composited(predict, schedule, loaded.encode(picture), mask)
    return loaded.decode(sample(schedule, predict, z, schedule.timesteps(STEPS))).clamp(0, 1)


def composited(predict: Predict, schedule: Schedule, kept: Tensor, mask: Tensor) -> Predict:
    """A prediction whose picture outside of a mask (1, 1, S, S) is that of latents (1, 4, S/8, S/8)."""
    where = F.adaptive_max_pool2d(mask, kept.shape[-2:]) > 0
    return lambda z, t: torch.where(where, predict(z, t), schedule.output(kept, z, t))


def generate(folder: Path | None, subjects: Sequence[Case], network: Any, picture: Path | None) -> dict[str, Any]:
    """Numbers of both, and their differences, over subjects; depth is a constant."""
    paint, file, found, rows = painter(folder), file_of(folder, "toffeenet"), {}, []
    for case in subjects:
        asked = asked_of(case)
        keys = [f"{case.name} {i}" for i in range(len(asked))]
        plain = paint.draw([each.prompt for each in asked], keys)
        images = drawn(file, case.images[:1], [each.prompt for each in asked], keys, network=network)
        before, after = (panel().score(side, asked, case.images, case.masks) for side in (plain, images))
        for metric, values in after.items():
            sides = {"foundation": before[metric], "ToffeeNet": values, "difference": values.float() - before[metric]}
            for side, each in sides.items():
                found.setdefault(side, {}).setdefault(metric, {})[case.name] = each.float()
        rows += [(f"{case.name}: photo, foundation", torch.cat([case.images[:1], plain])), ("ToffeeNet", images)]
    if picture is not None:
        sheet.contact_sheet(rows, picture)
    return {side: {metric: interval(v) for metric, v in own.items()} for side, own in found.items()}


def edit(folder: Path | None, count: int, network: Any, picture: Path | None) -> dict[str, Any]:
    """What a subject's replacement inside a mask leaves of the rest, against the autoencoder's own error there.

    In the photo is another subject of the kind, or of another kind. The autoencoder reaches over the mask's edge, so
    `REACH` pixels beyond it are not counted.
    """
    subjects, found, rows = world.held_out_subjects(count), {}, []
    for i, subject in enumerate(subjects):
        alike = next(s for s in world.held_out_subjects(2, subject.word) if s != subject)
        for kind, old in (("its kind", alike), ("another kind", subjects[i - 1])):
            made, own = _edited(folder, subject, old, i, network)
            for name, value in own.items():
                found.setdefault(f"in the place of {kind}: {name}", []).append(value)
            rows.append((f"{subject.word} for {old.word}: photo, before, after", made))
    if picture is not None:
        sheet.contact_sheet(rows[:16], picture)
    return {name: round(sum(values) / len(values), 4) for name, values in found.items()}


def _edited(
    folder: Path | None, subject: world.Subject, old: world.Subject, seed: int, network: Any
) -> tuple[Tensor, dict[str, float]]:
    """Photo of a subject, of the old one, and the subject in the latter; and the numbers."""
    photo, scene = (world.photos(s, 1, seed=seed, style="photo", view="front")[0] for s in (subject, old))
    before, mask = scene.image[None], F.max_pool2d(scene.mask[None], 13, 1, 6)  # as the workflow grows it
    asked = f"a photo of a {subject.word} {PLACES[scene.scene.background]}"
    file = file_of(folder, "toffeenet")
    made = drawn(file, photo.image[None], [asked], [f"edit {seed}"], inside=(before, mask), network=network)
    with torch.no_grad():
        back = model()[0].decode(model()[0].encode(before))
    outside = 1 - F.max_pool2d(mask, 2 * REACH + 1, 1, REACH)
    found = {f"PSNR outside, {name}": psnr(x, before, outside) for name, x in (("drawn", made), ("autoencoder", back))}
    shown = ((photo.image[None], photo.mask[None]), (made, mask), (before, mask))
    own, new, gone = (dino().images(masked(*each)) for each in shown)
    found["nearer to the subject than the old one is"] = float(bool(new @ own.T > gone @ own.T))
    return torch.cat([photo.image[None], before, pasted(before, mask, made)]), found


def psnr(image: Tensor, wanted: Tensor, where: Tensor) -> float:
    """Decibels over the pixels of a mask; 100 where they are equal."""
    wrong = ((image - wanted).square() * where).sum() / (3 * where.sum().clamp_min(1))
    return min(100.0, -10 * math.log10(max(1e-10, float(wrong))))


def segmented(count: int) -> dict[str, float]:
    """DINO of one photo with the subject elsewhere, and with another subject of the kind in the same place."""
    found: dict[str, list[float]] = {}
    for i, subject in enumerate(world.held_out_subjects(count)):
        rival = next(s for s in world.held_out_subjects(2, subject.word) if s != subject)
        here, there = world.BACKGROUNDS[i % len(world.BACKGROUNDS)], world.BACKGROUNDS[(i + 1) % len(world.BACKGROUNDS)]
        scenes = ((subject, here), (subject, there), (rival, here))
        fixed = {"style": "photo", "view": "front", "accessory": None}
        pictures = [world.photos(s, 1, seed=i, background=place, **fixed)[0] for s, place in scenes]
        images, masks = torch.stack([p.image for p in pictures]), torch.stack([p.mask for p in pictures])
        for name, shown in (("DINO", images), ("Seg-DINO", masked(images, masks))):
            own, elsewhere, other = dino().images(shown)
            found.setdefault(f"{name}, elsewhere", []).append(float(own @ elsewhere))
            found.setdefault(f"{name}, another in its place", []).append(float(own @ other))
    return {name: round(sum(values) / len(values), 4) for name, values in found.items()}


def main(
    parts: tuple[str, ...] = PARTS,
    folder: Path | None = None,
    subjects: int = 8,
    count: int = 100,
    out: Path = RESULTS / "toffee-quality.json",
    pictures: Path | None = None,
) -> None:
    """Measure Toffee's models.

    Args:
        parts: some of them.
        folder: of refiner, view-generator and toffeenet .safetensors; those that come with the pack by default.
        subjects: held-out subjects of `refine`, `redraw` and `generate`.
        count: of `views`, `edit` and `segmented`.
        out: file to write.
        pictures: folder for contact sheets.
    """
    known, some = json.loads(out.read_text()) if out.exists() else {}, cases(subjects)
    network = load_controlnet(DEPTH, model()[0].denoiser.unet)
    work = {
        "refine": lambda: refine(folder, some, pictures and pictures / "refine.png"),
        "redraw": lambda: refine(folder, some, share=0.0),
        "blend": lambda: blend(folder, some[:4]),
        "views": lambda: views(folder, count, pictures and pictures / "views.png"),
        "generate": lambda: generate(folder, some, network, pictures and pictures / "generate.png"),
        "edit": lambda: edit(folder, count, network, pictures and pictures / "edit.png"),
        "segmented": lambda: segmented(count),
    }
    for part in parts:
        known[part] = {"base": model()[1], **work[part]()}
        print(part, json.dumps(known[part], indent=2), flush=True)
        out.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
