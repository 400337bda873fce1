"""The demo world: subjects, scenes, and `draw`, which paints one in the other with full ground truth.

Everything is determined by the arguments: there is no global state, and a seed always gives the same picture.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch

from .animals import BREEDS, paint_animal
from .canvas import BODY, CLOTHES, VIEW_ANGLES, Canvas, Pen
from .captions import POSE_WORDS, caption, has_poses, region_caption, words
from .characters import EYES, GARMENTS, PATTERNS, SKINS, paint_character
from .creatures import paint_duck, paint_robot
from .hair import HAIR_COLOURS, HAIR_STYLES
from .marks import MARKS
from .props import ACCESSORIES, paint_accessory
from .scenes import BACKGROUNDS, GLOOM, paint_background
from .styles import STYLES, depth_map, render, role_mask
from .subjects import (
    COLOURS,
    CREATURES,
    KINDS,
    Character,
    Face,
    Mark,
    Outfit,
    Subject,
    Thing,
    check,
    held_out,
    held_out_subjects,
    random_subject,
)
from .things import THING_PAINTERS

__all__ = [
    "ACCESSORIES",
    "BACKGROUNDS",
    "COLOURS",
    "CREATURES",
    "EYES",
    "GARMENTS",
    "HAIR_COLOURS",
    "HAIR_STYLES",
    "KINDS",
    "MARKS",
    "PATTERNS",
    "POSES",
    "SKINS",
    "STYLES",
    "VIEWS",
    "Character",
    "Face",
    "Mark",
    "Outfit",
    "Picture",
    "Scene",
    "Subject",
    "Thing",
    "attributes",
    "caption",
    "draw",
    "held_out",
    "held_out_subjects",
    "random_scene",
    "random_subject",
    "region_caption",
    "sample",
    "sample_scene",
    "tags",
    "words",
]

VIEWS = tuple(VIEW_ANGLES)
POSES = POSE_WORDS
_PAINTERS = {**dict.fromkeys(BREEDS, paint_animal), "duck": paint_duck, "robot": paint_robot, **THING_PAINTERS}
_HEIGHT = 0.66  # of a subject of scale 1, in picture heights
_TALLEST = 0.8  # in picture heights
_HALF_WIDTH = 0.57  # at most, in subject heights
# kinds that fill less of their unit box are drawn larger
_SIZES = {"person": 1.1, "cup": 1.04, "teapot": 1.08, "duck": 1.08, "bear": 1.05, "clock": 1.05}
_MARGIN = 0.035


@dataclass(frozen=True)
class Scene:
    """Where and how a subject is shown.

    scale 0.5..1.2 (1: two thirds of the picture height), x 0..1 (kept inside the picture), tilt in degrees,
    accessory one of ACCESSORIES or None; seed varies the background. ValueError for unknown names.
    """

    background: str
    style: str
    view: str = "front"
    pose: str = "standing"
    scale: float = 1.0
    x: float = 0.5
    tilt: float = 0.0
    accessory: str | None = None
    seed: int = 0

    def __post_init__(self):
        check(self.background, BACKGROUNDS, "Scene.background")
        check(self.style, STYLES, "Scene.style")
        check(self.view, VIEWS, "Scene.view")
        check(self.pose, POSES, "Scene.pose")
        check(self.accessory, (None, *ACCESSORIES), "Scene.accessory")
        if not 0.5 <= self.scale <= 1.2:
            raise ValueError(f"Scene.scale: {self.scale} is not within 0.5..1.2")
        if abs(self.tilt) > 15:
            raise ValueError(f"Scene.tilt: {self.tilt} is not within -15..15 degrees")


@dataclass
class Picture:
    """One picture and its truth: float32 tensors in 0..1 of `size` x `size` pixels.

    image (3, s, s); mask (1, s, s) of the subject without accessories; depth (1, s, s), 1 nearest;
    face_box (cx, cy, w, h) in 0..1, None without a visible face; clothes (1, s, s), None for things.
    """

    image: torch.Tensor
    mask: torch.Tensor
    depth: torch.Tensor
    face_box: tuple[float, float, float, float] | None
    clothes: torch.Tensor | None
    caption: str
    tags: tuple[str, ...]
    subject: Subject
    scene: Scene


def draw(subject: Subject, scene: Scene, caption: str | None = None, size: int = 128) -> Picture:
    """Paint `subject` in `scene`, `size` pixels a side (a multiple of 64, ValueError else).

    Without `caption` a true one is chosen, determined by the scene.
    """
    if size < 64 or size % 64:
        raise ValueError(f"draw: size {size} is not a positive multiple of 64")
    rng = random.Random(f"{scene.background} {scene.seed}")
    canvas = Canvas(size)
    paint_background(canvas, scene.background, rng)
    canvas.keep_background()
    face_box = _paint_subject(canvas, subject, scene, rng)
    image = render(canvas, scene.style, scene.seed, GLOOM.get(scene.background, 0.0))
    person = isinstance(subject, Character)
    return Picture(
        image=torch.from_numpy(image).permute(2, 0, 1).contiguous(),
        mask=torch.from_numpy(role_mask(canvas, BODY, CLOTHES))[None],
        depth=torch.from_numpy(depth_map(canvas))[None],
        face_box=face_box,
        clothes=torch.from_numpy(role_mask(canvas, CLOTHES))[None] if person else None,
        caption=caption if caption is not None else _caption(subject, scene, random.Random(repr((subject, scene)))),
        tags=tags(subject, scene),
        subject=subject,
        scene=scene,
    )


_caption = caption  # `draw` has an argument of that name


def _paint_subject(canvas: Canvas, subject: Subject, scene: Scene, rng: random.Random):
    """Paint subject and accessory; returns the face box of a person."""
    pen = _pen(canvas, scene, _SIZES.get(subject.word, 1.0))
    canvas.shadows.append((pen.x, pen.ground, 0.44 * pen.height, 0.045))
    face_box = None
    if isinstance(subject, Character):
        anchors, face_box = paint_character(pen, subject, COLOURS, HAIR_COLOURS, scene.pose)
    else:
        pose = scene.pose if has_poses(subject) else "standing"
        anchors = _PAINTERS[subject.kind](pen, subject, COLOURS, pose)
    if scene.accessory:
        paint_accessory(pen, scene.accessory, anchors, rng)
    return face_box


def _pen(canvas: Canvas, scene: Scene, size: float) -> Pen:
    """The pen that puts a subject at its place, wholly inside the picture."""
    height = min(_HEIGHT * scene.scale * size, _TALLEST)
    ground = 0.84 + 0.1 * (scene.scale - 0.5)
    if scene.accessory in ("hat", "balloon"):
        height *= 0.88
    elif scene.accessory == "flower":
        height *= 0.94
    reach = _HALF_WIDTH + 0.6 * abs(math.sin(math.radians(scene.tilt)))
    height = min(height, (0.5 - _MARGIN) / reach)
    half = height * reach + _MARGIN
    x = min(max(scene.x, half), 1.0 - half)
    return Pen(canvas, scene.view, x, ground, height, scene.tilt, 0.62 + 0.2 * (scene.scale - 0.5))


def random_scene(rng: random.Random, **fixed) -> Scene:
    """A random scene; keyword arguments fix some of its fields. ValueError for unknown names."""
    values = {
        "background": rng.choice(BACKGROUNDS),
        "style": rng.choices(STYLES, (0.5, 0.25, 0.25))[0],
        "view": rng.choices(VIEWS, (0.46, 0.2, 0.14, 0.2))[0],
        "pose": rng.choices(POSES, (0.5, 0.25, 0.25))[0],
        "scale": rng.uniform(0.82, 1.18),
        "x": rng.uniform(0.32, 0.68),
        "tilt": rng.uniform(-5.0, 5.0),
        "accessory": rng.choice(ACCESSORIES) if rng.random() < 0.25 else None,
        "seed": rng.randrange(2**31),
    }
    for name in fixed:
        check(name, values, "random_scene: field")
    return Scene(**{**values, **fixed})


def photos(subject: Subject, count: int, seed: int = 0, size: int = 128, **fixed) -> list[Picture]:
    """Pictures of one subject in different scenes, each place taken once before one comes again.

    Args:
        fixed: fields that all scenes share; ValueError for unknown names.
    """
    rng = random.Random(seed)
    places = [place for _ in range(0, count, len(BACKGROUNDS)) for place in rng.sample(BACKGROUNDS, len(BACKGROUNDS))]
    scenes = [random_scene(rng, **{"background": place, **fixed}) for place in places[:count]]
    return [draw(subject, scene, size=size) for scene in scenes]


def attributes(subject: Subject, scene: Scene) -> dict[str, str]:
    """The truth about a picture for classifiers: attribute name -> value, "none" where there is nothing.

    Values are the names of BACKGROUNDS, STYLES, VIEWS, ...; marks read like "white stripes, red badge".
    """
    truth = {
        "kind": subject.word,
        "background": scene.background,
        "style": scene.style,
        "view": scene.view,
        "accessory": scene.accessory or "none",
    }
    if has_poses(subject):
        truth["pose"] = scene.pose
    if isinstance(subject, Thing):
        marks = ", ".join(f"{mark.colour} {mark.kind}" for mark in subject.marks)
        return truth | {"colour": subject.colour, "marks": marks or "none"}
    return (
        truth
        | vars(subject.face)
        | {
            "garment": subject.outfit.garment,
            "outfit_colour": subject.outfit.colour,
            "second_colour": subject.outfit.second,
            "pattern": subject.outfit.pattern,
        }
    )


def tags(subject: Subject, scene: Scene) -> tuple[str, ...]:
    """Booru-like tags that, unlike captions, name the identity: "person", "long hair", "blue eyes", ..."""
    truth = attributes(subject, scene).items()
    phrases = [_TAG_FORMS.get(name, "{}").format(value) for name, value in truth if value != "none"]
    return tuple(dict.fromkeys(tag for phrase in phrases for tag in phrase.split(", ")))


_TAG_FORMS = {
    "view": "{} view",
    "hair_style": "{} hair",
    "hair_colour": "{} hair",
    "eyes": "{} eyes",
    "skin": "{} skin",
    "outfit_colour": "{} outfit",
    "second_colour": "{} trim",
    "pattern": "{} pattern",
}


def sample_scene(seed: int) -> tuple[Subject, Scene]:
    """Subject and scene of training picture `seed`, without painting it."""
    rng = random.Random(f"sample {seed}")
    return random_subject(rng), random_scene(rng)


def sample(seed: int) -> Picture:
    """One training picture, wholly determined by `seed`."""
    return draw(*sample_scene(seed))
