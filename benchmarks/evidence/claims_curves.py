"""Checks of what more training steps do: on every subject that was followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .claims import Check, Finding, Results, named


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
