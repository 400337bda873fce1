"""Nodes of the embedded world: a model and a subject on a fresh install."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from .schema import entry, result, schema

ANY = "any"
STANDARD, INPAINTING = "standard", "inpainting (nine channels)"


class LoadDemoModel(io.ComfyNode):
    """The embedded model as native MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessLoadDemoModel",
            display_name="Load Demo Model",
            category="demo",
            description="A tiny Stable Diffusion that comes with the pack: try every method without a download. "
            "Draws 128x128 pictures of a small picture-book world.",
            search_aliases=["likeness demo", "tiny checkpoint", "demo checkpoint", "load checkpoint"],
            inputs=[
                entry(
                    io.Combo,
                    "variant",
                    options=[STANDARD, INPAINTING],
                    default=STANDARD,
                    optional=True,
                    tooltip="The inpainting one has the channels of Stable Diffusion's inpainting models, for "
                    "ToffeeNet; by itself it draws what the standard one draws.",
                ),
            ],
            outputs=[
                result(
                    io.Model, "MODEL", tooltip="The demo U-Net. Works with KSampler, LoRA loaders and every other node."
                ),
                result(io.Clip, "CLIP", tooltip="Its text encoder; it knows about 60 words (see the node's help)."),
                result(io.Vae, "VAE", tooltip="Its autoencoder, 8 pixels to a latent."),
            ],
        )

    @classmethod
    def execute(cls, variant: str = STANDARD) -> io.NodeOutput:
        from . import demo_model

        return io.NodeOutput(*demo_model.load(inpainting=variant == INPAINTING))


class DemoSubject(io.ComfyNode):
    """Pictures of one subject of the demo world, with their truth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..core.demo import world

        return schema(
            node_id="LikenessDemoSubject",
            display_name="Demo Subject",
            category="demo",
            description="Draws a batch of pictures of one subject in different scenes, with exact masks: photos of "
            "'your' subject for the demo workflows, where Load Image would need files of yours.",
            search_aliases=["likeness demo", "sample images", "reference images", "training images"],
            inputs=[
                entry(
                    io.Combo,
                    "kind",
                    options=[*world.KINDS, "person"],
                    default="cat",
                    tooltip="What the subject is. Its looks are chosen by 'identity'.",
                ),
                entry(
                    io.Int,
                    "identity",
                    default=0,
                    min=0,
                    max=99,
                    tooltip="Which individual of that kind: colour and marks, or face and clothes. None of them was "
                    "in the demo model's training set.",
                ),
                entry(io.Int, "count", default=4, min=1, max=64, tooltip="Number of pictures."),
                entry(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Decides the scenes: place, pose, size.",
                ),
                entry(
                    io.Combo,
                    "background",
                    options=[ANY, *world.BACKGROUNDS],
                    default=ANY,
                    tooltip="Where the subject is shown; 'any' draws a new place for each picture.",
                ),
                entry(
                    io.Combo,
                    "style",
                    options=[ANY, *world.STYLES],
                    default="photo",
                    tooltip="How the pictures are drawn.",
                ),
                entry(io.Combo, "view", options=[ANY, *world.VIEWS], default="front", tooltip="From which side."),
                entry(
                    io.Int,
                    "size",
                    default=128,
                    min=128,
                    max=1024,
                    step=64,
                    advanced=True,
                    tooltip="Width and height in pixels; the demo model wants 128.",
                ),
            ],
            outputs=[
                result(io.Image, "IMAGE", tooltip="The pictures."),
                result(io.Mask, "MASK", tooltip="The subject in each picture."),
                result(io.String, "word", tooltip="What captions call the subject, as in 'cat'."),
                result(
                    io.Mask,
                    "face",
                    tooltip="The face with its hair, where one is seen; empty for things and from behind.",
                ),
                result(io.Mask, "clothes", tooltip="The clothes; empty for things."),
                result(
                    io.Image, "depth", tooltip="How near everything is, white nearest; for the demo's depth ControlNet."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, kind: str, identity: int, count: int, seed: int, background: str, style: str, view: str, size: int
    ) -> io.NodeOutput:
        from ..core.demo import world
        from ..core.retrinet.reference import concept_mask

        def face(p: world.Picture) -> torch.Tensor:
            return concept_mask("face", p.mask, p.face_box, p.clothes)[1] if p.face_box else torch.zeros_like(p.mask)

        subject = world.held_out_subjects(identity + 1, kind)[identity]
        fixed = {"background": background, "style": style, "view": view, "accessory": None}
        fixed = {k: v for k, v in fixed.items() if v != ANY}
        pictures = world.photos(subject, count, seed, size, **fixed)
        images = torch.stack([p.image for p in pictures]).movedim(1, -1)
        masks = torch.cat([p.mask for p in pictures])
        faces = torch.cat([face(p) for p in pictures])
        clothes = torch.cat([torch.zeros_like(p.mask) if p.clothes is None else p.clothes for p in pictures])
        depth = torch.stack([p.depth[0] for p in pictures])[..., None].expand(-1, -1, -1, 3)
        return io.NodeOutput(images, masks, subject.word, faces, clothes, depth.contiguous())


NODES = [LoadDemoModel, DemoSubject]
