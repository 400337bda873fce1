"""The toy experiments: what is measured of points, that they repeat, and what the kept results say."""

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))  # plain modules beside each other

import toy  # noqa: E402

TINY = toy.Sizes(foundation=3, at=(0, 2), batch=8, width=8, seeds=2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_peaks_stand_in_squares_the_top_left_first():
    assert toy.square(2).tolist() == [[-0.5, 0.5], [0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]]
    places = toy.square(5)[list(toy.FIVE)].tolist()
    assert places == [[-2, 2], [2, 2], [0, 0], [-2, -2], [2, -2]]


def test_concepts_are_peaks_or_their_modes():
    points, which = toy.peaks(toy.square(2), False)(4000, seeded())
    assert set(which.tolist()) == {0, 1, 2, 3}
    assert (points[which == 1].mean(0) - torch.tensor([0.5, 0.5])).abs().max() < 0.02
    assert toy.width(points[which == 2]) == pytest.approx(toy.SPREAD, rel=0.05)
    points, which = toy.peaks(toy.square(5), True)(4000, seeded())
    assert not which.any() and toy.modes(points, toy.square(5))[0] == 25


def test_a_subject_is_a_line():
    points, which = toy.subject(toy.square(2)[:1])(1000, seeded())
    assert not which.any() and toy.width(points) < 0.01
    far = (points - torch.tensor([-0.5, 0.5])).norm(dim=1)
    assert far.max() <= toy.LINE + 1e-6 and far.mean() == pytest.approx(toy.LINE / 2, rel=0.1)


def test_modes_are_counted_by_their_share():
    centres = toy.square(5)
    points = centres[list(toy.FIVE)].repeat(20, 1)
    assert toy.modes(points, centres) == (5, 1.0)
    assert toy.modes(torch.cat([points, centres[1:2]]), centres)[0] == 6  # a hundredth of the points, of 4 in a hundred
    assert toy.modes(torch.cat([points.repeat(2, 1), centres[1:2]]), centres)[0] == 5
    assert toy.modes(torch.cat([points, points + 10]), centres)[1] == 0.5


def test_it_repeats_and_is_drawn(tmp_path):
    results, shown = toy.run(TINY)
    assert toy.run(TINY)[0] == results
    assert set(results) == {"agnostic", "specific"} and list(results["specific"]) == ["0", "2"]
    assert results["agnostic"]["0"]["width of others"] == [1, 1, 1]
    assert [len(clouds[0]) for clouds in shown.values()] == [4, 1]
    assert toy.picture(shown, tmp_path / "toy.png").stat().st_size > 2000


def test_the_kept_results_are_of_these_sizes():
    kept = json.loads(toy.RESULTS.read_text())
    assert kept["sizes"] == json.loads(json.dumps(vars(toy.Sizes()))) and toy.PICTURE.is_file()
    assert all(list(steps) == [str(s) for s in toy.AT] for steps in kept["results"].values())
