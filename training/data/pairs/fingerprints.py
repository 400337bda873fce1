"""Whether a model is the same as before: a hash of its files that doesn't read many gigabytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

_WHOLE = 64 << 20  # bytes up to which a file is read whole
_END = 1 << 20  # bytes read at both ends of a larger one,
_PLACES, _PIECE = 64, 64 << 10  # and at so many places in between, so that few trained layers are noticed too
_HEADER = 100 << 20  # bytes that safetensors allows a header
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".txt", ".model")  # no README, no lock


def of(path: Path, whole: bool = False) -> str:
    """A short hash of a model's file, or of those of its folder: names, lengths and bytes, of large ones some of them.

    Args:
        whole: read all of it.
    """
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else _files(path):
        size = file.stat().st_size
        digest.update(f"{'' if file == path else file.relative_to(path).as_posix()} {size}\n".encode())
        for start, length in [(0, size)] if whole or size <= _WHOLE else _spans(file, size):
            for piece in _read(file, start, length):
                digest.update(piece)
    return digest.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.suffix in _SUFFIXES and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _spans(file: Path, size: int) -> list[tuple[int, int]]:
    """What is read of a large file, as starts and lengths; all of a safetensors file's header is."""
    header = 0
    if file.suffix == ".safetensors":
        with file.open("rb") as opened:
            header = min(_HEADER, 8 + int.from_bytes(opened.read(8), "little"))
    between = [(size * i // _PLACES, _PIECE) for i in range(1, _PLACES)]
    return [(0, header + _END), *between, (size - _END, _END)]


def _read(file: Path, start: int, length: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(start)
        while length > 0 and (piece := opened.read(min(length, _END))):
            yield piece
            length -= len(piece)
