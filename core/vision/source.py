"""Finding a vision model by name or folder, and saying clearly when there is none."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path


def check(name: str | Path, what: str) -> str:
    """`name` for transformers; FileNotFoundError for a folder that is not there or holds no model."""
    path = Path(name)
    looks_local = isinstance(name, Path) or path.is_absolute() or str(name).startswith(".")
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"{name} is no {what} model in transformers' layout: it has no config.json")
    if looks_local and not path.is_dir():
        raise FileNotFoundError(f"no {what} model at {name}; give a folder in transformers' layout or a hub name")
    return str(name)


@contextmanager
def explained(name: str | Path, what: str):
    """Turn what transformers raises for a model that can't be had into FileNotFoundError with what to do."""
    try:
        yield
    except OSError as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise FileNotFoundError(
            f"the {what} model {str(name)!r} can't be loaded ({reason}); check the name and the connection, "
            f"or give a folder with its config.json and model.safetensors"
        ) from e
