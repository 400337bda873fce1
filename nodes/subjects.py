"""Subject files in ComfyUI, and what they hold."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io

from ..core.hifi import subject as subjects
from ..core.hifi.subject import Subject
from . import inputs, learned
from .schema import entry, result, schema
from .texts import shown

SubjectType = io.Custom("LIKENESS_SUBJECT")
TRAINED = ("lr", "regularisation", "batch", "seed")


def describe(subject: Subject, file: Path | None = None) -> str:
    """What a subject is, in a few lines."""
    sets, count, width = subject.rows.shape
    lines = [
        f"word: {subject.word}",
        f"base: {subject.base}",
        f"{sets} timesteps, {count} text tokens of {width} numbers",
    ]
    return "\n".join([*lines, *learned.trained(subject.settings, TRAINED), *learned.weighed(file)])


class SaveSubject(io.ComfyNode):
    """A subject to disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessSaveSubject",
            display_name="Save Subject",
            category="hifi",
            description="Saves a learned subject to models/likeness. An existing file is never overwritten: the new "
            "one gets a number.",
            search_aliases=["save embedding", "save hifi tuner", "export subject"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(SubjectType, "subject", tooltip="What Train HiFi Subject learned."),
                *inputs.save_as("my subject"),
            ],
            outputs=[result(io.String, "file", tooltip="The file that was written, as Load Subject lists it.")],
        )

    @classmethod
    def execute(cls, subject: Subject, name: str, thumbnail: torch.Tensor | None = None) -> io.NodeOutput:
        path = learned.save(lambda free: subjects.save(free, subject), name, thumbnail)
        name = learned.listed_name(path)
        return io.NodeOutput(name, ui=shown(f"saved {name}\n{describe(subject, path)}", cls.hidden.unique_id))


class LoadSubject(io.ComfyNode):
    """A subject from disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessLoadSubject",
            display_name="Load Subject",
            category="hifi",
            description="Loads a subject from models/likeness.",
            search_aliases=["load embedding", "load hifi tuner", "import subject"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                inputs.file(learned.files_of(subjects.KIND)),
            ],
            outputs=[
                result(SubjectType, "subject", tooltip="For Apply HiFi Subject."),
                result(io.String, "word", tooltip="The class word that prompts name the subject by."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        return learned.changed_at(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = learned.path_of(file)
        subject = subjects.load(path)
        return io.NodeOutput(subject, subject.word, ui=shown(describe(subject, path), cls.hidden.unique_id))


NODES = [SaveSubject, LoadSubject]
