"""Learned things on disk: safetensors with typed metadata, written atomically, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = "likeness"
VERSION = 1
UMASK = os.umask(0)
os.umask(UMASK)  # it can only be read by setting it; once, before any thread runs


class LearnedFileError(ValueError):
    """A file that can't be used; the message says which file, why, and what to do."""


@dataclass(frozen=True)
class Header:
    """What a learned file says about itself.

    Args:
        kind: what it is, as in "infusion-concept".
        base: family of models it was learned on, from `attention.base_of`.
        word: class word of the subject, "" where there is none.
        settings: training settings, JSON values only.
        source: hash of the base weights or of the training images, "" where unknown.
        version: of the file format.
    """

    kind: str
    base: str = ""
    word: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    version: int = VERSION


def save(path: str | Path, tensors: Mapping[str, Tensor], header: Header) -> Path:
    """Write tensors and header; a reader sees the old file or the new one, never half of one.

    Raises:
        TypeError: settings that JSON can't hold.
    """
    from safetensors.torch import save_file

    metadata = {"format": FORMAT, "header": json.dumps(asdict(header), sort_keys=True)}
    with _beside(path) as file:  # straight to the disk: checkpoints can be as large as the memory
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, file, metadata)
    return Path(path)


def write_atomically(path: str | Path, data: bytes) -> Path:
    """Write beside the target, flush to disk, then rename over it."""
    with _beside(path) as file:
        file.write_bytes(data)
    return Path(path)


@contextmanager
def _beside(path: str | Path) -> Iterator[Path]:
    """A file to be written, which takes the target's place when it is on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    file = Path(name)
    try:
        yield file
        with file.open("rb+") as f:
            os.fsync(f.fileno())
        os.chmod(file, 0o666 & ~UMASK)  # temporary files are private
        os.replace(file, path)
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def peek(path: str | Path) -> Header:
    """A file's header, without its tensors.

    Raises:
        FileNotFoundError: no such file.
        LearnedFileError: truncated, not safetensors, not written by Likeness, or from a newer version of it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.name} in {path.parent}")
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
    except SafetensorError as e:
        raise LearnedFileError(f"{path.name} is damaged or incomplete ({e}); copy or download it again") from e
    if metadata.get("format") != FORMAT:
        raise LearnedFileError(f"{path.name} was not written by Likeness; choose a file that a Likeness trainer saved")
    try:
        header = Header(**json.loads(metadata["header"]))
    except (KeyError, TypeError, ValueError) as e:
        raise LearnedFileError(f"{path.name} was written by a newer or changed Likeness; update the pack") from e
    if header.version > VERSION:
        raise LearnedFileError(
            f"{path.name} has format {header.version}, this pack reads up to {VERSION}; update the pack"
        )
    return header


def load(path: str | Path, *, kind: str, base: str | None = None) -> tuple[dict[str, Tensor], Header]:
    """Read tensors and header.

    Args:
        kind: the kind the caller can use.
        base: the architecture it will be used on; None takes any.

    Raises:
        FileNotFoundError, LearnedFileError: as `peek`, and for a wrong kind or a wrong base.
    """
    from safetensors.torch import load_file

    header, name = peek(path), Path(path).name
    if header.kind != kind:
        raise LearnedFileError(f"{name} holds a {header.kind}, but a {kind} is needed here; choose another file")
    if base is not None and header.base != base:
        raise LearnedFileError(
            f"{name} was learned on {header.base}, but the model here is {base}; "
            f"load a {header.base} model or train again"
        )
    return load_file(path), header


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A short hash of names, shapes, types and values: the same weights always have the same one."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(t.shape)}{t.dtype}".encode())
        digest.update(t.flatten().view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()[:16]
