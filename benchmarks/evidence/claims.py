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
EXTRA = "Perfusion"  # counts among them where it was measured: its package is optional


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
        missing = [f.text for f in findings if f.holds is None]
        told = {"found": [f.text for f in known], "holds": [bool(f.holds) for f in known], "open": missing}
        return {**kept, **told, "verdict": verdict}


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


def baselines(results: Results) -> tuple[str, ...]:
    """The tuned baselines that claims speak of."""
    return (*BASELINES, EXTRA) if results["methods"].get(EXTRA, {}).get("subjects") else BASELINES


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


def above_baselines(one: str, *metrics: str) -> Check:
    """One has more than each of the tuned baselines."""
    return lambda results: above(*((one, other, m) for m in metrics for other in baselines(results)))(results)


def not_more(one: str, other: str, metric: str) -> Check:
    """One has no more than another: the upper end of the difference's interval is below KEPT."""

    def check(results: Results) -> list[Finding]:
        found = difference(results, one, other, metric)
        text = f"{named(metric)}, {one} less {other}: {told(found, signed=True)}, below {KEPT}"
        return [Finding(text, None if sure(found, 1) is None else found.high < KEPT)]

    return check


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


def most_above(one: str, but: str, metrics: Sequence[str]) -> Check:
    """One has more than at least half of the tuned baselines but one, in each metric."""

    def check(results: Results) -> list[Finding]:
        findings = []
        for metric in metrics:
            others = [name for name in baselines(results) if name != but]
            each = {other: sure(difference(results, one, other, metric), 1) for other in others}
            known = [name for name, better in each.items() if better]
            text = f"{named(metric)}, {one} above {', '.join(known) or 'none'} (of {', '.join(each)})"
            findings.append(Finding(text, None if None in each.values() else 2 * len(known) >= len(each)))
        return findings

    return check


def matched_above(one: str, others: Sequence[str], metric: str, by: str) -> Check:
    """One has more than that of the others which is closest to it in another metric, within KEPT."""

    def check(results: Results) -> list[Finding]:
        own, each = mean(results, one, by), {name: mean(results, name, by) for name in others}
        if own is None or None in each.values():
            return [Finding(f"{one} or {', '.join(others)} missing", None)]
        closest = min(each, key=lambda name: abs(each[name].mean - own.mean))
        if (apart := abs(each[closest].mean - own.mean)) > KEPT:
            return [Finding(f"{named(by)} of {one} and {closest}, the closest, are {apart:.3f} apart", None)]
        return list(above((one, closest, metric))(results))

    return check


# --- other results ---------------------------------------------------------------------------------------------------


def from_file(
    name: str, read: Callable[[Any], Sequence[Finding]], folder: Path | None = None, needed: bool = True
) -> Check:
    """What another benchmark's results say; nothing where they are missing or are not there in full.

    Args:
        needed: without the file the claim stays open.
    """

    def check(results: Results) -> list[Finding]:
        path = (folder or RESULTS) / name
        if not path.is_file():
            return [Finding(f"{name} missing", None)] if needed else []
        try:
            return list(read(json.loads(path.read_text())))
        except KeyError as e:
            return [Finding(f"{name} has no {e}", None)]

    return check


def compared_in(name: str, check: Check, folder: Path | None = None) -> Check:
    """A check on another benchmark's rows, kept by `training.comparison`'s shape; on none where they are missing.

    Rows of different bases, settings or numbers of steps are not compared, see `comparison.trained_on`.
    """

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
        apart = {subject: [v["seg_dino"] - v["dino"]] for subject, v in found.items() if "dino" in v}
        lost = sum(v.get("left out", 0) for v in found.values())
        without = f" ({lost} pictures without a subject left out)" if lost else ""
        return [found_that(f"the same subject in two places{without}: Seg-DINO less DINO", interval(apart), 1)]

    return check
