"""Everything that is compared, with its settings, and why a part of it is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from grid import Case, Method
from hifi_ablation import GUIDE, TABLE, TURN
from likeness.core import files
from likeness.core.toffee import tokens
from likeness.core.toffee.matching import SHARE, THRESHOLD

from . import baselines, ours, perfusion, zero_shot
from .baselines import RARE
from .bench import Bench, named
from .learned import Begin, Build, Customised, Recipe, drawer, foundation, tuned

FAMILIES = ("foundation", "tuned", "zero-shot", "ours")
HIFI_STEPS = 400  # of the first stage on the demo world; 1000 in the paper
CURVED = ("Textual Inversion", "DreamBooth-LoRA", "Custom Diffusion", "DreamBooth", "Perfusion", "Infusion")


@dataclass(frozen=True)
class Entry:
    """A row of the tables.

    Args:
        name: of the row.
        family: one of FAMILIES.
        build: a subject to a model that knows it.
        settings: names everything that pictures depend on beside the bench, subject and noise.
        missing: why it can't be measured on a bench; "" where it can.
        share: of the subjects it is measured on; 0.5 is every second, for what takes long.
    """

    name: str
    family: str
    build: Build
    settings: str = ""
    missing: Callable[[Bench], str] = lambda bench: ""
    share: float = 1.0

    def method(self, bench: Bench) -> Method:
        """For the grid."""
        settings = f"{bench.sampling} {self.settings}"
        return Method(self.name, settings, lambda case: drawer(bench, self.build, case))

    def cases(self, bench: Bench) -> tuple[Case, ...]:
        return bench.cases if self.share == 1 else bench.cases[:: round(1 / self.share)]


# --- tuned baselines -------------------------------------------------------------------------------------------------

BEGIN: dict[str, Begin] = {
    "Textual Inversion": baselines.textual_inversion,
    "DreamBooth": baselines.dreambooth,
    "DreamBooth-LoRA": baselines.dreambooth_lora,
    "Custom Diffusion": baselines.custom_diffusion,
    "Perfusion": perfusion.begin,
    "Infusion": ours.learn_infusion,
}
# what is tried on subjects that are not measured; the first is used until something has been tried
_SKS = dict(prior=1.0, identifier=RARE)
GRIDS: dict[str, tuple[Recipe, ...]] = {
    "Textual Inversion": (Recipe(5e-3, 500), Recipe(2e-2, 500)),
    "DreamBooth": (Recipe(1e-4, 250), Recipe(1e-4, 250, **_SKS), Recipe(3e-5, 250, **_SKS)),
    "DreamBooth-LoRA": (
        Recipe(1e-3, 250, rank=6),
        Recipe(1e-3, 250, rank=6, **_SKS),
        Recipe(4e-3, 250, rank=6, **_SKS),
    ),
    "Custom Diffusion": (Recipe(1e-3, 250, prior=1.0), Recipe(3e-3, 250, prior=1.0)),
    "Perfusion": (Recipe(3e-2, 250), Recipe(1e-2, 250)),
}
TRIED_STEPS = (100, 250, 500)
SCALED = {"IP-Adapter": (zero_shot.Scale(1.0), zero_shot.Scale(0.5))}  # the same for what is not trained on a subject
# as published for SD1.x: diffusers' examples; Custom Diffusion's and Infusion's papers
PUBLISHED: dict[str, Recipe] = {
    "Textual Inversion": Recipe(5e-4, 3000),
    "DreamBooth": Recipe(5e-6, 400, 1, **_SKS),
    "DreamBooth-LoRA": Recipe(1e-4, 500, 1, rank=4, **_SKS),
    "Custom Diffusion": Recipe(1e-5, 250, 2, prior=1.0),
    "Perfusion": Recipe(3e-2, 400),
}
INFUSION = Recipe(0.01, 500)  # learning rate and batch are the paper's


def grid_of(bench: Bench, name: str) -> list[Recipe | zero_shot.Scale]:
    """All that is tried for a baseline: its recipes, each at several numbers of steps, or its scales."""
    if name in SCALED:
        return list(SCALED[name])
    tried = sorted({bench.most(steps) for steps in TRIED_STEPS})
    return [replace(recipe, steps=steps) for recipe in GRIDS[name] for steps in tried]


def recipes(bench: Bench, chosen: Mapping[str, Recipe | zero_shot.Scale]) -> dict[str, Recipe]:
    """What each tuned method is trained with: what tuning chose, or published settings on real checkpoints."""
    usual = {name: grid[0] for name, grid in GRIDS.items()} if bench.name == "demo" else PUBLISHED
    found = {**usual, **chosen, "Infusion": INFUSION}
    return {name: replace(found[name], steps=bench.most(found[name].steps)) for name in BEGIN}


def one_text(bench: Bench) -> str:
    """Why a method that learns a word is left out; "" where it is not."""
    return (
        "" if len(bench.model.text.towers) == 1 else "it is written for models with one text encoder, SD1.x and SD2.x"
    )


def tuned_entry(name: str, recipe: Recipe) -> Entry:
    def build(bench: Bench, case: Case) -> Customised:
        return tuned(bench, case, name, BEGIN[name], recipe)

    missing = {"Perfusion": perfusion.missing, "Textual Inversion": one_text, "Custom Diffusion": one_text}
    family = "ours" if name == "Infusion" else "tuned"
    return Entry(name, family, build, repr(recipe), missing.get(name, lambda bench: ""))


# --- all -------------------------------------------------------------------------------------------------------------


def entries(bench: Bench, chosen: Mapping[str, Recipe | zero_shot.Scale] | None = None) -> dict[str, Entry]:
    """Every row by name, those that can't be measured here included.

    Args:
        chosen: recipes and scales of baselines, where tuning chose.
    """
    found, scale = recipes(bench, chosen or {}), (chosen or {}).get("IP-Adapter", SCALED["IP-Adapter"][0])
    rows = [Entry("foundation", "foundation", foundation), *(tuned_entry(name, r) for name, r in found.items())]
    rows += [*_zero_shot(bench, scale), *_infusions(found["Infusion"]), *_hifi(bench, found["DreamBooth"])]
    return {row.name: row for row in [*rows, *_retrinet(bench), *_toffee(bench)]}


def _infusions(recipe: Recipe) -> list[Entry]:
    """The fast way of drawing, residuals for parts of the noise schedule, and a loss that is weighted by the SNR."""

    def build(bench: Bench, case: Case, name: str, **how: Any) -> Customised:
        return tuned(bench, case, name, partial(ours.learn_infusion, **how), recipe)

    fast, bins = partial(build, name="Infusion", fast=True), partial(build, name="Infusion, 4 bins", bins=4)
    weighted = partial(build, name="Infusion, SNR", snr=True)
    return [
        Entry("Infusion, fast", "ours", fast, f"fast {recipe}"),
        Entry("Infusion, 4 bins", "ours", bins, f"4 bins {recipe}"),
        Entry("Infusion, SNR", "ours", weighted, f"snr {recipe}"),
    ]


def _hifi(bench: Bench, dreambooth: Recipe) -> list[Entry]:
    steps = bench.most(HIFI_STEPS if bench.name == "demo" else 1000)
    table = {name: replace(row, timesteps=bench.most(row.timesteps)) for name, row in TABLE.items()}
    led = f"{GUIDE} {TURN} {named(bench.segmenter)} {named(bench.models.dino)}"  # what guidance reads
    rows = [
        Entry(f"HiFi: {name.removeprefix('+ ')}", "ours", partial(ours.learned_rows, row=row, steps=steps),
              f"{row} {ours.learn_of(row, steps)} {led if row.led else ''}",
              ours.needs_masks if row.masked else lambda bench: "", 0.5 if row.led else 1.0)
        for name, row in table.items() if not row.fine_tuned
    ]  # fmt: skip

    def build(bench: Bench, case: Case) -> Customised:
        return ours.led(bench, case, tuned(bench, case, "DreamBooth", baselines.dreambooth, dreambooth))

    return [*rows, Entry("HiFi: DreamBooth with guidance", "ours", build, f"{dreambooth} {led}", ours.needs_masks, 0.5)]


def _zero_shot(bench: Bench, scale: zero_shot.Scale) -> list[Entry]:
    adapter, folder = bench.weights / zero_shot.IP_ADAPTER, bench.weights / zero_shot.PIX2PIX
    train = "python benchmarks/evidence --parts train"

    def absent(path, bench: Bench) -> str:
        return "" if path.exists() else f"no {path.name} in {bench.weights}; `{train}` makes one for the demo world"

    build = partial(zero_shot.ip_adapter, path=adapter, scale=scale.scale)
    seen = _fingerprint(bench.weights / "image_encoder") or named(bench.models.clip)
    rows = [Entry("IP-Adapter", "zero-shot", build, f"{_fingerprint(adapter)} {scale} {seen}",
                  partial(absent, adapter))]  # fmt: skip
    known = _fingerprint(folder / "unet")
    for guidance in (1.2, 1.5, 1.8):  # Toffee, Table 4
        build = partial(zero_shot.pix2pix, folder=folder, image_guidance=guidance)
        name, missing = f"InstructPix2Pix {guidance}", partial(absent, folder / "unet")
        rows.append(Entry(name, "zero-shot", build, f"{known} {guidance}", missing))
    return rows


def _retrinet(bench: Bench) -> list[Entry]:
    return [
        *_networks(bench, "retrinet", "RetriNet", partial(ours.retrieval, time="each")),
        *_networks(bench, "retrinet", "RetriNet, cached", partial(ours.retrieval, time="cached"), others=False),
        Entry("Retrieval, training-free", "ours", ours.free_retrieval, "free"),
    ]


def _toffee(bench: Bench) -> list[Entry]:
    refiner = partial(ours.needs, "refiner.safetensors", "likeness train refiner")
    file = ours.weights_of(bench, "refiner.safetensors")
    other = f"{_fingerprint(file)} {_reads(bench, file)} {THRESHOLD} {SHARE} {ours.NOISED}"
    (whole, *more) = _networks(bench, "toffeenet", "Toffee", ours.toffee)

    def also(name: str, what: str, missing: Callable[[Bench], str], **how: Any) -> Entry:
        reason = lambda bench: whole.missing(bench) or missing(bench)  # noqa: E731
        return Entry(f"Toffee{name}", "ours", partial(ours.toffee, **how), f"{whole.settings} {what}", reason)

    drawn = Entry("foundation with Refiner", "ours", ours.refined_foundation, other, refiner)
    return [
        drawn,
        whole,
        also(", s 0.5", "0.5", lambda bench: "", strength=0.5),
        also(", segmented photo", "alone", ours.needs_masks, alone=True),
        also(" with Refiner", other, refiner, refined=True),
        *more,
    ]


def _networks(bench: Bench, kind: str, name: str, build: Callable, others: bool = True) -> list[Entry]:
    """The network that is trained once for all, and its ablations: KIND-x.safetensors is the row "NAME x"."""
    found = [(name, f"{kind}.safetensors")]
    if others and bench.weights.is_dir():
        there = sorted(path.name for path in bench.weights.glob(f"{kind}-*.safetensors"))
        found += [(f"{name} {file.removeprefix(f'{kind}-').removesuffix('.safetensors')}", file) for file in there]
    rows = []
    for row, file in found:
        path = ours.weights_of(bench, file)
        settings = f"{name} {_fingerprint(path)}"
        if kind == "toffeenet":
            settings += f" {_reads(bench, path)} {_fingerprint(ours.depth_file(bench))} {ours.TOFFEE_GUIDANCE}"
        else:
            settings += f" {ours.RETRINET_STRENGTH}"
        missing = partial(ours.needs, file, f"likeness train {kind}")
        rows.append(Entry(row, "ours", partial(build, name=file), settings, missing))
    return rows


def _reads(bench: Bench, path: Path | None) -> str:
    """The DINO that an adapter reads."""
    dino = "" if path is None else files.peek(path).settings.get("dino", "")
    return named(bench.models.dino) if bench.name == "demo" and dino in ("", tokens.EMBEDDED) else dino


def _fingerprint(path: Path | None) -> str:
    """Of a file of weights, or of all that lie in a folder; "" where there is none."""
    found = [] if path is None else sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return " ".join(_kept(each, each.stat().st_mtime_ns) for each in found if each.is_file())


@cache
def _kept(path: Path, changed: int) -> str:
    return files.fingerprint(zero_shot.load_file(path))
