"""What the four papers claim, and what the results here say to each claim.

A check answers with findings, differences with their 95% intervals over subjects, and with whether they point the
paper's way. A claim is reproduced where all of them do and the intervals leave out zero; where one does not, it is not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likeness.core.metrics.similarity import Interval
from likeness.training.comparison import blank, difference, interval, mean, told
from likeness.training.report import METRICS

RESULTS = Path(__file__).resolve().parent.parent / "results"
REPRODUCED, NOT, UNTESTABLE, OPEN = "reproduced", "not reproduced", "not testable here", "not yet measured"
KEPT = 0.02  # as much may a mean move that is said to be kept
BASELINES = ("Textual Inversion", "DreamBooth", "DreamBooth-LoRA", "Custom Diffusion")


@dataclass(frozen=True)
class Finding:
    """A sentence, and whether it holds; None where it was not measured."""

    text: str
    holds: bool | None


Results = Mapping[str, Any]
Check = Callable[[Results], Sequence[Finding]]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Args:
        number, paper, where: which one, and where in the paper it is shown.
        text: in our words.
        check: what the results say; None where nothing here measures it.
        note: why it can't be tested, or what is missing.
        testable: whether the demo world, or any automatic measurement, could tell at all.
    """

    number: int
    paper: str
    text: str
    where: str
    check: Check | None = None
    note: str = ""
    testable: bool = True

    def judged(self, results: Results) -> dict[str, Any]:
        """The claim as the results keep it."""
        findings = list(self.check(results)) if self.check else []
        known = [f for f in findings if f.holds is not None]
        if not self.testable:
            verdict = UNTESTABLE
        elif not known or len(known) < len(findings):
            verdict = OPEN
        else:
            verdict = REPRODUCED if all(f.holds for f in known) else NOT
        kept = {"number": self.number, "paper": self.paper, "text": self.text, "where": self.where, "note": self.note}
        return {**kept, "found": [f.text for f in known], "verdict": verdict}


def judged(results: Results) -> list[dict[str, Any]]:
    """All claims with what the results say, in their order."""
    from .claims_list import CLAIMS

    return [claim.judged(results) for claim in CLAIMS]


# --- checks ----------------------------------------------------------------------------------------------------------


def sure(found: Interval | None, sign: int) -> bool | None:
    """Whether a difference points a way and its interval leaves out zero; None where it can't be told."""
    if found is None or math.isnan(found.low):
        return None
    return found.low > 0 if sign > 0 else found.high < 0


def found_that(what: str, found: Interval | None, sign: int) -> Finding:
    return Finding(f"{what}: {told(found, signed=True)}", sure(found, sign))


def named(metric: str) -> str:
    """A metric's title; another benchmark's own metrics are called as they are."""
    return METRICS.get(metric, metric)


def above(*triples: tuple[str, str, str]) -> Check:
    """Each (one, other, metric): one has more."""
    return lambda results: [
        found_that(f"{named(metric)}, {one} less {other}", difference(results, one, other, metric), 1)
        for one, other, metric in triples
    ]


def below(*triples: tuple[str, str, str]) -> Check:
    """Each (one, other, metric): one has less."""
    return lambda results: [
        found_that(f"{named(metric)}, {one} less {other}", difference(results, one, other, metric), -1)
        for one, other, metric in triples
    ]


def kept(*triples: tuple[str, str, str]) -> Check:
    """Each (one, other, metric): both are alike, their whole interval within KEPT."""

    def check(results: Results) -> list[Finding]:
        findings = []
        for one, other, metric in triples:
            found = difference(results, one, other, metric)
            text = f"{named(metric)}, {one} less {other}: {told(found, signed=True)}, kept within {KEPT}"
            within = None if sure(found, 1) is None else found.low > -KEPT and found.high < KEPT
            findings.append(Finding(text, within))
        return findings

    return check


def together(*checks: Check) -> Check:
    """All findings of several checks."""
    return lambda results: [finding for check in checks for finding in check(results)]


def unmeasured() -> Check:
    """A part of a claim that nothing here measures: without it the claim stays open."""
    return lambda results: [Finding("", None)]


def most_above(one: str, others: Sequence[str], metrics: Sequence[str]) -> Check:
    """One has more than at least half of the others, in each metric."""

    def check(results: Results) -> list[Finding]:
        findings = []
        for metric in metrics:
            each = {other: sure(difference(results, one, other, metric), 1) for other in others}
            known = [name for name, better in each.items() if better]
            text = f"{named(metric)}, {one} above {', '.join(known) or 'none'} (of {', '.join(each)})"
            findings.append(Finding(text, None if None in each.values() else 2 * len(known) >= len(each)))
        return findings

    return check


def matched_above(one: str, others: Sequence[str], metric: str, by: str) -> Check:
    """One has more than that of the others which is closest to it in another metric."""

    def check(results: Results) -> list[Finding]:
        own, each = mean(results, one, by), {name: mean(results, name, by) for name in others}
        if own is None or None in each.values():
            return [Finding(f"{one} or {', '.join(others)} missing", None)]
        closest = min(each, key=lambda name: abs(each[name].mean - own.mean))
        return list(above((one, closest, metric))(results))

    return check


# --- curves ----------------------------------------------------------------------------------------------------------


def ends(results: Results, name: str, metric: str) -> dict[str, tuple[float, float]]:
    """Subject -> a metric after the fewest and after the most steps."""
    found = {}
    for subject, curve in results["curves"].get(name, {}).items():
        steps = sorted(int(s) for s in curve if curve[s].get(metric) is not None)
        if len(steps) > 1:
            found[subject] = (curve[str(steps[0])][metric], curve[str(steps[-1])][metric])
    return found


def grows(name: str, metric: str, title: str, sign: int = 1) -> Check:
    """A metric of a method rises (falls) with training, on every subject that was followed."""

    def check(results: Results) -> list[Finding]:
        found = ends(results, name, metric)
        rise = {subject: last - first for subject, (first, last) in found.items()}
        text = f"{title}, {name}, most less fewest steps: {_each(rise)}"
        return [Finding(text, all(sign * v > 0 for v in rise.values()) if rise else None)]

    return check


def ends_below(one: str, others: Sequence[str], metric: str, title: str) -> Check:
    """After the most steps one has less of a metric than others, on every subject that was followed."""

    def check(results: Results) -> list[Finding]:
        findings = []
        for other in others:
            a, b = (ends(results, name, metric) for name in (one, other))
            apart = {subject: a[subject][1] - b[subject][1] for subject in a if subject in b}
            text = f"{title} after the most steps, {one} less {other}: {_each(apart)}"
            findings.append(Finding(text, all(v < 0 for v in apart.values()) if apart else None))
        return findings

    return check


def falls_less(one: str, others: Sequence[str], metric: str) -> Check:
    """With training one loses less of a metric than others, on every subject that was followed."""

    def check(results: Results) -> list[Finding]:
        findings = []
        for other in others:
            a, b = (ends(results, name, metric) for name in (one, other))
            apart = {s: (a[s][1] - a[s][0]) - (b[s][1] - b[s][0]) for s in a if s in b}
            text = f"{named(metric)}, change of {one} less that of {other}: {_each(apart)}"
            findings.append(Finding(text, all(v > 0 for v in apart.values()) if apart else None))
        return findings

    return check


def zero(name: str, metric: str, title: str) -> Check:
    """A metric stays exactly zero at all steps."""

    def check(results: Results) -> list[Finding]:
        curves = results["curves"].get(name, {}).values()
        every = [v[metric] for curve in curves for v in curve.values() if v.get(metric) is not None]
        return [Finding(f"{title}, {name}: at most {max(every, default=0):g}", max(every) == 0 if every else None)]

    return check


def _each(values: Mapping[str, float]) -> str:
    return ", ".join(f"{subject} {value:+.3f}" for subject, value in values.items())


# --- other results ---------------------------------------------------------------------------------------------------


def from_file(name: str, read: Callable[[Any], Sequence[Finding]], folder: Path | None = None) -> Check:
    """What another benchmark's results say; nothing where they are missing or are not there in full."""

    def check(results: Results) -> list[Finding]:
        path = (folder or RESULTS) / name
        if not path.is_file():
            return [Finding(f"{name} missing", None)]
        try:
            return list(read(json.loads(path.read_text())))
        except KeyError as e:
            return [Finding(f"{name} has no {e}", None)]

    return check


def compared_in(name: str, check: Check, folder: Path | None = None) -> Check:
    """A check on another benchmark's rows, kept by `training.comparison`'s shape; on none where they are missing."""

    def of_them(results: Results) -> list[Finding]:
        path = (folder or RESULTS) / name
        found = json.loads(path.read_text()) if path.is_file() else {}
        return list(check({**blank(), **found}))

    return of_them


def costs_nothing(one: str, others: Sequence[str]) -> Check:
    """One needs no training a subject, where others do."""

    def check(results: Results) -> list[Finding]:
        found = {}
        for name in (one, *others):
            found[name] = results["methods"].get(name, {}).get("costs", {}).get("train_seconds")
        text = "; ".join(f"{name}: {value:.0f} s a subject" for name, value in found.items() if value is not None)
        holds = None if None in found.values() else found[one] == 0 and all(found[other] > 0 for other in others)
        return [Finding(text, holds)]

    return check


def segmented_less() -> Check:
    """A subject in another place is as it was to Seg-DINO, and less so to DINO."""

    def check(results: Results) -> list[Finding]:
        found = results.get("segmented", {})
        apart = {subject: [v["seg_dino"] - v["dino"]] for subject, v in found.items()}
        return [found_that("the same subject in two places: Seg-DINO less DINO", interval(apart), 1)]

    return check
