"""The page of a comparison, and the plots on it: everything is inside, numbers are those of the results."""

import base64
import json
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch
from likeness.cli import main
from likeness.core.metrics.similarity import paired_bootstrap
from likeness.training import charts, comparison, report
from likeness.training.charts import COLOURS, Point
from likeness.training.data.photos import decode, png


def results():
    subjects = {f"cat {i}": {"dino": [0.2 + 0.1 * i, 0.4], "clip_t": [0.3, 0.5 + 0.05 * i]} for i in range(4)}
    costs = {"storage": 3072.0, "train_seconds": 61.4, "seconds": 0.25, "memory": 5e6}
    found = comparison.blank()
    found["setting"] = {
        "bench": "demo", "base": "0123", "subjects": list(subjects), "seeds": [1000], "steps": 25, "guidance": 5.0,
        "prompts": [{"text": "a {}", "group": "recontextualise"}, {"text": "a drawing of a {}", "group": "restyle"}],
        "size": 128, "versions": {"torch": "2"}, "machine": "one",
    }  # fmt: skip
    found["methods"] = {
        "A <b>": {"family": "ours", "settings": "", "subjects": subjects, "costs": costs},
        "B": {"family": "tuned", "settings": "", "subjects": {"cat 0": {"dino": [0.9, 0.7], "clip_t": [0.1, 0.3]}}},
        "C": {"family": "tuned", "settings": "", "skipped": "no weights <here>"},
    }
    found["curves"] = {"A": {"cat 0": {"100": {"w2": 1.0, "dino": None}, "500": {"w2": 3.0, "dino": None}},
                             "dog 0": {"100": {"w2": 2.0}}}}  # fmt: skip
    found["claims"] = [
        {"number": 1, "paper": "P", "text": "is best", "where": "T1", "note": "", "found": ["+0.1"],
         "verdict": "reproduced"},
        {"number": 2, "paper": "P", "text": "asks", "where": "T2", "note": "people", "found": [],
         "verdict": "not testable here"},
        {"number": 3, "paper": "P", "text": "is both", "where": "T3", "note": "one half", "found": ["+0.2", "-0.3"],
         "holds": [True, False], "open": [], "verdict": "not reproduced"},
    ]  # fmt: skip
    recipe = {"lr": 0.1, "steps": 3, "batch": 4, "prior": 0.0, "identifier": "", "rank": 0}
    found["tuning"] = {"B": {"chosen": recipe, "tried": [{"recipe": recipe, "score": 0.25}]}}
    return found


class Reader(HTMLParser):
    """Cells of tables, and what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.rows, self.fetched, self.open, self.tags = [], [], False, []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [v for k, v in attributes if k in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.open = True

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture
def shown(tmp_path):
    (tmp_path / "cat-0.jpg").write_bytes(b"picture")
    return read(report.page(results(), tmp_path))


def row(reader, first, length):
    return next(r for r in reader.rows if r and r[0] == first and len(r) == length)


def test_nothing_is_fetched(shown):
    assert "script" not in shown.tags and "link" not in shown.tags
    assert shown.fetched and all(source.startswith("data:image/") for source in shown.fetched)
    assert base64.b64encode(b"picture").decode() in shown.fetched[-1]


def test_numbers_are_means_of_subjects_with_their_intervals(shown):
    found = row(shown, "A <b>", 5)
    wanted = paired_bootstrap({str(i): [0.2 + 0.1 * i, 0.4] for i in range(4)})
    assert found[1:4] == ["ours", "4", f"0.375 [{wanted.low:.3f}, {wanted.high:.3f}]"]
    assert row(shown, "B", 5) == ["B", "tuned", "1", "0.800", "0.200"], "one subject has no interval"
    by_group = next(r for r in shown.rows if r[:1] == ["A <b>"] and len(r) == 5 and r[1] != "ours")
    assert [cell.split()[0] for cell in by_group[1:]] == ["0.350", "0.400", "0.300", "0.575"]


def test_costs_and_what_was_left_out(shown):
    assert row(shown, "A <b>", 6)[1:] == ["3 KiB", "61", "", "0.25", "5 MiB"]
    assert ["C", "no weights <here>"] in shown.rows
    assert ["B", "lr 0.1, steps 3, batch 4", "0.250", "chosen"] in shown.rows
    assert row(shown, "1", 6)[-2:] == ["+0.1", "reproduced"]
    assert row(shown, "2", 6)[-2:] == ["people", "not testable here"]
    assert row(shown, "3", 6)[-2:] == ["✓ +0.2✗ -0.3one half", "not reproduced: 1 of 2 hold"]


def test_a_curve_is_the_mean_of_the_subjects_that_have_it():
    found = results()["curves"]["A"]
    assert report.along(found, "w2") == [(100.0, 1.5), (500.0, 3.0)] and report.along(found, "dino") == []


def test_points_carry_their_intervals():
    first, second = report.points(results(), "clip_t", "dino")
    assert (first.name, second.name) == ("A <b>", "B") and first.y == pytest.approx(0.375)
    assert first.y_range[0] < first.y < first.y_range[1]


def test_before_anything_is_measured_there_is_a_page():
    assert "Nothing has been measured yet" in report.page(comparison.blank())


def test_differences_are_paired():
    found = results()
    for i in range(4):
        found["methods"].setdefault("D", {"subjects": {}})["subjects"][f"cat {i}"] = {"dino": [0.1 + 0.1 * i, 0.3]}
    apart = comparison.difference(found, "A <b>", "D", "dino")
    assert (apart.mean, apart.low, apart.high) == pytest.approx((0.1, 0.1, 0.1))
    assert comparison.difference(found, "A <b>", "D", "clip_t") is None
    assert comparison.told(apart, signed=True) == "+0.100 [+0.100, +0.100]" and comparison.told(None) == ""


def test_command(tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(results()))
    where = ["--results", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html"), "--pictures", str(tmp_path)]
    main(["evaluate", "report", *where])
    assert f"wrote {tmp_path / 'r.html'}" in capsys.readouterr().out
    assert (tmp_path / "r.html").read_text() == report.page(results(), tmp_path)
    for text, wrong in (("{", "is no JSON"), ("[]", "has no format 1"), ('{"format": 2}', "has no format 1")):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(SystemExit, match=wrong):
            main(["evaluate", "report", *where])
    with pytest.raises(SystemExit, match="results: no file"):
        main(["evaluate", "report", "--results", str(tmp_path / "none.json")])


# --- plots -----------------------------------------------------------------------------------------------------------


def where(picture, colour):
    """Rows and columns of the pixels of a colour."""
    return ((picture * 255).round().int() == torch.tensor(colour)).all(-1).nonzero()


def test_a_scatter_has_its_points_in_place():
    found = charts.scatter([Point("a", 0.1, 0.1, "one"), Point("b", 0.9, 0.5, "two", (0.8, 1.0))], "x", "y", 900, 500)
    assert found.shape == (500, 900, 3) and found.min() >= 0 and found.max() == 1
    plot = found[:, :400]
    low, high = (where(plot, COLOURS[i]).float() for i in (0, 1))
    assert high[:, 0].median() < low[:, 0].median() and high[:, 1].median() > low[:, 1].median()
    many = [Point(str(i), i, i) for i in range(40)]
    assert charts.scatter(many, "x", "y", 900, 500).shape[0] > 1300, "the legend needs room"


def test_lines_rise_where_values_do():
    found = charts.lines({"a": [(0, 0.0), (10, 1.0)], "b": [(5, 0.5)]}, "steps", "value", 900, 500)
    line = where(found[:, :480], COLOURS[0])
    left, right = (line[line[:, 1] == c][:, 0].float().mean() for c in (line[:, 1].min() + 8, line[:, 1].max() - 8))
    assert right < left and len(where(found[:, :480], COLOURS[1])) > 50


def test_a_table_is_as_large_as_its_text():
    small, large = (charts.table(["a", "b"], [["1", "2"]] * n) for n in (1, 5))
    assert large.shape[0] > small.shape[0] and large.shape[1] == small.shape[1]
    assert charts.table(["a", "b"], [["a long cell of text", "2"]]).shape[1] > small.shape[1] + 100
    assert (small < 0.5).any()


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.31, 0.34), (-3.0, 250.0), (0.5, 0.5), (0.0, 0.0), (100, 2000)])
def test_ticks_are_round_and_enclose(low, high):
    found = charts.ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8
    steps = [b - a for a, b in pairwise(found)]
    assert max(steps) - min(steps) < 1e-9 * max(1, abs(high))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="points: give at least one"):
        charts.scatter([], "x", "y")
    with pytest.raises(ValueError, match="all of them finite"):
        charts.lines({"a": [(0, float("nan"))]}, "x", "y")
    with pytest.raises(ValueError, match="each needs 2 cells"):
        charts.table(["a", "b"], [["1"]])


def test_plots_are_pictures_that_others_read():
    picture = charts.lines({"a": [(0, 0.0), (1, 1.0)]}, "x", "y", 600, 300)
    assert torch.equal(decode(png(picture.permute(2, 0, 1))).permute(1, 2, 0), picture)
