"""Toffee's adapters in ComfyUI: Refiner, View Generator and ToffeeNet, loaded from `models/likeness` and applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..core.toffee import adapter as adapters
from ..core.toffee.adapter import Adapter
from . import inputs, learned
from .schema import entry, result, schema
from .texts import shown
from .toffee import DINOTokensType

DINOAdapterType = io.Custom("LIKENESS_DINO_ADAPTER")
TRAINED = ("what", "lr", "batch", "reconstruct", "seed")


def describe(adapter: Adapter, file: Path) -> str:
    """What an adapter is, in a few lines."""
    delta = adapter.delta
    numbers = sum(p.numel() for p in adapter.parameters())
    channels = adapters.channels_of(delta)
    lines = [
        f"model: {adapter.model}",
        f"base: {adapter.base}" + (f", {channels} input channels" if channels else ""),
        f"DINO: {adapter.dino}, {adapter.width} numbers a token",
        f"{numbers / 1e6:.1f} million numbers, {0 if delta is None else len(delta.layers)} layers changed",
    ]
    return "\n".join([*lines, *learned.trained(adapter.settings, TRAINED), *learned.weighed(file)])


class LoadDINOAdapter(io.ComfyNode):
    """An adapter from disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessLoadDINOAdapter",
            display_name="Load DINO Adapter",
            category="toffee",
            description="Loads a Refiner, a View Generator or a ToffeeNet from models/likeness: what draws a subject "
            "from its DINO tokens.",
            search_aliases=["toffee", "toffeenet", "refiner", "view generator", "ip-adapter", "load adapter"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                inputs.file(learned.files_of(adapters.KIND)),
            ],
            outputs=[result(DINOAdapterType, "adapter", tooltip="For Apply DINO.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        return learned.changed_at(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from . import toffee_model

        path = learned.path_of(file)
        with torch.inference_mode(False):  # so that trainings can differentiate through it
            adapter = adapters.load(path)
        text = describe(adapter, path)
        return io.NodeOutput(toffee_model.loaded(adapter), ui=shown(text, cls.hidden.unique_id))


class ApplyDINO(io.ComfyNode):
    """DINO tokens into a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessApplyDINO",
            display_name="Apply DINO",
            category="toffee",
            description="Draws a subject from its DINO tokens, without training on it. Works with any sampler node, "
            "beside LoRAs, ControlNets and the pack's other methods.",
            search_aliases=["toffee", "toffeenet", "ip-adapter", "subject driven", "refiner", "view generator"],
            inputs=[
                entry(
                    io.Model,
                    "model",
                    tooltip="The model that the adapter was trained on, LoRAs welcome; an inpainting model for a "
                    "ToffeeNet.",
                ),
                entry(DINOAdapterType, "adapter", tooltip="From Load DINO Adapter."),
                entry(
                    DINOTokensType,
                    "dino",
                    tooltip="From Encode DINO, or from Blend DINO for a Refiner: of one picture for all that are "
                    "drawn, or of one for each.",
                ),
                entry(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much of the subject: 0 is the untouched model, 1 what was trained. Less leaves more "
                    "to the text.",
                ),
                *inputs.span(),
            ],
            outputs=[result(io.Model, "MODEL", tooltip="For any sampler; the prompts stay as they are.")],
        )

    @classmethod
    def execute(
        cls, model: Any, adapter: Any, dino: Any, strength: float, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        from ..core.reach import Reach
        from . import toffee_model

        return io.NodeOutput(toffee_model.apply(model, adapter, dino, Reach(strength, start_percent, end_percent)))


NODES = [LoadDINOAdapter, ApplyDINO]
