"""Writing the results' file: everything that was measured, with seed, versions and machine, part by part."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from likeness.core import files
from likeness.training import comparison

from .bench import SEED, Bench

PACKAGES = ("likeness", "torch", "diffusers", "transformers", "peft", "numpy")


def load(path: Path) -> dict[str, Any]:
    """Results to be added to; blank ones where there are none yet."""
    return comparison.read(path) if path.exists() else comparison.blank()


def save(path: Path, results: Mapping[str, Any]) -> Path:
    """Write them: a line a subject's metric, so that changes are seen in a diff."""
    text = json.dumps(_plain(results), indent=1)
    return files.write_atomically(path, (re.sub(r"\[([\s\d.,eE+\-]+?)\]", _joined, text) + "\n").encode())


def _plain(value: Any) -> Any:
    """JSON has no NaN; what could not be measured is null there."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _joined(match: re.Match) -> str:
    """A list of numbers in one line."""
    return "[" + ", ".join(part.strip() for part in match.group(1).split(",")) + "]"


def made(bench: Bench) -> dict[str, Any]:
    """With what, and on what machine, numbers are made."""
    device = torch.cuda.get_device_name() if bench.model.denoiser.unet.device.type == "cuda" else "CPU"
    return {
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": f"{platform.system()} on {platform.machine()}, {torch.get_num_threads()} threads, {device}",
    }


def setting(bench: Bench) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "bench": bench.name,
        "base": bench.base,
        "subjects": [case.name for case in bench.cases],
        "prompts": [{"text": p.text, "group": p.group} for p in bench.prompts],
        "seeds": [SEED + i for i in range(bench.seeds)],
        "steps": bench.steps,
        "guidance": bench.guidance,
        "size": bench.size,
        "limit": bench.limit,
        "judges": bench.judged_by,
        **made(bench),
    }


def begun(results: Mapping[str, Any], bench: Bench) -> dict[str, Any]:
    """The setting of results that a run adds to: as it is, with the subjects that are new."""
    kept, own = results["setting"], setting(bench)
    more = [name for name in own["subjects"] if name not in kept.get("subjects", ())]
    return {**kept, "subjects": [*kept["subjects"], *more]} if kept else own


def same_setting(results: Mapping[str, Any], bench: Bench) -> bool:
    """Whether results may be added to: the same model, prompts, sampling and judges; subjects may be more."""
    kept, own = results["setting"], setting(bench)
    return not kept or all(kept.get(k) == own[k] for k in own if k not in ("subjects", "versions", "machine"))
