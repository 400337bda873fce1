"""The builder on the demo world: tagged figures with their truth, and the world's truth or judges as models (ours)."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....core import files
from ....core.demo import judges, world
from ....core.demo.attributes import SIZE, Attributes
from ....core.vision.preprocess import bytes_of
from ..photos import decode, png
from .models import QUESTIONS, Models
from .tags import METADATA

TRUTH = "truth.jsonl"
# which attributes of the world answer which of the questions
ANSWERS = {
    QUESTIONS["colours"]: ("outfit_colour", "second_colour"),
    QUESTIONS["colour"]: ("outfit_colour",),
    QUESTIONS["garment"]: ("garment",),
    QUESTIONS["pattern"]: ("pattern",),
}


@dataclass(frozen=True)
class Figures:
    """Draw tagged figures of the demo world to try `likeness build retribooru` on.

    Args:
        out: folder to write: pictures, metadata.jsonl as Danbooru's, and the truth.
        characters: faces; each has outfits of its own.
        outfits: of each character.
        pictures: of each character in each outfit, by each of its artists.
        twins: share of characters with a further outfit that differs from the first in one thing only, 0..1.
        artists: of a character; an artist has a style.
        odd: add pictures that the builder has to leave out, one of each kind.
        seed: of all of it.
    """

    out: Path
    characters: int = 12
    outfits: int = 3
    pictures: int = 5
    twins: float = 0.25
    artists: int = 1
    odd: bool = True
    seed: int = 0


def draw(config: Figures, watch: Callable[[str, int, int], None] | None = None) -> Path:
    """Draw the figures; returns the metadata's path."""
    posts: list[str] = []
    truths: list[str] = []
    wanted = list(_wanted(config))
    for number, (character, artist, subject, scene) in enumerate(wanted, 1):
        picture = world.draw(subject, scene)
        name, image = str(number), png(picture.image)
        files.write_atomically(config.out / f"{name}.png", image)
        files.write_atomically(config.out / "truth" / f"{name}.png", png(picture.mask))
        posts.append(json.dumps(post(name, character, artist, subject, scene)))
        identity = f"{character} {artist} {subject.outfit}"
        truths.append(json.dumps(_truth(name, image, picture, identity)))
        if watch:
            watch("figures", number, len(wanted))
    posts += _odd(config.out) if config.odd else []
    files.write_atomically(config.out / TRUTH, "".join(f"{line}\n" for line in truths).encode())
    return files.write_atomically(config.out / METADATA, "".join(f"{line}\n" for line in posts).encode())


def post(name: str, character: str, artist: str, subject: world.Character, scene: world.Scene) -> dict[str, Any]:
    """Danbooru-like metadata of a picture."""
    general = ["solo", *(tag.replace(" ", "_") for tag in world.tags(subject, scene))]
    strings = {"general": " ".join(general), "character": character, "artist": artist}
    return {"id": int(name), "file_ext": "png", **{f"tag_string_{kind}": text for kind, text in strings.items()}}


def _wanted(config: Figures) -> Iterator[tuple[str, str, world.Character, world.Scene]]:
    """Character, artist, subject and scene of each picture, in a mixed order."""
    rng = random.Random(f"figures {config.seed}")
    found = []
    for c in range(config.characters):
        first = world.random_subject(rng, characters=1.0)
        outfits = [world.random_subject(rng, characters=1.0).outfit for _ in range(config.outfits)]
        if rng.random() < config.twins:
            outfits.append(_twin(outfits[0], rng))
        for a in range(config.artists):
            number = rng.randrange(8)
            style = world.STYLES[number % len(world.STYLES)]
            for outfit in dict.fromkeys(outfits):
                subject = world.Character(first.face, outfit)
                for _ in range(config.pictures):
                    scene = world.random_scene(rng, style=style)
                    found.append((f"person_{c}", f"artist_{number}_{a}", subject, scene))
    rng.shuffle(found)
    yield from found


def _twin(outfit: world.Outfit, rng: random.Random) -> world.Outfit:
    """The outfit with another garment, colour, second colour or pattern; never the colours swapped."""
    values = {"garment": world.GARMENTS, "colour": world.COLOURS, "second": world.COLOURS, "pattern": world.PATTERNS}
    name = rng.choice(list(values))
    taken = {outfit.colour, outfit.second} if name in ("colour", "second") else {getattr(outfit, name)}
    return replace(outfit, **{name: rng.choice([value for value in values[name] if value not in taken])})


def _truth(name: str, image: bytes, picture: world.Picture, identity: str) -> dict[str, Any]:
    truth = world.attributes(picture.subject, picture.scene)
    answers = {question: ", ".join(truth[a] for a in asked) for question, asked in ANSWERS.items()}
    shown = digest(decode(image))
    return {"id": name, "digest": shown, "identity": identity, "bbox": picture.face_box, "answers": answers}


def _odd(out: Path) -> list[str]:
    """Posts that can't be used: wrong tags, no picture, a picture that is none, a line that is no JSON."""
    good = {"tag_string_general": "solo red_dress", "tag_string_character": "odd", "tag_string_artist": "artist_0"}
    posts: list[dict[str, Any]] = [
        {**good, "tag_string_general": "2girls red_dress"},
        {**good, "tag_string_general": "solo smile"},
        {**good, "tag_string_character": "odd even"},
        {**good, "tag_string_artist": ""},
        {**good, "file": "nowhere.png"},
        {**good, "file": "broken.png"},
    ]
    files.write_atomically(out / "broken.png", b"\x89PNG\r\n\x1a\nno picture")
    files.write_atomically(out / "odd.png", png(torch.full((3, 64, 64), 0.5)))
    named = ({"id": f"odd{i}", "file": "odd.png", **fields} for i, fields in enumerate(posts))
    return [*map(json.dumps, named), '{"id": "odd6", "tag_']


# --- models ----------------------------------------------------------------------------------------------------------


def digest(picture: Tensor) -> str:
    """Of the pixels of a picture (3, H, W) in 0..1, as 8 bits."""
    (pixels,) = bytes_of(picture[None])
    return hashlib.sha256(f"{tuple(pixels.shape)}".encode() + pixels.contiguous().numpy().tobytes()).hexdigest()[:16]


class Truth:
    """The renderer's truth in the place of all three models: knows the folder's pictures by their pixels.

    Args:
        folder: that `draw` wrote.

    Raises:
        FileNotFoundError: there is no truth in it.
        KeyError: a picture or a question that it doesn't know, when asked.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        if not (self.folder / TRUTH).is_file():
            raise FileNotFoundError(f"models: {folder} has no {TRUTH}; `likeness build demo-figures` writes one")

    @cached_property
    def known(self) -> Mapping[str, Mapping[str, Any]]:
        """Digest -> truth."""
        return {line["digest"]: line for line in read_truth(self.folder)}

    def segment(self, images: Tensor, text: str) -> Tensor:
        """`protocols.TextSegmenter`, whatever the text."""
        names = [self.known[digest(image)]["id"] for image in images]
        masks = [decode((self.folder / "truth" / f"{name}.png").read_bytes())[:1] for name in names]
        return torch.stack(masks)

    def boxes(self, images: Tensor, text: str) -> list[Tensor]:
        """`protocols.BoxDetector` of faces, whatever the text."""
        found = []
        for image in images:
            bbox = self.known[digest(image)]["bbox"]
            cx, cy, w, h = bbox or (0, 0, 0, 0)
            box = torch.tensor([[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]]) * image.shape[-1]
            found.append(box if bbox else box[:0])
        return found

    def __call__(self, images: Tensor, questions: Sequence[str]) -> list[list[str]]:
        """`protocols.VQA`."""
        known = [self.known[digest(image)]["answers"] for image in images]
        return [[answers[question] for question in questions] for answers in known]


def read_truth(folder: Path) -> list[dict[str, Any]]:
    """What `draw` wrote of each picture: id, identity, bbox, answers."""
    return [json.loads(line) for line in (Path(folder) / TRUTH).read_text().splitlines()]


class Reader:
    """The attribute judge answering the questions, as `protocols.VQA`; KeyError for others."""

    def __init__(self, attributes: Attributes):
        self.attributes = attributes

    def __call__(self, images: Tensor, questions: Sequence[str]) -> list[list[str]]:
        """Answers of pictures (B, 3, H, W) in 0..1, which are resized to the judge's size."""
        small = torch.nn.functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True).clamp(0, 1)
        read = {name: answer.values for name, answer in self.attributes(small).items()}
        asked = [ANSWERS[question] for question in questions]
        return [[", ".join(read[name][i] for name in names) for names in asked] for i in range(len(images))]


def judge(part: str, device: str) -> Any:
    """The embedded segmenter, or the judge that answers questions."""
    return judges.segments(device=device) if part == "segmenter" else Reader(judges.attributes(device=device))


def true_models(folder: Path) -> Models:
    """The renderer's truth in all places."""
    truth = Truth(folder)
    return Models(truth, truth, truth)


def judging_models(folder: Path) -> Models:
    """The judges, and the renderer's face boxes: no judge finds faces."""
    return Models(judge("segmenter", "cpu"), Truth(folder), judge("vqa", "cpu"))
