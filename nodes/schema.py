"""Node schemas for every ComfyUI that the pack supports: fields that an older version doesn't know are dropped here."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

# what ComfyUI 0.3.64 lacks; anything else that is unknown is a mistake of ours and must fail
NEWER = {"search_aliases", "advanced", "essentials_category", "has_intermediate_output"}


def _known(cls: type, fields: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(cls.__init__).parameters
    return {k: v for k, v in fields.items() if k in names or k not in NEWER}


def schema(**fields: Any) -> io.Schema:
    """`io.Schema` under the pack's category, `likeness/<category>`."""
    fields["category"] = "/".join(filter(None, ("likeness", fields.get("category"))))
    taken = {given.id for given in fields.get("inputs", ())}
    for made in fields.get("outputs", ()):
        if made.id in taken:  # 0.3.64 refuses that; users and workflows see names and numbers only
            made.id += "_out"
    return io.Schema(**_known(io.Schema, fields))


def entry(kind: Any, id: str, **fields: Any) -> io.Input:
    """An input of type `kind`, as in `entry(io.Image, "image", tooltip=...)`."""
    return kind.Input(id, **_known(kind.Input, fields))


def result(kind: Any, id: str, **fields: Any) -> io.Output:
    """An output of type `kind`."""
    return kind.Output(id, **_known(kind.Output, {"display_name": id, **fields}))
