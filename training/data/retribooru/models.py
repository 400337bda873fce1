"""The models that look at the pictures, each replaceable: who is the figure, where is its face, what does it wear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ....core.vision import source
from ....core.vision.detector import Detector
from ....core.vision.grounding import GroundedSegmenter, GroundingDino
from ....core.vision.protocols import VQA, BoxDetector, TextSegmenter
from ....core.vision.sam import SUFFIXES, Sam
from ....core.vision.sam2 import Sam2
from ....core.vision.sam3 import Sam3
from ....core.vision.vqa import BlipVqa, InstructBlip
from ..hub import found

# the first is the paper's example (section 3), whose others are not published
QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "colours": "list top two colors of the clothing",
        "colour": "what is the main color of the clothing?",
        "garment": "what type of garment is the person wearing?",
        "pattern": "what is the pattern of the clothing?",
    }
)


@dataclass(frozen=True)
class Models:
    """What looks at pictures; anything that follows the protocols will do."""

    segmenter: TextSegmenter
    faces: BoxDetector
    vqa: VQA

    def load(self) -> None:
        """Load the weights of those that load late, so that a model that can't be had is no fault of a picture's.

        Raises:
            FileNotFoundError, ValueError, ModuleNotFoundError: a model that can't be had.
        """
        segmenter = self.segmenter
        inside = (getattr(segmenter, name, None) for name in ("detector", "segmenter"))
        try:
            for part in (segmenter, *inside, self.faces, self.vqa):
                getattr(part, "model", None), getattr(part, "processor", None)
        except ModuleNotFoundError:
            raise
        except ImportError as e:  # transformers' own, of a library that the model needs, as DETR needs timm
            raise ValueError(f"models: {str(e).strip()}") from e


@dataclass(frozen=True)
class Names:
    """Models by hub name, folder or file.

    Args:
        segmenter: SAM 3 (facebook/sam3), or a SAM 2 or SAM (.pth, .safetensors), whose boxes the detector finds; demo
            for the embedded one; truth for what `build demo-figures` wrote.
        vqa: InstructBLIP, by default the paper's, or BLIP (Salesforce/blip-vqa-base); demo or truth as above.
        detector: Grounding DINO: finds the figure for SAM and SAM 2, and the face where `faces` names nothing.
        faces: an object detector of transformers (YOLOS, DETR, RT-DETR) with a label for faces, which `look.face`
            names; truth as above. For drawn faces Grounding DINO is the safer choice.
        device: where they run, as in cuda.
        half: in half precision, bfloat16, where the model can.
        download: fetch from the hub what is not on this machine.
    """

    segmenter: str = "facebook/sam2.1-hiera-large"
    vqa: str = "Salesforce/instructblip-vicuna-7b"
    detector: str | None = "IDEA-Research/grounding-dino-tiny"
    faces: str | None = None
    device: str = "cpu"
    half: bool = False
    download: bool = False

    def resolved(self) -> Names:
        """The same with whole paths, for programs that run elsewhere."""
        local = {k: v for k, v in vars(self).items() if isinstance(v, str) and k != "device" and Path(v).exists()}
        return replace(self, **{k: str(Path(v).resolve()) for k, v in local.items() if v not in ("demo", "truth")})

    def models(self, images: Path) -> Models:
        """The models, their weights not yet loaded.

        Args:
            images: folder of pictures, for "truth".

        Raises:
            FileNotFoundError, ValueError: a model that is not there, or of another kind.
        """
        where = dict(device=self.device, dtype=torch.bfloat16 if self.half else torch.float32)
        embedded = _Embedded(images, self.device)
        own = [embedded(getattr(self, part), part) for part in ("segmenter", "faces", "vqa")]
        segmenter, faces, vqa = own
        grounded = segmenter is None or (faces is None and not self.faces)
        detector = GroundingDino(self._found("detector"), **where) if self.detector and grounded else None
        if faces is None:
            faces = Detector(self._found("faces"), **where) if self.faces else _needed(detector)
        return Models(
            segmenter or segmenter_of(self._found("segmenter"), detector, where),
            faces,
            vqa or vqa_of(self._found("vqa"), where),
        )

    def _found(self, part: str) -> str:
        return found(getattr(self, part), f"models.{part}", self.download)


@dataclass(frozen=True)
class _Embedded:
    """The demo world's models by their short names; None for other names."""

    images: Path
    device: str

    def __call__(self, name: str, part: str) -> Any:
        from . import demo

        if name == "truth":
            return demo.Truth(self.images)
        if name == "demo" and part != "faces":
            return demo.judge(part, self.device)
        if name == "demo":
            raise ValueError("models.faces: no embedded model finds faces; for the demo world's figures say truth")
        return None


def segmenter_of(name: str, detector: GroundingDino | None, where: Mapping[str, Any]) -> TextSegmenter:
    """What finds and segments, by its name; SAM and SAM 2 with a detector before them."""
    if Path(name).suffix in SUFFIXES:
        return GroundedSegmenter(_needed(detector), Sam(name, **where))
    kind = _kind(name, "segmenter")
    if kind in Sam3.kinds:
        return Sam3(name, **where)
    if kind in Sam2.kinds:
        return GroundedSegmenter(_needed(detector), Sam2(name, **where))
    raise ValueError(f"models.segmenter: {name} is a {kind} model; name a SAM, SAM 2 or SAM 3")


def vqa_of(name: str, where: Mapping[str, Any]) -> VQA:
    """What answers questions, by its name."""
    kind = _kind(name, "vqa")
    for model in (InstructBlip, BlipVqa):
        if kind in model.kinds:
            return model(name, **where)
    raise ValueError(f"models.vqa: {name} is a {kind} model; name an InstructBLIP or a BLIP for questions")


def _needed(detector: GroundingDino | None) -> GroundingDino:
    if detector is None:
        raise ValueError(
            "models.detector: none is named, but one has to find the figure for SAM or SAM 2, or the face; "
            "name a Grounding DINO, as in IDEA-Research/grounding-dino-tiny"
        )
    return detector


def _kind(name: str, what: str) -> str | None:
    from transformers import PretrainedConfig

    with source.explained(source.check(name, what), what):
        return PretrainedConfig.get_config_dict(name)[0].get("model_type")
