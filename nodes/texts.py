"""Text that a node shows under its widgets."""

from __future__ import annotations

from comfy_api.latest import ui


def shown(text: str, node_id: str) -> ui.PreviewText:
    """Show a text on a node, and return it for the node's record."""
    from server import PromptServer

    # the front end draws a text output on its own Preview nodes only
    PromptServer.instance.send_progress_text(text, node_id)
    return ui.PreviewText(text)
