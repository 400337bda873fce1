"""The embedded world and the embedded model: everything runs without a download."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
