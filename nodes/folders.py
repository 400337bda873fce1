"""The pack's own LoRA, concepts, RetriNet and ControlNet in ComfyUI's ordinary drop-downs, read where they lie."""

from __future__ import annotations

import folder_paths

from ..core.demo import MODEL
from .concepts import FOLDER

SHIPPED = {"loras": ("loras",), FOLDER: ("concepts", "retrinet", "toffee"), "controlnet": ("controlnet",)}


def register_shipped() -> None:
    """Add the folders that are there, after the user's own, which stay where things are saved."""
    for kind, names in SHIPPED.items():
        for folder in (MODEL.parent / name for name in names):
            if folder.is_dir():
                folder_paths.add_model_folder_path(kind, str(folder))
