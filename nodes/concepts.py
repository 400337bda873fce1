"""Concept files in ComfyUI, and what they hold."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io

from ..core.infusion import concept as concepts
from ..core.infusion.concept import Concept
from . import inputs, learned
from .schema import entry, result, schema
from .texts import shown

ConceptType = io.Custom("LIKENESS_CONCEPT")


def describe(concept: Concept, file: Path | None = None) -> str:
    """What a concept is, in a few lines."""
    norms = concept.norms().values()
    lines = [
        f"word: {', '.join(concept.words)}",
        f"base: {concept.base}",
        f"space: {concept.space}, {len(concept.residuals)} layers, {concept.parameters} numbers"
        + (f", {concept.bins} time bins" if concept.bins > 1 else ""),
        f"length of the residuals: {min(norms):.2f} to {max(norms):.2f}",
    ]
    return "\n".join([*lines, *learned.trained(concept.settings, ("lr", "batch", "seed")), *learned.weighed(file)])


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
        path = learned.save(lambda free: concepts.save(free, concept), name, thumbnail)
        name = learned.listed_name(path)
        return io.NodeOutput(name, ui=shown(f"saved {name}\n{describe(concept, path)}", cls.hidden.unique_id))


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
                inputs.file(learned.files_of(concepts.KIND)),
            ],
            outputs=[
                result(ConceptType, "concept", tooltip="For Apply Infusion."),
                result(io.String, "word", tooltip="The word of a prompt that stands for the subject."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        return learned.changed_at(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        concept = concepts.load(learned.path_of(file))
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
