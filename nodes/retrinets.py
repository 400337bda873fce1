"""RetriNet files in ComfyUI, and what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..core.retrinet import network as networks
from ..core.retrinet.network import RetriNet
from . import inputs, learned
from .schema import entry, result, schema
from .texts import shown

RetriNetType = io.Custom("LIKENESS_RETRINET")
TRAINED = ("task", "references", "size", "lr", "batch", "drop", "seed")


def describe(network: RetriNet, file: Path | None = None) -> str:
    """What a RetriNet is, in a few lines."""
    numbers = sum(p.numel() for p in network.parameters())
    decoder = "as it was" if network.delta is None else f"{len(network.delta.layers)} layers changed"
    lines = [
        f"base: {network.base}",
        f"{numbers / 1e6:.1f} million numbers, decoder {decoder}",
        f"levels: {', '.join(network.levels)}",
    ]
    return "\n".join([*lines, *learned.trained(network.settings, TRAINED), *learned.weighed(file)])


class SaveRetriNet(io.ComfyNode):
    """A RetriNet to disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessSaveRetriNet",
            display_name="Save RetriNet",
            category="retrinet",
            description="Saves a trained RetriNet to models/likeness. An existing file is never overwritten: the new "
            "one gets a number.",
            search_aliases=["export retrinet", "save reference network"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(RetriNetType, "retrinet", tooltip="What Train RetriNet learned."),
                *inputs.save_as("my retrinet"),
            ],
            outputs=[result(io.String, "file", tooltip="The file that was written, as Load RetriNet lists it.")],
        )

    @classmethod
    def execute(cls, retrinet: Any, name: str, thumbnail: torch.Tensor | None = None) -> io.NodeOutput:
        path = learned.save(lambda free: networks.save(free, retrinet.model), name, thumbnail)
        name = learned.listed_name(path)
        return io.NodeOutput(name, ui=shown(f"saved {name}\n{describe(retrinet.model, path)}", cls.hidden.unique_id))


class LoadRetriNet(io.ComfyNode):
    """A RetriNet from disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessLoadRetriNet",
            display_name="Load RetriNet",
            category="retrinet",
            description="Loads a RetriNet from models/likeness: it takes faces and clothes from reference pictures.",
            search_aliases=["retribooru", "reference network", "load reference"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                inputs.file(learned.files_of(networks.KIND)),
            ],
            outputs=[result(RetriNetType, "retrinet", tooltip="For Apply RetriNet.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        return learned.changed_at(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from .managed import managed

        path = learned.path_of(file)
        with torch.inference_mode(False):  # so that other trainings can differentiate through it
            network = networks.load(path)
        text = describe(network, path)
        return io.NodeOutput(managed(network), ui=shown(text, cls.hidden.unique_id))


NODES = [LoadRetriNet, SaveRetriNet]
