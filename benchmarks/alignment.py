"""How well masks are aligned: `python benchmarks/alignment.py`, written to benchmarks/results/alignment.json.

First, masks of demo-world subjects at 512 pixels are scaled, turned and moved by known amounts, wholly within the
picture, and the amounts are recovered. Rotation counts only where half a turn or any turn would show. Then two pictures
of one subject, whose masks no similarity makes equal, are aligned. Seconds are those of one CPU thread.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from likeness.core import files
from likeness.core.demo import world
from likeness.core.hifi.align import Similarity, align, iou
from PIL import Image
from torch import Tensor

RESULT = Path(__file__).resolve().parent / "results" / "alignment.json"
SIZE, MARGIN = 512, 4
SCALES, ANGLE = (0.6, 1.6), 180.0
TOLERANCE = {"scale": 0.02, "angle": 2.0, "move": 8.0}  # relative, degrees, pixels
SYMMETRIC = 0.95  # IoU of a mask with itself turned: beyond it the angle is not to be told
LIMIT = 30.0  # degrees of rotation, the node's default
FAITHFUL = 0.95  # IoU with the target that must be reached where the angle doesn't count


@dataclass(frozen=True)
class Found:
    """How far off a transform is; `move` is how far the mask's centroid misses, `shift` the error of Eq. 8's own."""

    subject: str
    true_scale: float
    true_angle: float
    angle_counts: bool
    scale: float
    angle: float
    move: float
    shift: float
    iou: float
    seconds: float

    @property
    def recovered(self) -> bool:
        right = self.scale <= TOLERANCE["scale"] and self.move <= TOLERANCE["move"]
        return right and (self.angle <= TOLERANCE["angle"] if self.angle_counts else self.iou >= FAITHFUL)


# --- known transforms ------------------------------------------------------------------------------------------------


def moved(mask: Tensor, truth: Similarity) -> Tensor:
    """A mask (1, SIZE, SIZE) resampled by Pillow, which shares no code with what is measured."""
    turn, half = math.radians(truth.angle), SIZE / 2
    c, s = math.cos(turn) / truth.scale, math.sin(turn) / truth.scale
    across = (c, s, half - truth.shift[0] - (c + s) * half)
    down = (-s, c, half - truth.shift[1] - (c - s) * half)
    picture = Image.frombytes("L", (SIZE, SIZE), (mask[0] * 255).byte().numpy().tobytes())
    picture = picture.transform((SIZE, SIZE), Image.Transform.AFFINE, (*across, *down), Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, SIZE, SIZE) / 255


def pixels(mask: Tensor) -> Tensor:
    """Centres of a mask's pixels, (N, 2), from the picture's middle."""
    return (mask[0] > 0.5).nonzero().flip(1) + 0.5 - SIZE / 2


def cases(count: int, seed: int) -> Iterator[tuple[str, Tensor, Similarity]]:
    """Masks with transforms that leave them in the picture; the subject is drawn anew until the scale fits."""
    rng, tried = random.Random(seed), 0
    for _ in range(count):
        scale, angle = rng.uniform(*SCALES), rng.uniform(-ANGLE, ANGLE)
        while True:
            tried += 1
            subject = world.random_subject(rng)
            mask = world.draw(subject, world.random_scene(rng, scale=rng.uniform(0.5, 1.2)), size=SIZE).mask
            low, high = (side.tolist() for side in Similarity(scale, angle)(pixels(mask)).aminmax(dim=0))
            if all(b - a <= SIZE - 2 * MARGIN for a, b in zip(low, high)):
                break
        place = [rng.uniform(MARGIN - SIZE / 2 - a, SIZE / 2 - MARGIN - b) for a, b in zip(low, high)]
        x, y = Similarity(1 / scale, -angle)(torch.tensor(place)).tolist()
        yield subject.word, mask, Similarity(scale, angle, (x, y))


def angle_counts(mask: Tensor) -> bool:
    """Whether a turn of 15 degrees or more changes a mask visibly."""
    x, y = (-pixels(mask).mean(0)).tolist()
    centred = moved(mask, Similarity(shift=(x, y)))
    return max(iou(centred, moved(centred, Similarity(angle=turn))) for turn in range(15, 346, 15)) < SYMMETRIC


def recover(subject: str, mask: Tensor, truth: Similarity) -> Found:
    target, centroid = moved(mask, truth), pixels(mask).mean(0)
    start = time.thread_time()
    found = align(mask, target)
    seconds = time.thread_time() - start
    return Found(
        subject=subject,
        true_scale=truth.scale,
        true_angle=truth.angle,
        angle_counts=angle_counts(mask),
        scale=abs(found.scale / truth.scale - 1),
        angle=abs(math.remainder(found.angle - truth.angle, 360)),
        move=float((found(centroid) - truth(centroid)).norm()),
        shift=math.dist(found.shift, truth.shift),
        iou=iou(found.apply(mask, (SIZE, SIZE)), target),
        seconds=seconds,
    )


# --- two pictures of one subject -------------------------------------------------------------------------------------


def pairs(count: int, seed: int) -> list[dict[str, float]]:
    """IoU of the masks of two pictures as they are, and aligned with rotation free or limited."""
    rng, found = random.Random(seed), []
    for i in range(count):
        a, b = (picture.mask for picture in world.photos(world.random_subject(rng), 2, seed=i, size=SIZE))
        free, limited = align(a, b), align(a, b, max_angle=LIMIT)
        ious = (iou(mask, b) for mask in (a, free.apply(a, (SIZE, SIZE)), limited.apply(a, (SIZE, SIZE))))
        found.append(
            dict(zip(("as they are", "rotation free", f"rotation within {LIMIT:.0f}"), ious), turned=abs(free.angle))
        )
    return found


# --- the table -------------------------------------------------------------------------------------------------------


def summary(rows: list[Found]) -> dict[str, dict[str, float]]:
    """Median, 95th percentile and worst of every number; of IoU the low end is the worst."""
    table = {}
    for name in ("scale", "angle", "move", "shift", "iou", "seconds"):
        values = [getattr(row, name) for row in rows if row.angle_counts or name not in ("angle", "shift")]
        values = sorted(values, reverse=name == "iou")
        table[name] = {"median": _at(values, 0.5), "95%": _at(values, 0.95), "worst": values[-1]}
    return table


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    warm = torch.ones(1, 8, 8)
    align(warm, warm)  # torch loads its optimisers when first used

    rows = [recover(*case) for case in cases(options.cases, options.seed)]
    recovered, table = sum(row.recovered for row in rows) / len(rows), summary(rows)
    counted = sum(row.angle_counts for row in rows)
    print(f"{recovered:.1%} of {len(rows)} recovered; the angle counts in {counted}\n")
    print(f"  {'':<8} {'median':>8} {'95%':>8} {'worst':>8}")
    for name, values in table.items():
        print(f"  {name:<8} " + " ".join(f"{value:8.4f}" for value in values.values()))

    found = pairs(options.pairs, options.seed)
    means = {name: sum(pair[name] for pair in found) / len(found) for name in found[0] if name != "turned"}
    over = sum(pair["turned"] > 90 for pair in found)
    print(f"\n{len(found)} pairs of pictures of one subject, mean IoU; {over} turned beyond 90 degrees where free\n")
    for name, value in means.items():
        print(f"  {name:<20} {value:.3f}")

    result = {
        "recovered": recovered,
        "angle counts in": counted,
        "errors": table,
        "pairs": {**means, "turned beyond 90 degrees": over},
        "settings": {"size": SIZE, "scales": SCALES, "angle": ANGLE, "tolerance": TOLERANCE, **vars(options)},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": f"{platform.machine()}, one thread",
        "worst cases": [asdict(row) for row in sorted(rows, key=lambda row: row.iou)[:10]],
    }
    files.write_atomically(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    print(f"\nwrote {RESULT}")


if __name__ == "__main__":
    main()
