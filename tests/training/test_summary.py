"""The main table of a comparison in short, and its plot."""

import json

import pytest
import torch
from likeness.cli import main
from likeness.core.metrics.similarity import paired_bootstrap
from likeness.training import comparison, report, summary
from likeness.training.data.photos import decode


@pytest.fixture
def results(tmp_path):
    found = comparison.blank()
    own = {f"cat {i}": {"seg_dino": [0.2 + 0.1 * i, 0.4], "clip_t": [0.3, 0.5 + 0.05 * i]} for i in range(4)}
    costs = {"storage": 3072.0, "train_seconds": 61.4, "seconds": 0.25}
    found["methods"] = {
        "A": {"family": "ours", "subjects": own, "costs": costs},
        "B": {"family": "tuned", "subjects": {"cat 0": {"clip_t": [0.1, 0.3]}}},
        "C": {"family": "tuned", "skipped": "no weights"},
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(found))
    return path


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_rows_are_what_was_measured(results):
    heads, rule, first, second = cells(summary.run(summary.Config(results)))
    assert heads == ["", "Seg-DINO", "CLIP-T", "storage", "training, s", "a picture, s"], "no column without a number"
    assert set(rule) == {"---"} and len(rule) == len(heads)
    wanted = paired_bootstrap({str(i): [0.2 + 0.1 * i, 0.4] for i in range(4)})
    assert first[:2] == ["A", f"0.375 [{wanted.low:.3f}, {wanted.high:.3f}]"]
    assert first[3:] == ["3 KiB", "61", "0.25"] and second == ["B (1 of 4 subjects)", "", "0.200", "", "", ""]


def test_rows_can_be_chosen_and_ordered(results):
    text = summary.run(summary.Config(results, ("B", "A")))
    assert [row[0][:1] for row in cells(text)[2:]] == ["B", "A"]
    with pytest.raises(ValueError, match="methods: 'C' was not measured; choose from A, B"):
        summary.run(summary.Config(results, ("A", "C")))


def test_the_plot_shows_methods_with_both_metrics(results, tmp_path, capsys):
    out = tmp_path / "plots" / "plot.png"
    main(["evaluate", "summary", "--results", str(results), "--plot", str(out)])
    assert "| A |" in capsys.readouterr().out
    whole = decode(out.read_bytes())
    main(["evaluate", "summary", "--results", str(results), "--methods", "A", "--plot", str(out)])
    assert torch.equal(decode(out.read_bytes()), whole) and whole.shape[0] == 3
    with pytest.raises(ValueError, match="points: give at least one"):
        summary.run(summary.Config(results, ("B",), plot=out))


def test_the_table_is_written_too(results, tmp_path):
    out = tmp_path / "table.md"
    assert summary.run(summary.Config(results, out=out)) + "\n" == out.read_text()


def test_curves_are_drawn_side_by_side(results, tmp_path):
    out, found = tmp_path / "curves.png", json.loads(results.read_text())
    with pytest.raises(ValueError, match="curves: none were measured"):
        summary.run(summary.Config(results, curves=out))
    values = dict.fromkeys(("w2", "clip_t", "seg_dino"), 1.0)
    found["curves"] = {"A": {"cat 0": {"100": values, "500": dict.fromkeys(values, 2.0)}}}
    results.write_text(json.dumps(found))
    summary.run(summary.Config(results, curves=out))
    plots = list(report.curves(found).values())
    height, width, _ = plots[0].shape
    drawn = decode(out.read_bytes())
    assert len(plots) == 3 and drawn.shape == (3, 2 * height, 2 * width)
    for i, plot in enumerate([*plots, torch.ones_like(plots[0])]):  # nothing in the fourth place
        y, x = i // 2 * height, i % 2 * width
        assert (drawn[:, y : y + height, x : x + width] - plot.permute(2, 0, 1)).abs().max() < 1 / 200


def test_claims_show_what_holds(results, tmp_path):
    out, found = tmp_path / "claims.md", json.loads(results.read_text())
    with pytest.raises(ValueError, match="claims: none were judged"):
        summary.run(summary.Config(results, claims=out))
    claim = {"number": 1, "paper": "P", "text": "is | best", "where": "T1", "note": "half of it", "open": []}
    halves = claim | {"found": ["+0.2", "-0.3"], "holds": [True, False], "verdict": "not reproduced"}
    found["claims"] = [halves, claim | {"number": 2, "found": [], "holds": [], "verdict": "not testable here"}]
    results.write_text(json.dumps(found))
    summary.run(summary.Config(results, claims=out))
    assert "\n1 not reproduced, 1 not testable here.\n" in out.read_text()
    first, second = cells(out.read_text())[-2:]
    assert first[:4] == ["1", "P, T1", "is / best", "not reproduced: 1 of 2 hold"]
    assert first[4] == "✓ +0.2<br>✗ -0.3<br>half of it" and second[3:] == ["not testable here", "half of it"]
