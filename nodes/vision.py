"""The models that segment, find and describe: where ComfyUI keeps them, and what they are called in drop-downs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import folder_paths

SAMS, VISION = "sams", "vision"
DEMO, NONE = "demo (built in)", "none"
DOWNLOAD = " (download)"
# kinds are those of config.json; a file of the segment_anything package has none
SAM, SAM2, SAM3, DINO, BLIP2 = "sam", "sam2", "sam3", "grounding-dino", "blip-2"
CLIP, BLIP, INSTRUCT_BLIP = "clip", "blip", "instructblip"
DINOS = ("dinov2", "dinov2_with_registers", "vit")
_SAME = {"sam2_video": SAM2, "sam3_video": SAM3}
_SUFFIXES = {".pth", ".safetensors"}
HUB = {
    "facebook/sam2.1-hiera-small": SAM2,
    "IDEA-Research/grounding-dino-tiny": DINO,
    "Salesforce/blip2-opt-2.7b": BLIP2,
    "facebook/dinov2-base": DINOS[0],
    "facebook/dinov2-giant": DINOS[0],
    "facebook/dino-vits16": DINOS[2],
    "openai/clip-vit-base-patch32": CLIP,
    "Salesforce/blip-vqa-base": BLIP,
    "Salesforce/instructblip-flan-t5-xl": INSTRUCT_BLIP,
}


@dataclass(frozen=True)
class Model:
    """What an entry of a drop-down stands for.

    Args:
        kind: one of the kinds above, or DEMO.
        name: a file, a folder, or a hub name.
        size: bytes of its weights, None where they are not known before a download.
    """

    kind: str
    name: str
    size: int | None


def register_folders() -> None:
    """Tell ComfyUI of `models/sams`, which other packs use too, and `models/vision`."""
    for kind in (SAMS, VISION):
        folder_paths.add_model_folder_path(kind, str(Path(folder_paths.models_dir) / kind))
    # another pack's set may be ComfyUI's own of all endings: never add to it
    paths, suffixes = folder_paths.folder_names_and_paths[SAMS]
    folder_paths.folder_names_and_paths[SAMS] = (paths, set(suffixes) | _SUFFIXES)


def names(*kinds: str) -> list[str]:
    """The drop-down of models of these kinds: the embedded one, the user's own, and some that can be downloaded."""
    return [name for name, model in _models().items() if model.kind in kinds]


def find(entry: str, name: str) -> Model:
    """The model called `name` in the drop-down of the input `entry`.

    Raises:
        FileNotFoundError: it is no longer there.
    """
    model = _models().get(name)
    if model is None:
        raise FileNotFoundError(f"{entry}: no {name} in models/{SAMS} or models/{VISION}; press R to see what is there")
    return model


def _models() -> dict[str, Model]:
    found = {DEMO: Model(DEMO, DEMO, 0)}
    for name in folder_paths.get_filename_list(SAMS):
        path = folder_paths.get_full_path(SAMS, name)
        if path and Path(path).suffix in _SUFFIXES:
            found[name] = Model(SAM, path, _weigh([Path(path)]))
    for root in map(Path, folder_paths.get_folder_paths(VISION)):
        # as published, or in the publisher's folder
        for config in sorted([*root.glob("*/config.json"), *root.glob("*/*/config.json")]):
            folder = config.parent
            size = _weigh(folder.glob("*.safetensors"))
            found.setdefault(folder.relative_to(root).as_posix(), Model(_kind(config), str(folder), size))
    return found | {name + DOWNLOAD: Model(kind, name, None) for name, kind in HUB.items()}


def _kind(config: Path) -> str:
    try:
        kind = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):  # somebody else's config.json
        return ""
    return _SAME.get(kind, kind)


def _weigh(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())  # a link may lead nowhere
