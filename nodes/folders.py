"""The pack's own LoRA, concepts and ControlNet in ComfyUI's ordinary drop-downs, read where they lie."""

from __future__ import annotations

import folder_paths

from ..core.demo import MODEL
from .concepts import FOLDER

SHIPPED = {"loras": "loras", FOLDER: "concepts", "controlnet": "controlnet"}


def register_shipped() -> None:
    """Add the folders that are there, after the user's own, which stay where things are saved."""
    for kind, name in SHIPPED.items():
        folder = MODEL.parent / name
        if folder.is_dir():
            folder_paths.add_model_folder_path(kind, str(folder))
