"""Models by name, and no download that nobody asked for."""

from __future__ import annotations

from pathlib import Path

from ...core.vision.sam import SUFFIXES

FILES = ("*.safetensors", "*.json", "*.txt", "*.model")  # no pickle


def found(name: str, what: str, download: bool) -> str:
    """A model's folder or file on this machine: itself, or where the hub's copy is kept.

    Args:
        download: fetch from the hub what is missing of it.

    Raises:
        FileNotFoundError: it is not here, or not whole, and must not or can't be downloaded.
    """
    path = Path(name)
    if path.exists() or path.is_absolute() or name.startswith(".") or path.suffix in SUFFIXES:
        return name  # whoever loads it says what is wrong with it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        if download:
            return snapshot_download(name, allow_patterns=list(FILES))
        folder = snapshot_download(name, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError) as e:
        if download:
            raise FileNotFoundError(f"{what}: {name} can't be downloaded ({e}); check the name and the network") from e
        raise FileNotFoundError(
            f"{what}: {name} is neither a folder nor a model that was downloaded before; give a folder, or add "
            "--models.download to fetch it from the hub"
        ) from e
    if not any(Path(folder).rglob("*.safetensors")):
        raise FileNotFoundError(f"{what}: {name} was downloaded in part only; add --models.download to fetch the rest")
    return folder
