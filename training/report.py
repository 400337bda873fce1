"""A comparison's results as one HTML page: `likeness evaluate report`.

Everything is inside the page: plots and pictures as data, no scripts. Intervals are made here from the numbers of each
subject, so the page needs nothing but the results' file.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core import files
from . import charts, comparison
from .comparison import told

METRICS = {
    "dino": "DINO", "clip_i": "CLIP-I", "clip_t": "CLIP-T", "seg_dino": "Seg-DINO", "seg_clip_i": "Seg-CLIP-I",
    "vqa": "VQA", "agreement": "attributes agree", "colour": "colours agree", "background": "place right",
    "style": "style right", "accessory": "accessory right", "variety": "variety", "layout": "layout kept",
    "surroundings": "surroundings kept", "swd clip_i x clip_t": "SWD CLIP-I x CLIP-T",
    "swd vqa x clip_i": "SWD VQA x CLIP-I", "swd vqa x clip_t": "SWD VQA x CLIP-T",
}  # fmt: skip
COSTS = {
    "storage": ("storage", lambda v: _bytes(v)), "train_seconds": ("training, s", lambda v: f"{v:.0f}"),
    "train_memory": ("training, memory", lambda v: _bytes(v)), "seconds": ("a picture, s", lambda v: f"{v:.2f}"),
    "memory": ("a picture, memory", lambda v: _bytes(v)),
}  # fmt: skip
SCATTERS = (("clip_t", "dino"), ("clip_t", "clip_i"), ("clip_t", "seg_dino"))
CURVES = {
    "w2": "W2 to the foundation's pictures of the class (64 principal components)",
    "fisher": "latent Fisher divergence under prompts without the subject", "clip_t": "CLIP-T", "seg_dino": "Seg-DINO",
    "clip_i": "CLIP-I", "dino": "DINO",
}  # fmt: skip
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto;white-space:nowrap}
td,th{padding:3px 9px;border-bottom:1px solid #e4e4e4;text-align:left}th{color:#666;font-weight:600}
img{max-width:100%}td.text{white-space:normal;min-width:17em}.reproduced{color:#1d7a3a;font-weight:600}
.not{color:#b03a2e;font-weight:600}.open{color:#777}small{color:#666}"""


@dataclass(frozen=True)
class Config:
    """Write the report of a comparison.

    Args:
        results: JSON file that `python benchmarks/evidence` writes.
        out: page to write.
        pictures: folder of sheets to show, beside what the results hold; left out where there is none.
    """

    results: Path = Path("benchmarks/results/evidence.json")
    out: Path = Path("report.html")
    pictures: Path = Path("runs/evidence/pictures")


def write(config: Config) -> Path:
    """Read the results, write the page.

    Raises:
        FileNotFoundError, ValueError: see `comparison.read`.
    """
    return files.write_atomically(config.out, page(comparison.read(config.results), config.pictures).encode())


def page(results: Mapping[str, Any], pictures: Path | None = None) -> str:
    """The whole page as text."""
    tables = (_setting, _likeness, _scatters, _groups, _costs, _curves, _bar, _claims, _tuning, _settings, _left_out)
    parts = [*(table(results) for table in tables), _pictures(pictures)]
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Likeness: evidence</title>'
    return f"{head}<style>{STYLE}</style><h1>Likeness: evidence</h1>" + "".join(parts) + "</html>\n"


# --- parts -----------------------------------------------------------------------------------------------------------


def _setting(results: Mapping[str, Any]) -> str:
    kept = results["setting"]
    if not kept:
        return "<p>Nothing has been measured yet.</p>"
    versions = ", ".join(f"{name} {number}" for name, number in kept["versions"].items())
    lines = [
        f"{len(kept['subjects'])} subjects ({', '.join(kept['subjects'])}), {len(kept['prompts'])} prompts, noise of "
        f"seeds {', '.join(map(str, kept['seeds']))}; {kept['steps']} steps, guidance {kept['guidance']:g}, "
        f"{kept['size']} pixels.",
        f"Bench: {kept['bench']}, foundation model {kept['base']}. Machine: {kept['machine']}. {versions}.",
        "Numbers are means over subjects with their 95% intervals (bootstrap over subjects). Every method draws from "
        "the same noise. Rows of a method that was measured on fewer subjects say so.",
    ]
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def measured(results: Mapping[str, Any]) -> list[str]:
    """Methods with numbers, in the order in which they were added."""
    return [name for name, method in results["methods"].items() if method.get("subjects")]


def _metrics(results: Mapping[str, Any]) -> list[str]:
    there = {m for name in measured(results) for s in results["methods"][name]["subjects"].values() for m in s}
    return [m for m in METRICS if m in there]


def _likeness(results: Mapping[str, Any]) -> str:
    names, metrics = measured(results), _metrics(results)
    if not names:
        return ""
    rows = []
    for name in names:
        method = results["methods"][name]
        count = len(method["subjects"])
        cells = [told(comparison.mean(results, name, m)) for m in metrics]
        rows.append([name, method["family"], str(count), *cells])
    return "<h2>Likeness and faith to the prompt</h2>" + html_table(
        ["method", "family", "subjects", *(METRICS[m] for m in metrics)], rows
    )


def _groups(results: Mapping[str, Any]) -> str:
    """CLIP-T and DINO by group of prompts."""
    prompts = results["setting"].get("prompts", [])
    groups = [g for g in dict.fromkeys(p["group"] for p in prompts) if g]
    names = measured(results)
    if not groups or not names:
        return ""
    at = {g: [i for i, p in enumerate(prompts) if p["group"] == g] for g in groups}
    wanted = [m for m in ("dino", "clip_t") if m in _metrics(results)]
    heads = ["method", *(f"{METRICS[m]}, {g}" for m in wanted for g in groups)]
    rows = [[n, *(told(comparison.mean(results, n, m, at[g])) for m in wanted for g in groups)] for n in names]
    return "<h2>By kind of prompt</h2>" + html_table(heads, rows)


def _scatters(results: Mapping[str, Any]) -> str:
    plots = []
    for x, y in SCATTERS:
        found = points(results, x, y)
        if len(found) > 1:
            plots.append(image(charts.scatter(found, METRICS[x], METRICS[y]), f"{METRICS[y]} against {METRICS[x]}"))
    note = "<p>Up is more like the subject, right is more like the prompt; lines are 95% intervals.</p>"
    return f"<h2>Identity against prompt</h2>{note}{''.join(plots)}" if plots else ""


def points(results: Mapping[str, Any], x: str, y: str) -> list[charts.Point]:
    """Every method that has both metrics."""
    found = []
    for name in measured(results):
        a, b = (comparison.mean(results, name, metric) for metric in (x, y))
        if a is not None and b is not None:
            family = results["methods"][name]["family"]
            found.append(charts.Point(name, a.mean, b.mean, family, (a.low, a.high), (b.low, b.high)))
    return found


def _costs(results: Mapping[str, Any]) -> str:
    rows = []
    for name in measured(results):
        costs = results["methods"][name].get("costs", {})
        rows.append([name, *(told_cost(costs.get(key), say) for key, (_, say) in COSTS.items())])
    heads = ["method", *(title for title, _ in COSTS.values())]
    note = (
        "<p>Medians over subjects. Storage is what a subject adds to the model, in half precision; of methods that are "
        "trained once for all subjects it is that network. Memory is the peak beside the weights. Seconds depend on "
        "what else the machine does.</p>"
    )
    return "<h2>Costs</h2>" + note + html_table(heads, rows) if rows else ""


def _curves(results: Mapping[str, Any]) -> str:
    plots = [image(picture, title) for title, picture in curves(results).items()]
    return f"<h2>More training steps</h2>{''.join(plots)}" if plots else ""


def curves(results: Mapping[str, Any]) -> dict[str, Tensor]:
    """Title -> plot (H, W, 3) of a metric along the training, of those that any method was followed by."""
    plots, names = {}, sorted(results["curves"], key=lambda name: name == "foundation")  # a colour a method
    for metric, title in CURVES.items():
        series = {name: along(results["curves"][name], metric) for name in names}
        series = {name: line for name, line in series.items() if line}
        if any(len(line) > 1 for line in series.values()):
            plots[title] = charts.lines(series, "training steps", title)
    return plots


def along(found: Mapping[str, Mapping[str, Mapping[str, float]]], metric: str) -> list[tuple[float, float]]:
    """Steps and the mean over the subjects that have them; subject -> steps -> metric -> value."""
    steps = sorted({int(s) for curve in found.values() for s in curve})
    line = []
    for count in steps:
        values = [curve[str(count)].get(metric) for curve in found.values() if str(count) in curve]
        values = [v for v in values if v is not None]
        if values:
            line.append((float(count), sum(values) / len(values)))
    return line


def _bar(results: Mapping[str, Any]) -> str:
    rows = [list(row.values()) for row in results["bar"]]
    note = (
        "<p>Ours against the best of all others that were measured, as paired differences over subjects with their 95% "
        "intervals.</p>"
    )
    heads = ["", "ours", "", "best other", "", "ours less it", "verdict"]
    return f"<h2>Where our methods should be best</h2>{note}{html_table(heads, rows)}" if rows else ""


def _claims(results: Mapping[str, Any]) -> str:
    if not results["claims"]:
        return ""
    kinds = {"reproduced": "reproduced", "not reproduced": "not"}
    rows = []
    for claim in results["claims"]:
        kind, held = kinds.get(claim["verdict"], "open"), comparison.holding(claim)
        verdict = f'<span class="{kind}">{escape(claim["verdict"])}</span>{held}'
        found = "<br>".join(escape(line) for line in comparison.findings(claim))
        cells = [str(claim["number"]), escape(claim["paper"]), escape(claim["text"]), escape(claim["where"]), found]
        rows.append("<tr>" + "".join(f'<td class="text">{c}</td>' if i in (2, 4) else f"<td>{c}</td>"
                                     for i, c in enumerate([*cells, verdict])) + "</tr>")  # fmt: skip
    heads = "".join(f"<th>{h}</th>" for h in ("", "paper", "claim", "where", "measured here", "verdict"))
    note = (
        "<p>A claim counts as reproduced where every difference that it speaks of points its way and the 95% interval "
        "leaves out zero. Of curves every subject that was followed has to agree. A claim of which a part is not "
        "measured stays open.</p>"
    )
    return f"<h2>What the papers claim</h2>{note}<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _tuning(results: Mapping[str, Any]) -> str:
    rows = []
    for name, tuning in results["tuning"].items():
        for tried in tuning["tried"]:
            mark = "chosen" if tried["recipe"] == tuning.get("chosen") else tried.get("skipped", "")
            recipe = ", ".join(f"{k} {v}" for k, v in tried["recipe"].items() if v not in ("", 0, 0.0))
            rows.append([name, recipe, f"{tried['score']:.3f}" if "score" in tried else "", mark])
    note = "<p>Mean of Seg-DINO x CLIP-T on subjects that are not measured above.</p>"
    return (
        "<h2>How the baselines were tuned</h2>" + note + html_table(["", "recipe", "score", ""], rows) if rows else ""
    )


def _settings(results: Mapping[str, Any]) -> str:
    methods = {name: results["methods"][name] for name in measured(results)}
    rows = [[name, method.get("settings", ""), _made(results, method)] for name, method in methods.items()]
    heads = ["method", "learned and drawn with", "made otherwise than above"]
    return "<h2>Settings</h2>" + html_table(heads, rows) if rows else ""


def _made(results: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """Versions and machine of a row that are not those of the whole."""
    kept = results["setting"]
    own = [f"{k} {v}" for k, v in method.get("versions", {}).items() if v != kept.get("versions", {}).get(k)]
    machine = method.get("machine", kept.get("machine"))
    return "; ".join([*own, *([machine] if machine != kept.get("machine") else [])])


def _left_out(results: Mapping[str, Any]) -> str:
    rows = [[name, method["skipped"]] for name, method in results["methods"].items() if "skipped" in method]
    return "<h2>Left out</h2>" + html_table(["method", "why"], rows) if rows else ""


def _pictures(folder: Path | None) -> str:
    sheets = sorted(folder.glob("*.jpg")) if folder is not None and folder.is_dir() else []
    shown = [f"<h3>{escape(p.stem)}</h3>{embedded(p.read_bytes(), 'jpeg', p.stem)}" for p in sheets]
    return f"<h2>Pictures</h2>{''.join(shown)}" if shown else ""


# --- html ------------------------------------------------------------------------------------------------------------


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text."""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def image(picture: Tensor, title: str) -> str:
    """A plot (H, W, 3) in 0..1, inside the page."""
    from .data.photos import png

    return embedded(png(picture.permute(2, 0, 1)), "png", title)


def embedded(data: bytes, kind: str, title: str) -> str:
    """A picture's bytes inside the page."""
    return f'<p><img alt="{escape(title)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}"></p>'


def told_cost(value: Any, say: Any) -> str:
    return say(value) if isinstance(value, (int, float)) and math.isfinite(value) else ""


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
