"""What was learned, in ComfyUI: files that are saved to, listed in and loaded from `models/likeness`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import folder_paths
import torch

from ..core import files
from .folders import FOLDER


def folder() -> Path:
    """Where learned files are saved."""
    return Path(folder_paths.get_folder_paths(FOLDER)[0])


def files_of(kind: str) -> list[str]:
    """The files of the folder of this kind, and those that can't be read, which say so when they are chosen."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if _kind(name) in (kind, None)]


def _kind(name: str) -> str | None:
    try:
        return files.peek(folder_paths.get_full_path_or_raise(FOLDER, name)).kind
    except (OSError, files.LearnedFileError):
        return None


def path_of(name: str) -> Path:
    """A file of the folder; FileNotFoundError where it is gone."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise FileNotFoundError(f"file: no {name} in models/{FOLDER}; train and save one, or put one there")
    return Path(path)


def changed_at(name: str) -> float:
    """When a file of the folder was last written, for ComfyUI's cache."""
    path = folder_paths.get_full_path(FOLDER, name)
    return Path(path).stat().st_mtime if path else float("nan")


def listed_name(path: Path) -> str:
    """What a file of the folder is called in drop-downs."""
    return path.relative_to(folder().resolve()).as_posix()


def free_path(name: str) -> Path:
    """A file in the folder that doesn't exist yet, of this name or this name with a number.

    Raises:
        ValueError: a name that is empty or would leave the folder.
    """
    name = name.strip().removesuffix(".safetensors")
    target = (folder() / f"{name}.safetensors").resolve()
    if not name or re.search(r'[<>:"|?*\x00-\x1f\\]', name) or not target.is_relative_to(folder().resolve()):
        raise ValueError(f"name: {name!r} can't be a file in models/{FOLDER}; use letters, digits, spaces and dashes")
    path, number = target, 1
    while path.exists():
        number += 1
        path = target.with_name(f"{target.stem}_{number}.safetensors")
    return path


def save(write: Callable[[Path], Path], name: str, thumbnail: torch.Tensor | None) -> Path:
    """A new file of this name, with its picture beside it; errors as `free_path`."""
    path = write(free_path(name))
    _save_thumbnail(path, thumbnail)
    return path


def _save_thumbnail(path: Path, images: torch.Tensor | None) -> None:
    """The first picture of a batch (B, H, W, 3) in 0..1 as a small JPEG beside a file; nothing where there is none."""
    if images is None:
        return
    from io import BytesIO

    from PIL import Image

    picture = Image.fromarray((images[0].clamp(0, 1) * 255).round().byte().cpu().numpy())
    picture.thumbnail((256, 256))
    data = BytesIO()
    picture.save(data, "JPEG", quality=85)
    files.write_atomically(path.with_suffix(".jpg"), data.getvalue())


def trained(settings: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """How long something was trained, and settings of these names, in lines; none where the file does not say."""
    if "steps" not in settings:
        return []
    own = ", ".join(f"{name} {settings[name]}" for name in names if name in settings)
    return [f"trained: {settings['steps']} of {settings.get('of', settings['steps'])} steps", own]


def weighed(file: Path | None) -> list[str]:
    """A file's name and size, in a line; none where there is no file yet."""
    if file is None:
        return []
    size = file.stat().st_size
    return [f"file: {file.name}, " + (f"{size / 2**10:.1f} KiB" if size < 2**20 else f"{size / 2**20:.1f} MiB")]
