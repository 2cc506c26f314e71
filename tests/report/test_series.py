from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyperpruning.report import series
from hyperpruning.report.run import read_run
from hyperpruning.report.tables import spearman

Invent = Callable[..., Path]


@pytest.mark.parametrize("judge", ["ls", "loss", "rank_sum"])
def test_the_bracket_is_as_long_as_the_search_costs(finished: Path, judge: str) -> None:
    run = read_run(finished)
    lines = series.bracket(run, judge)
    assert sum(line.until for line in lines) == run.search_epochs
    assert lines[0].network == run.history.winners[judge]
    assert [line.outcome for line in lines] == ["chosen"] + 2 * ["finalist"] + 9 * ["out"]
    assert [line.until for line in lines] == 3 * [10] + 3 * [3] + 6 * [2]
    first = run.history.rounds[judge, 0].dropped
    assert tuple(line.network for line in lines[-6:]) == first


def test_the_bracket_of_a_search_under_way(invent: Invent) -> None:
    lines = series.bracket(read_run(invent(until="pool", failing=("c02",))), "ls")
    assert {line.outcome for line in lines} == {"in", "failed"}
    assert lines[-1] == series.Line("c02", 1, "failed")


def test_a_bracket_ends_with_the_judge_and_not_with_the_training(train_all: Path) -> None:
    lines = series.bracket(read_run(train_all), "ls")
    assert sum(line.until for line in lines) == 51
    assert sum(line.final is not None for line in lines) == 3


def test_spectra_are_sorted_with_the_forgotten_last(finished: Path) -> None:
    run = read_run(finished)
    values = series.spectrum(run, "c05", 2)  # it has a dead unit
    assert values is not None
    assert values[-1] == -math.inf
    assert (np.diff(values[:-1]) <= 0).all()
    assert list(series.spectra(run, "dense")) == [0, 1, 2, 3]
    assert series.spectrum(run, "c05", 9) is None
    assert series.spectrum(run, "nobody", 0) is None


def test_the_lowest_drawn_exponent() -> None:
    usual = np.linspace(-1, -3, 200)
    assert series.lower_limit([usual]) == -3
    assert -4 < series.lower_limit([np.append(usual, [-40.0, -math.inf])]) < -3
    assert series.lower_limit([np.array([-math.inf])]) == -1


def test_scatter(train_all: Path) -> None:
    run = read_run(train_all)
    for judge in ("ls", "loss"):
        points = series.scatter(run, 2, judge)
        assert points is not None
        assert len(points.networks) == len(points.early) == len(points.final) == 12
        scores = run.history.rounds[judge, 0].scores
        expected = [scores[name] if judge == "ls" else math.exp(scores[name]) for name in points.networks]
        assert points.early == pytest.approx(expected)
    assert series.scatter(run, 9, "ls") is None  # spectra end with epoch 3


def test_scatter_needs_two(invent: Invent) -> None:
    assert series.scatter(read_run(invent(until="rounds")), 2, "loss") is None


def test_named_dots_do_not_cover_each_other() -> None:
    same = series.Scatter(2, ("a", "b", "c", "d", "e"), (1, 1, 1, 1, 2), (1, 1, 1, 1, 2), None)
    found = series.placed_labels(same, {"d"})
    assert found[0][0] == "d"
    assert len({(at, side) for _, at, side in found}) == len(found)


def test_chosen_dots_are_always_named() -> None:
    crowd = series.Scatter(2, tuple("abcdefgh"), (1,) * 8, (1,) * 8, None)
    names = [name for name, _, _ in series.placed_labels(crowd, set("fgh"))]
    assert set("fgh") <= set(names)


def test_densities(finished: Path) -> None:
    run = read_run(finished)
    found = series.densities(run, str(run.winner))
    assert found is not None
    assert found.values.shape == (len(found.rows), len(found.epochs)) == (10, 11)
    assert found.rows[:2] == ("encoder", "layer 1 input, i")
    assert found.churn == (0.1,) * len(found.epochs)
    assert found.ever_active == (0.5,) * len(found.epochs)
    assert series.densities(run, "dense") is None


@pytest.mark.parametrize(("count", "names"), [(1, ["head"]), (3, ["head, r", "head, z", "head, n"])])
def test_gate_names(count: int, names: list[str]) -> None:
    assert series.gate_names("head.weight", count) == names
    assert series.gate_names("x", 2) == ["x, 1", "x, 2"]


def test_extent_leaves_outliers_out() -> None:
    epochs, values = tuple(range(1, 101)), (1000.0, *(5.0 + epoch / 100 for epoch in range(2, 101)))
    low, top = series.y_limits([(epochs, values)], 1)
    assert low == pytest.approx(5.02)
    assert top < 7
    assert series.y_limits([], 1) == (1.0, 2.0)


def test_chance_is_about_right() -> None:
    generator = np.random.default_rng(0)
    drawn = [spearman(generator.normal(size=12).tolist(), list(range(12))) for _ in range(2000)]
    beyond = np.mean([abs(rho) > series.chance(12) for rho in drawn if rho is not None])
    assert beyond == pytest.approx(0.05, abs=0.02)
