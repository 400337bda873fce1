"""Where the methods of this repository should be the best, and whether they are.

Each is compared, subject by subject, with every rival that was measured; the rival that does best against it counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from likeness.core.metrics.similarity import Interval
from likeness.training.comparison import difference, interval, mean, told

from . import claims
from .claims import KEPT, baselines, named
from .claims_curves import ends

Results = Mapping[str, Any]
BEST, ALONGSIDE, BEHIND, OPEN = "best", "within the interval of the best", "behind", "not measured"
ALONE = "nothing to compare with"
ZERO_SHOT = ("IP-Adapter", *(f"InstructPix2Pix {scale}" for scale in (1.2, 1.5, 1.8)))
LED = "HiFi: guidance"
FACE = "face and clothes"  # of a composed person


def judged(results: Results) -> list[dict[str, str]]:
    """A row each: what it is about, our method, its number, the best rival with its number, difference, verdict."""
    tuned = baselines(results)
    return [
        _row(results, "prompt following among tuned methods", "Infusion", tuned, "clip_t"),
        _curve(results, "Fisher divergence after the most steps", "Infusion", tuned, "fisher"),
        _w2(results, tuned),
        _fidelity(results, (*tuned, *ZERO_SHOT)),
        _composition(),
        _row(results, "zero-shot fidelity", "Toffee", ZERO_SHOT, "seg_dino"),
    ]


def _row(results: Results, what: str, ours: str, rivals: Sequence[str], metric: str) -> dict[str, str]:
    """By a metric of the tables, more of which is better."""
    apart = {name: difference(results, ours, name, metric) for name in rivals}
    title = f"{what}, {named(metric)}"
    return told_row(title, ours, apart, lambda name: mean(results, name, metric), 1)


def _curve(results: Results, what: str, ours: str, rivals: Sequence[str], metric: str) -> dict[str, str]:
    """By a metric of the curves, less of which is better."""
    last = {name: {s: pair[1] for s, pair in ends(results, name, metric).items()} for name in (ours, *rivals)}
    own, apart = last[ours], {}
    for name in rivals:
        apart[name] = interval({s: [own[s] - value] for s, value in last[name].items() if s in own})
    return told_row(what, ours, apart, lambda name: interval({s: [v] for s, v in last[name].items()}), -1)


def _w2(results: Results, tuned: Sequence[str]) -> dict[str, str]:
    """Only rivals that are at least as like the subject, by Seg-DINO, count."""
    what, own = "W2 after the most steps, among methods at least as like the subject", _last(results, "Infusion")
    if own is None:
        return open_row(what, "Infusion")
    theirs = {name: _last(results, name) for name in tuned}
    rivals = [name for name, found in theirs.items() if found is None or found >= own]
    if not rivals:
        return {**open_row(what, "Infusion"), "verdict": BEST, "rival": "none is as like the subject"}
    return _curve(results, what, "Infusion", rivals, "w2")


def _last(results: Results, name: str) -> float | None:
    """Mean Seg-DINO after the most steps."""
    found = [pair[1] for pair in ends(results, name, "seg_dino").values()]
    return sum(found) / len(found) if found else None


def _fidelity(results: Results, rivals: Sequence[str]) -> dict[str, str]:
    """Only rivals that follow prompts alike, within KEPT, count."""
    what = f"subject fidelity at equal CLIP-T, within {KEPT}"
    apart = {name: difference(results, LED, name, "clip_t") for name in rivals}
    if not any(apart.values()):
        return open_row(f"{what}, {named('seg_dino')}", LED)
    near = [name for name, found in apart.items() if found is not None and abs(found.mean) <= KEPT]
    if not near:
        return {**open_row(what, LED), "rival": "none follows prompts alike", "verdict": ALONE}
    return _row(results, what, LED, near, "seg_dino")


def _composition() -> dict[str, str]:
    """RetriNet's people with another's clothes, beside chance: no rival composes."""
    what, path = f"zero-shot composition, share of {FACE} right", claims.RESULTS / "retrinet.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    found = found.get("quality", found).get("composition")
    if found is None:
        return open_row(what, "RetriNet")
    own, chance = found["right"][FACE], found["chance"][FACE]
    row = open_row(what, "RetriNet") | {"value": f"{own:.3f}", "rival": "chance; no other method composes"}
    return {**row, "theirs": f"{chance:.3f}", "difference": f"{own - chance:+.3f}", "verdict": ALONE}


def open_row(what: str, ours: str) -> dict[str, str]:
    return {"what": what, "ours": ours, "value": "", "rival": "", "theirs": "", "difference": "", "verdict": OPEN}


def told_row(
    what: str, ours: str, apart: Mapping[str, Interval | None], number: Callable[[str], Interval | None], sign: int
) -> dict[str, str]:
    """The row of our method against the rival that does best beside it.

    Args:
        apart: rival -> ours less it.
        number: a method to its mean.
        sign: 1 where more is better, -1 where less is.
    """
    known = {name: found for name, found in apart.items() if found is not None}
    row = open_row(what, ours) | {"value": told(number(ours))}
    if not known:
        return row
    rival = min(known, key=lambda name: sign * known[name].mean)
    row |= {"rival": rival, "theirs": told(number(rival)), "difference": told(known[rival], signed=True)}
    missing = [name for name in apart if name not in known]
    if missing:
        row["rival"] += f" (not measured: {', '.join(missing)})"
    return {**row, "verdict": verdict(known[rival], sign)}


def verdict(apart: Interval, sign: int) -> str:
    """What a paired difference to the best rival says; a single subject has no interval and says nothing."""
    if math.isnan(apart.low):
        return OPEN
    if sign * apart.mean >= 0:
        return BEST
    return ALONGSIDE if apart.low <= 0 <= apart.high else BEHIND
