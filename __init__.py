"""Likeness: subject-driven generation for ComfyUI, and the same methods headless.

This file is ComfyUI's door. It imports nothing heavy and works without ComfyUI.
"""

__version__ = "0.1.0"

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI calls this once to get the pack's nodes (V3 schema)."""
    from .nodes import extension

    return extension()
