"""Models by name, and no download that nobody asked for."""

from __future__ import annotations

from pathlib import Path

from ...core.vision.sam import SUFFIXES


def found(name: str, what: str, download: bool) -> str:
    """A model's folder or file on this machine: itself, or where the hub's copy is kept; a hub name to download it.

    Raises:
        FileNotFoundError: it is not here, and must not be downloaded.
    """
    path = Path(name)
    if path.exists() or path.is_absolute() or name.startswith(".") or path.suffix in SUFFIXES:
        return name  # whoever loads it says what is wrong with it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError) as e:
        if download and isinstance(e, LocalEntryNotFoundError):
            return name
        raise FileNotFoundError(
            f"{what}: {name} is neither a folder nor a model that was downloaded before; give a folder, or add "
            "--models.download to fetch it from the hub"
        ) from e
