"""Concept files in ComfyUI: saved to, listed in and loaded from `models/likeness`."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..core import files
from ..core.infusion import concept as concepts
from ..core.infusion.concept import Concept
from . import inputs
from .schema import entry, result, schema
from .texts import shown

FOLDER = "likeness"
ConceptType = io.Custom("LIKENESS_CONCEPT")


def register_folder() -> None:
    """Tell ComfyUI of `models/likeness`, whose files the loader lists."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    folder_paths.folder_names_and_paths[FOLDER][1].add(".safetensors")


def folder() -> Path:
    """Where concepts are saved."""
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


def describe(concept: Concept, file: Path | None = None) -> str:
    """What a concept is, in a few lines."""
    norms = concept.norms().values()
    settings = concept.settings
    lines = [
        f"word: {', '.join(concept.words)}",
        f"base: {concept.base}",
        f"space: {concept.space}, {len(concept.residuals)} layers, {concept.parameters} numbers"
        + (f", {concept.bins} time bins" if concept.bins > 1 else ""),
        f"length of the residuals: {min(norms):.2f} to {max(norms):.2f}",
    ]
    if "steps" in settings:
        lines.append(f"trained: {settings['steps']} of {settings.get('of', settings['steps'])} steps")
        lines.append(", ".join(f"{k} {settings[k]}" for k in ("lr", "batch", "seed") if k in settings))
    if file:
        lines.append(f"file: {file.name}, {file.stat().st_size / 1024:.1f} KiB")
    return "\n".join(lines)


class SaveConcept(io.ComfyNode):
    """A concept to disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessSaveConcept",
            display_name="Save Concept",
            category="infusion",
            description="Saves a learned concept to models/likeness, a few kilobytes. An existing file is never "
            "overwritten: the new one gets a number.",
            search_aliases=["save embedding", "save infusion", "export concept"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(ConceptType, "concept", tooltip="What Train Infusion learned."),
                *inputs.save_as("my concept"),
            ],
            outputs=[result(io.String, "file", tooltip="The file that was written, as Load Concept lists it.")],
        )

    @classmethod
    def execute(cls, concept: Concept, name: str, thumbnail: torch.Tensor | None = None) -> io.NodeOutput:
        path = concepts.save(free_path(name), concept)
        save_thumbnail(path, thumbnail)
        name = listed_name(path)
        return io.NodeOutput(name, ui=shown(f"saved {name}\n{describe(concept, path)}", cls.hidden.unique_id))


def save_thumbnail(path: Path, images: torch.Tensor | None) -> None:
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


class LoadConcept(io.ComfyNode):
    """A concept from disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessLoadConcept",
            display_name="Load Concept",
            category="infusion",
            description="Loads a concept from models/likeness.",
            search_aliases=["load embedding", "load infusion", "import concept"],
            inputs=[
                inputs.file(files_of(concepts.KIND)),
            ],
            outputs=[
                result(ConceptType, "concept", tooltip="For Apply Infusion."),
                result(io.String, "word", tooltip="The word of a prompt that stands for the subject."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        return changed_at(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        concept = concepts.load(path_of(file))
        return io.NodeOutput(concept, concept.word)


class ConceptInfo(io.ComfyNode):
    """What a concept is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessConceptInfo",
            display_name="Concept Info",
            category="infusion",
            description="Shows a concept's word, base model, size and training.",
            search_aliases=["inspect concept", "infusion info"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[entry(ConceptType, "concept", tooltip="Any concept.")],
            outputs=[result(io.String, "text", tooltip="The same as text.")],
        )

    @classmethod
    def execute(cls, concept: Concept) -> io.NodeOutput:
        text = describe(concept)
        return io.NodeOutput(text, ui=shown(text, cls.hidden.unique_id))


NODES = [SaveConcept, LoadConcept, ConceptInfo]
