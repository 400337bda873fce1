"""RetriNet's training node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import identities as data
from . import inputs
from .retrinets import RetriNetType
from .schema import entry, result, schema


class TrainRetriNet(io.ComfyNode):
    """Identities to a RetriNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessTrainRetriNet",
            display_name="Train RetriNet",
            category="retrinet",
            description="Trains the network that takes faces and clothes from references, on several pictures each of "
            "many people. Cancel keeps what was learned; queued again with the same settings it goes on from there.",
            search_aliases=["retribooru", "train ip-adapter", "train reference network", "train face"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                entry(io.Model, "model", tooltip="The model to learn on, with its LoRAs; it is not changed."),
                entry(io.Clip, "clip", tooltip="Its text encoder."),
                entry(io.Vae, "vae", tooltip="Its autoencoder."),
                entry(
                    io.Combo,
                    "identities",
                    options=data.names(),
                    default=data.DEMO,
                    tooltip="Pictures of the same people in the same clothes: a folder in ComfyUI's input folder with "
                    "a folder for each, or a RetriBooru shard (.parquet, .tar) there. Press R to see new ones.",
                ),
                entry(
                    io.Int,
                    "steps",
                    default=9000,
                    min=1,
                    max=1_000_000,
                    tooltip="Training steps; the paper takes 9000, and 45000 for its best.",
                ),
                entry(
                    io.Int,
                    "references",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="Reference pictures that are shown with each picture to be drawn; 4 in the paper.",
                ),
                entry(
                    io.Combo,
                    "task",
                    options=["composition", "reconstruction", "multitask"],
                    default="composition",
                    tooltip="What references show: a face or clothes each, whole figures, or both by turns.",
                ),
                inputs.seed(),
                *_advanced(),
                inputs.preview_every(250),
            ],
            outputs=[
                result(RetriNetType, "retrinet", tooltip="For Apply RetriNet and Save RetriNet."),
                result(io.Image, "loss", tooltip="The loss over the steps."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, identities: str, **others: Any) -> str:
        return data.changed(identities)

    @classmethod
    def execute(cls, **widgets: Any) -> io.NodeOutput:
        from . import retrinet_training

        return io.NodeOutput(*retrinet_training.train(cls.hidden.unique_id, **widgets))


def _advanced() -> list[io.Input]:
    """The settings of a training that have good defaults."""

    def number(kind: Any, name: str, default: float, least: float, most: float, tooltip: str, **more: Any) -> io.Input:
        limits = dict(default=default, min=least, max=most, tooltip=tooltip)
        return entry(kind, name, optional=True, advanced=True, **limits, **more)

    return [
        entry(
            io.String,
            "prompt",
            default="a photo of a person",
            optional=True,
            tooltip="What the pictures show, where the data set doesn't say it for each, as folders do not.",
        ),
        number(
            io.Float,
            "learning_rate",
            1e-4,
            1e-6,
            1.0,
            "The optimiser's rate. The paper does not tell its own.",
            step=1e-5,
            round=1e-6,
        ),
        number(io.Float, "drop", 0.5, 0.0, 1.0, "Share of prompts left out; 0.5 in the paper.", step=0.05),
        number(
            io.Float,
            "face_weight",
            0.5,
            0.0,
            10.0,
            "How much more the face counts, where its place is known. The paper does not tell its number.",
            step=0.05,
        ),
        number(
            io.Int,
            "rank",
            0,
            0,
            1024,
            "Of the changes to the decoder, as in a LoRA: a smaller file and less memory (ours). 0 trains it whole, as "
            "the paper does.",
        ),
        entry(
            io.Combo,
            "lock",
            options=["none", "decoder", "both"],
            default="none",
            optional=True,
            advanced=True,
            tooltip="Leave the decoder, or decoder and encoder, as they are: faster, less memory, worse in the paper.",
        ),
        number(io.Int, "batch_size", 1, 1, 64, "Pictures at a time. More needs more memory."),
        number(
            io.Int,
            "accumulation",
            8,
            1,
            256,
            "Batches that are added up before each step; more is steadier and slower. 8 in the paper, on 8 cards.",
        ),
        number(
            io.Int,
            "size",
            0,
            0,
            2048,
            "Pixels of a picture's side; 384 in the paper. 0 takes what the model was made for.",
            step=32,
        ),
        number(io.Int, "people", 200, 2, 5000, "Of the demo world: how many people are drawn, in four pictures each."),
        number(
            io.Float,
            "figure_weight",
            0.0,
            0.0,
            10.0,
            "How much more the figure counts outside of its face, where its mask is known: raise it where clothes do "
            "not come over (ours). 0 in the paper.",
            step=0.05,
        ),
    ]


NODES = [TrainRetriNet]
