"""Tagged pictures: reading Danbooru's metadata, and keeping single figures whose clothes are tagged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..photos import SUFFIXES

# what the last word of a clothing tag is, as in "pleated_skirt" (ours; the paper does not publish its list)
NOT_WORN = ("no_", "unworn_", "holding_", "removing_")
CLOTHES = frozenset(
    """apron armor ascot belt bikini blazer bloomers blouse boots bow bowtie bra buruma camisole cape capelet cardigan
    cheongsam choker cloak clothes coat collar corset costume crown dress earrings footwear garter gloves glasses hakama
    hairband hairclip hat headband headdress headphones headwear helmet hood hoodie jacket jeans jersey kimono leggings
    legwear leotard mask miniskirt mittens neckerchief necklace necktie obi outfit overalls panties pants pantyhose
    pajamas robe ribbon sandals sarong sash scarf serafuku shawl shirt shoes shorts shrug skirt sleeves sneakers socks
    suit suspenders sweater swimsuit tabard thighhighs tiara tie tights tunic turtleneck underwear uniform vest veil
    waistcoat yukata""".split()  # noqa: SIM905
)
METADATA = "metadata.jsonl"  # in a folder of pictures
_CATEGORIES = {"0": "general", "1": "artist", "4": "character"}  # Danbooru's numbers
_KINDS = ("general", "artist", "character")


@dataclass(frozen=True)
class Entry:
    """A tagged picture.

    Args:
        id: of the picture.
        file: below the folder of pictures, "" where there is none.
        character, artist: tags.
        tags: general tags.
        clothes: those of them that name clothes.
        dropped: why it is not used, "" where it is.
    """

    id: str
    file: str = ""
    character: str = ""
    artist: str = ""
    tags: tuple[str, ...] = ()
    clothes: tuple[str, ...] = ()
    dropped: str = ""


@dataclass(frozen=True)
class Filter:
    """Which pictures are used, by their tags: one figure, dressed, of one known character, by one known artist.

    Args:
        require: general tags that a picture must have; "solo" is one figure.
        exclude: general tags that it must not have, as in "monochrome", which hides the colours.
        clothes: last words of the tags that name clothes.
    """

    require: tuple[str, ...] = ("solo",)
    exclude: tuple[str, ...] = ()
    clothes: tuple[str, ...] = field(default=tuple(sorted(CLOTHES)))

    def __call__(self, entry: Entry, kinds: Mapping[str, Sequence[str]]) -> Entry:
        """The entry with its tags, and with the first reason to drop it."""
        general = tuple(dict.fromkeys(kinds["general"]))
        words = set(self.clothes)
        clothes = tuple(tag for tag in general if tag.split("_")[-1] in words and not tag.startswith(NOT_WORN))
        names = {kind: tuple(dict.fromkeys(kinds[kind])) for kind in ("character", "artist")}
        lacks = next((tag for tag in self.require if tag not in general), None)
        has = next((tag for tag in self.exclude if tag in general), None)
        reasons = {
            "no tags": not any(kinds.values()),
            f"not tagged {lacks}": lacks is not None,
            f"tagged {has}": has is not None,
            "no clothing tag": not clothes,
            **{f"{'no' if not n else 'more than one'} {kind}": len(n) != 1 for kind, n in names.items()},
        }
        why = entry.dropped or next((reason for reason, holds in reasons.items() if holds), "")
        one = {kind: found[0] if found else "" for kind, found in names.items()}
        return replace(entry, **one, tags=general, clothes=clothes, dropped=why)


def read(images: Path, metadata: Path | None, keep: Filter) -> Iterator[Entry]:
    """Every picture's entry, in the metadata's order, or in that of the file names.

    Args:
        images: folder of pictures, which may lie in folders of it.
        metadata: Danbooru-style: JSON Lines, a JSON list, or a folder of such files, with a picture's `id`, its file
            (`file`, `file_url`, `md5` or `id` with `file_ext`) and its tags (`tag_string_general`, `tag_string_artist`,
            `tag_string_character`; or `tags`). None: a file beside each picture, of its name with .json or .txt after
            it or instead of its suffix; text has tags with commas, lines or spaces between, as in "character:miku".

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: metadata that is no JSON at all.
    """
    if not images.is_dir():
        raise FileNotFoundError(f"images: no folder {images}")
    seen: set[str] = set()
    for entry in _listed(images, metadata, keep) if metadata else _beside(images, keep):
        again = not entry.dropped and entry.id in seen
        yield replace(entry, dropped="duplicate id") if again else entry
        if not entry.dropped:
            seen.add(entry.id)


# --- one file for all ------------------------------------------------------------------------------------------------


def _listed(images: Path, metadata: Path, keep: Filter) -> Iterator[Entry]:
    if not metadata.exists():
        raise FileNotFoundError(f"tags: no metadata {metadata}; leave it out where each picture has its own file")
    for file in sorted(p for p in metadata.rglob("*") if p.is_file()) if metadata.is_dir() else [metadata]:
        for number, post in _posts(file):
            if not isinstance(post, Mapping) or "id" not in post:
                yield Entry(f"{file.name}:{number}", dropped="unreadable tags")
                continue
            found = _find(images, post)
            yield keep(Entry(str(post["id"]), found, dropped="" if found else "no picture"), kinds_of(post))


def _posts(file: Path) -> Iterator[tuple[int, Any]]:
    """Line or place, and post; None for a line that can't be read."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = lines.read(1)
        lines.seek(0)
        if first == "[":  # a list has to be read whole; lines don't
            try:
                yield from enumerate(json.load(lines), 1)
            except json.JSONDecodeError as e:
                raise ValueError(f"tags: {file.name} is neither JSON nor JSON Lines ({e})") from e
            return
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _json(line)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _find(images: Path, post: Mapping[str, Any]) -> str:
    """The picture of a post below `images`, "" where there is none."""
    number = str(post["id"])
    endings = [f".{post['file_ext']}"] if post.get("file_ext") else sorted(SUFFIXES)
    names = [str(post[key]).rsplit("/", 1)[-1] for key in ("file_url",) if post.get(key)]
    names += [f"{stem}{ending}" for stem in (post.get("md5"), number) if stem for ending in endings]
    if number.isdecimal():  # Danbooru2019 and later keep pictures in a thousand folders
        names += [f"{int(number) % 1000:04d}/{number}{ending}" for ending in endings]
    if post.get("file"):
        names = [str(post["file"])]
    inside = (name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts)
    return next((name for name in inside if (images / name).is_file()), "")


# --- a file beside each picture --------------------------------------------------------------------------------------


def _beside(images: Path, keep: Filter) -> Iterator[Entry]:
    for path in sorted(p for p in images.rglob("*") if p.suffix.lower() in SUFFIXES):
        name = path.relative_to(images)
        entry = Entry(name.with_suffix("").as_posix(), name.as_posix())
        ways = (path.with_name(path.name + end) if whole else path.with_suffix(end) for end, whole in _ENDINGS)
        file = next((way for way in ways if way.is_file()), None)
        if file is None:
            yield replace(entry, dropped="no tag file")
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        post = _json(text) if file.suffix == ".json" else {"tags": text}
        readable = isinstance(post, Mapping)
        yield keep(replace(entry, dropped="" if readable else "unreadable tags"), kinds_of(post if readable else {}))


_ENDINGS = [(end, whole) for end in (".json", ".txt") for whole in (True, False)]


# --- tags ------------------------------------------------------------------------------------------------------------


def kinds_of(post: Mapping[str, Any]) -> dict[str, list[str]]:
    """A post's general, artist and character tags: small letters, "_" for spaces."""
    found: dict[str, list[str]] = {kind: _split(post.get(f"tag_string_{kind}") or "") for kind in _KINDS}
    tags = post.get("tags") or post.get("tag_string" if not any(found.values()) else "", "")
    listed = tags if isinstance(tags, list) else _split(tags if isinstance(tags, str) else "")
    for tag in listed:
        if isinstance(tag, Mapping):  # Danbooru2019: {"name": ..., "category": "4"}
            kind, name = _CATEGORIES.get(str(tag.get("category", "0")), ""), str(tag.get("name", ""))
        else:
            prefix, _, name = str(tag).partition(":")
            kind, name = (prefix, name) if prefix in _KINDS and name else ("general", str(tag))
        if kind and name:
            found[kind].append(_plain(name))
    return found


def _split(text: Any) -> list[str]:
    parts = re.split(r"[,\n]" if re.search(r"[,\n]", str(text).strip()) else r"\s", str(text))
    return [_plain(part) for part in parts if part.strip()]


def _plain(tag: str) -> str:
    return re.sub(r"\s+", "_", tag.strip().lower())
