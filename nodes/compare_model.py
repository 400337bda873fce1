"""Pictures of several methods, measured by the same models and drawn into one plot and one table."""

from __future__ import annotations

import comfy.model_management
from torch import Tensor

from ..training import charts, comparison, evaluate
from . import vision
from .compare import METHODS
from .pictures_model import asked_of, models_of
from .segmentation import pictures


def compare(
    references: Tensor,
    prompts: str,
    names: str,
    clip: str = vision.DEMO,
    dino: str = vision.DEMO,
    vqa: str = vision.NONE,
    across: str = "clip_t",
    up: str = "dino",
    **images: Tensor,
) -> tuple[Tensor, Tensor, str]:
    """A plot (1, H, W, 3), a table (1, H, W, 3), and the table in words.

    Args:
        references: (M, H, W, C) in 0..1.
        prompts: a line for all pictures, or a line a picture of each batch.
        names: a line a method.
        across, up: what the plot shows.
        images: images_1, images_2 and so on, (N, H, W, C) each.

    Raises:
        FileNotFoundError, ValueError: each message names the input.
    """
    given = {name: images[name] for i in range(METHODS) if images.get(name := f"images_{i + 1}") is not None}
    called = [line.strip() for line in names.splitlines() if line.strip()]
    if len(called) != len(given):
        raise ValueError(f"names: {len(called)} lines for {len(given)} methods; write one for each that is connected")
    if len(set(called)) < len(called):
        raise ValueError("names: two methods are called alike; give each its own name")
    asked = {name: asked_of(prompts, batch, f" of {name}") for name, batch in given.items()}
    found: dict[str, dict[str, Tensor]] = {}
    with models_of(clip, dino, vqa) as models:
        for method, (name, batch) in zip(called, given.items()):
            comfy.model_management.throw_exception_if_processing_interrupted()
            each = evaluate.score(models, pictures(batch), pictures(references), asked[name]).each
            found[method] = {metric: values for metric, values in each.items() if not metric.startswith("swd")}
    for entry, metric in (("across", across), ("up", up)):
        if any(metric not in each for each in found.values()):
            raise ValueError(f"{entry}: {metric} was not measured; write prompts, or choose a vqa model")
    measured = list(next(iter(found.values())))
    rows = [[method, *(f"{float(each[m].mean()):.3f}" for m in measured)] for method, each in found.items()]
    heads = ["method", *measured]
    words = "\n".join(", ".join(f"{h} {cell}" for h, cell in zip(heads, row)) for row in rows)
    return _plot(found, across, up)[None], charts.table(heads, rows)[None], words


def _plot(found: dict[str, dict[str, Tensor]], across: str, up: str) -> Tensor:
    points = []
    for method, each in found.items():
        # pictures are what is drawn again here: they are of one subject
        x, y = (comparison.interval({str(i): [float(v)] for i, v in enumerate(each[m])}) for m in (across, up))
        points.append(charts.Point(method, x.mean, y.mean, method, (x.low, x.high), (y.low, y.high)))
    return charts.scatter(points, across, up)
