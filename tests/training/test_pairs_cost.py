"""What the pair factory's benchmark makes of its measurements."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="the factory keeps what it makes in Parquet files")

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # plain modules beside each other

import pairs
import pairs_cost
from likeness.training import loop
from likeness.training.data.pairs import plan


def told(planned, repeats, kept, seconds):
    took = {"seconds a subject": 2.0, "seconds a pair made": seconds, "worker seconds": 100.0}
    dropped = {plan.REPEATED: {"count": repeats}} if repeats else {}
    return {"made": {"pair": planned}, "pairs": kept, "dropped": {"pair": dropped}, "took": took}


def result():
    rows = [pairs.made(told(192, 32, 80, 4.0), 12), pairs.made(told(160, 0, 80, 3.0), 48)]
    rows.append(pairs.made(told(192, 32, 80, 9.0), 192))
    trained = pairs_cost.trainings(
        {"refiner": [1.0, 2.0, 9.0], "view-generator": [3.0]},
        {"refiner": {"steps": 500, "batch": 16}, "view-generator": {"steps": 1000, "batch": 8}},
    )
    lora = {"seconds_a_subject": 36.0, "seconds_a_picture": 0.5}
    return {"pairs": 192, "factory": rows, "trainings": trained, "dreambooth_lora": lora}


def test_what_is_planned_and_not_made_costs_nothing():
    row = pairs.made(told(192, 32, 80, 4.0), 12)
    assert (row["pairs_made"], row["repeats"], row["kept_share"]) == (160, 32, 0.5)
    assert row["seconds_a_pair_made"] == 4.0 and row["subjects"] == 12


def test_both_sides_of_the_cost_count_the_same():
    # two trainings of 2 s x 500 and 3 s x 1000; 2 s a subject; half of the pairs are kept, each made in 4 s
    hours = pairs_cost.hours(result(), 1800, 900)
    assert hours["of_it_trainings"] == pytest.approx(4000 / 3600, abs=0.01)
    assert hours["factory"] == pytest.approx((4000 + 2 * 1800 + 900 / 0.5 * 4) / 3600, abs=0.01)
    assert hours["dreambooth_lora"] == pytest.approx((36 * 1800 + 2 * 900 * 0.5) / 3600, abs=0.01)


def test_a_step_is_the_median_of_those_after_the_first():
    clock = pairs_cost.Clock()
    for seconds in (50, 60, 61, 62, 64, 65, 165):
        clock("training", loop.Progress(1, 1, 0.0, seconds))
    assert clock.seconds() == 1.5


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="it draws the plot")
    pairs_cost.plot(result(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
