"""The factory's models, each replaceable: what draws, what refines, what turns subjects round, what judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ....core import checkpoint, controlnet
from ....core.demo import MODEL, judges
from ....core.toffee import adapter as adapters
from ....core.vision import source
from ....core.vision.clip import Clip
from ....core.vision.dino import Dino
from ....core.vision.grounding import GroundingDino
from ....core.vision.pretrained import Pretrained
from ....core.vision.protocols import ImageEmbedder, TextSegmenter
from ..hub import found
from ..retribooru.models import segmenter_of
from . import draw, fingerprints
from .draw import Adapted, Depth, Painter

DEMO, NONE = "demo", "none"
ADAPTERS = MODEL.parent / "toffee"
_JUDGES = {"dino": "dino", "clip": "clip", "segmenter": "segments"}  # the embedded ones' folders
_CHECKPOINTS = ("base", "refiner_base", "view_base")
_FOLDERS = (*_CHECKPOINTS, "dino", "clip", "segmenter", "detector", "controlnet", "depth", "language_model")


@dataclass(frozen=True)
class Models:
    """What makes and judges pairs; anything that has these methods will do.

    Args:
        painter: see `draw.Painter`.
        dino: pictures as vectors, for likeness.
        clip: pictures and texts in one space.
        segmenter: where a subject is.
        depth: see `draw.Depth`; None for none.
    """

    painter: Painter
    dino: ImageEmbedder
    clip: Clip
    segmenter: TextSegmenter
    depth: Depth | None = None

    def load(self) -> None:
        """Load the weights of those that load late, so that a model that can't be had is no fault of a picture's.

        Raises:
            FileNotFoundError, ValueError, ModuleNotFoundError: a model that can't be had.
        """
        inside = (getattr(self.segmenter, name, None) for name in ("detector", "segmenter"))
        for part in (self.dino, self.clip, self.segmenter, *inside, self.depth):
            for name in ("model", "processor", "tokenizer"):
                getattr(part, name, None)


@dataclass(frozen=True)
class Names:
    """Models by folder, file or hub name; nothing is downloaded unless `download` says so.

    Args:
        base: SD1.x, SD2.x or SDXL that draws subjects and text-aligned pictures; demo for the embedded one.
        refiner, view_generator: files that `likeness train refiner` and `train view-generator` wrote. none leaves the
            step out: the target is then the text-aligned picture as it is, the input the subject's own picture.
        refiner_base, view_base: the checkpoints that these were trained on; `base` by default.
        dino: the DINO of both adapters, which also judges likeness; demo for the embedded one.
        clip: judges faith to the text; demo for the embedded one.
        segmenter: SAM 3, or a SAM 2 or SAM, whose boxes the detector finds; demo for the embedded one.
        detector: Grounding DINO, for SAM and SAM 2.
        controlnet: for depth, on the base, a Control-LoRA too; it needs `depth`.
        depth: a depth model of transformers (Depth Anything, DPT), whose maps are kept with the pairs too.
        language_model: writes prompts, besides those of `prompts`.
        download: fetch what is named by a hub name and is not on this machine.
        device: where they run, as in cuda.
        half: in half precision, bfloat16.
    """

    base: str = DEMO
    refiner: str = DEMO
    view_generator: str = DEMO
    refiner_base: str | None = None
    view_base: str | None = None
    dino: str = DEMO
    clip: str = DEMO
    segmenter: str = DEMO
    detector: str | None = None
    controlnet: str | None = None
    depth: str | None = None
    language_model: str | None = None
    download: bool = False
    device: str = "cpu"
    half: bool = False

    def resolved(self) -> Names:
        """The same with whole paths, for programs that run elsewhere."""
        names = {k: v for k, v in vars(self).items() if isinstance(v, str) and k != "device" and v not in (DEMO, NONE)}
        return replace(self, **{k: str(Path(v).resolve()) for k, v in names.items() if Path(v).exists()})

    def check(self) -> dict[str, str]:
        """Where each model is, without loading any.

        Raises:
            FileNotFoundError: a model that is not on this machine and must not be downloaded.
            ValueError: one that doesn't go without another.
        """
        if self.controlnet and not self.depth:
            raise ValueError(
                "models.depth: a ControlNet for depth needs a depth model; name one beside models.controlnet"
            )
        for kind in ("refiner", "view_generator"):
            self._adapter_file(kind)
        return {name: self._found(name) for name in _FOLDERS if getattr(self, name)}

    def fingerprints(self) -> dict[str, str]:
        """A hash of each model's files, of those that are on this machine; errors as `check`."""
        here = {name: judges.JUDGES / _JUDGES[name] if at == DEMO else Path(at) for name, at in self.check().items()}
        found = {name: fingerprints.of(path) for name, path in here.items() if path.exists()}
        adapted = {kind: self._adapter_file(kind) for kind in ("refiner", "view_generator")}
        return found | {kind: fingerprints.of(file, whole=True) for kind, file in adapted.items() if file}

    def models(self, settings: draw.Settings) -> Models:
        """The models, those of the vision libraries not yet loaded.

        Raises:
            FileNotFoundError: as `check`.
            ValueError: a model of another kind, or one that doesn't go with the others.
        """
        here, where = self.check(), dict(device=self.device, dtype=torch.bfloat16 if self.half else torch.float32)
        dino = judges.dino(device=self.device) if self.dino == DEMO else Dino(here["dino"], **where)
        clip = judges.clip(device=self.device) if self.clip == DEMO else Clip(here["clip"], **where)
        depth = DepthModel(here["depth"], **where) if self.depth else None
        return Models(self._painter(here, where, dino, settings), dino, clip, self._segmenter(here, where), depth)

    def _segmenter(self, here: Mapping[str, str], where: Mapping[str, Any]) -> TextSegmenter:
        if self.segmenter == DEMO:
            return judges.segments(device=self.device)
        detector = GroundingDino(here["detector"], **where) if self.detector else None
        return segmenter_of(here["segmenter"], detector, where)

    def _painter(self, here: Mapping[str, str], where: Mapping[str, Any], dino: Dino, s: draw.Settings) -> Painter:
        loaded: dict[str, checkpoint.Checkpoint] = {}

        def load(name: str) -> checkpoint.Checkpoint:
            if name not in loaded:
                loaded[name] = checkpoint.load(name, **where)
            return loaded[name]

        base = load(here["base"])
        adapted = {}
        for kind, other in (("refiner", "refiner_base"), ("view_generator", "view_base")):
            file, named = self._adapter_file(kind), here[other] if getattr(self, other) else here["base"]
            adapted[kind] = None if file is None else _adapted(kind, file, load(named), dino, self.device)
        network = _controlnet(here["controlnet"], base) if self.controlnet else None
        return Painter(base, dino, adapted["refiner"], adapted["view_generator"], network, s)

    def _found(self, name: str) -> str:
        """Where a model is: its folder or file, or a hub name that may be fetched."""
        value = getattr(self, name)
        if value == DEMO and name in _CHECKPOINTS:
            return str(MODEL)
        if value == DEMO and name not in ("dino", "clip", "segmenter"):
            raise ValueError(f"models.{name}: there is no embedded one; give a folder or a hub name, or leave it out")
        return value if value == DEMO else found(value, f"models.{name}", self.download)

    def _adapter_file(self, kind: str) -> Path | None:
        name, command = getattr(self, kind), kind.replace("_", "-")
        if name == NONE:
            return None
        file = shipped(command) if name == DEMO else Path(name)
        if file.is_file():
            return file
        if name == DEMO:
            raise FileNotFoundError(
                f"models.{kind}: no demo {command} is shipped; train one with `likeness train {command}` and give its "
                "file, or say none to leave the step out"
            )
        raise FileNotFoundError(
            f"models.{kind}: no file {name}; give one that `likeness train {command}` wrote, or none"
        )


def shipped(model: str) -> Path:
    """The file of an adapter for the embedded model that comes with the pack.

    Args:
        model: one of `core.toffee.adapter.MODELS`.
    """
    return ADAPTERS / f"demo {model}.safetensors"


def _controlnet(name: str, base: checkpoint.Checkpoint) -> Any:
    with source.explained(name, "ControlNet"):
        return controlnet.load(name, base.denoiser.unet)


def _adapted(kind: str, file: Path, model: checkpoint.Checkpoint, dino: Dino, device: str) -> Adapted:
    """An adapter, checked against its model and its DINO, so that pairs don't fail one by one."""
    adapter = adapters.load(file)
    if adapter.model != kind.replace("_", "-"):
        raise ValueError(f"models.{kind}: {file.name} is a {adapter.model}; give a file of the other training")
    try:
        adapter.check(model.denoiser.sites)
    except ValueError as e:
        raise ValueError(f"models.{kind}: {e}") from e
    width = dino.model.config.hidden_size
    if adapter.width != width:
        raise ValueError(
            f"models.dino: its tokens have {width} numbers, but {file.name} takes {adapter.width}; give the DINO that "
            f"it was trained with ({adapter.dino})"
        )
    return Adapted(model, adapter.to(device).eval().requires_grad_(False))


class DepthModel(Pretrained):
    """A depth model of transformers whose maps are larger where it is nearer; arguments and errors are Pretrained's."""

    what = "depth estimator"
    kinds = ("depth_anything", "dpt")
    model_class, processor_class = "AutoModelForDepthEstimation", "AutoImageProcessor"

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) in 0..1 to depth (B, 1, H, W) in 0..1, 1 nearest, on the CPU."""
        found = self.model(**self.inputs(images)).predicted_depth[:, None].float()
        found = torch.nn.functional.interpolate(found, images.shape[-2:], mode="bicubic").cpu()
        low, high = found.amin((1, 2, 3), keepdim=True), found.amax((1, 2, 3), keepdim=True)
        return (found - low) / (high - low).clamp(min=1e-6)
