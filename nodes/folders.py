"""`models/likeness`, and the pack's own files in ComfyUI's ordinary drop-downs, read where they lie."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..core.demo import MODEL

FOLDER = "likeness"
SHIPPED = {"loras": ("loras",), FOLDER: ("concepts", "retrinet", "toffee"), "controlnet": ("controlnet",)}


def register() -> None:
    """Tell ComfyUI of `models/likeness`, then of the pack's folders: the user's own stay where things are saved."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    folder_paths.folder_names_and_paths[FOLDER][1].add(".safetensors")
    for kind, names in SHIPPED.items():
        for folder in (MODEL.parent / name for name in names):
            if folder.is_dir():
                folder_paths.add_model_folder_path(kind, str(folder))
