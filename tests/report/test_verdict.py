"""The verdict says who won, by how much, and what of it can be chance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hyperpruning.report.tables import Row
from hyperpruning.report.verdict import scatter, verdict
from hyperpruning.training.record import Metric


def row(label: str, network: str, test: float, criteria: tuple[str, ...] = (), **values: Any) -> Row:
    return Row(label, criteria, network, "none", 0.8, 20, 3, 5.0, test, metric=PERPLEXITY, **values)


PERPLEXITY = Metric("perplexity", "", "exp")
DENSE = row("dense", "dense", 4.54)
WHY = "the finalist with the lowest validation loss"
LSH = row("by LS distance", "c01", 4.60, ("ls",), spent=51, full=120, why=WHY)
SMALL = row("dense, as many weights", "small", 5.10)
LOSS = row("by validation loss", "c02", 4.70, ("loss",), spent=51, full=120)


def test_verdict_says_who_won_and_by_how_much() -> None:
    text = verdict([DENSE, SMALL, LSH, LOSS], ["Read this first."])
    first = f"Read this first. The winner is c01, selected by LS distance (test perplexity 4.60): {WHY}."
    assert text.startswith(first)
    assert (
        "better than a dense network with as many weights (20 of 20): test perplexity 4.60 against 5.10, 0.50" in text
    )
    assert (
        "winner by LS distance is better than the winner by validation loss: test perplexity 4.60 against 4.70" in text
    )
    assert "worse than the dense network: test perplexity 4.60 against 4.54, 0.06 higher" in text
    assert "51 epochs; all candidates to the end take 2.4 times as many, 120." in text
    assert "chance" in text


def test_verdict_of_a_metric_of_which_more_is_better() -> None:
    accuracy = Metric("accuracy", "%", None, maximize=True)
    text = verdict([replace(one, metric=accuracy) for one in (DENSE, LSH, LOSS)])
    assert "winner by LS distance is worse than the winner by validation loss: test accuracy 4.60 against 4.70" in text


def test_verdict_says_when_lsh_lost() -> None:
    text = verdict([DENSE, replace(LSH, test=4.8), LOSS])
    assert "worse than the winner by validation loss: test perplexity 4.80 against 4.70, 0.10 higher" in text


def test_verdict_says_when_there_is_no_difference() -> None:
    assert "selected the same network, c01" in verdict([DENSE, LSH, replace(LOSS, network="c01", why=WHY)])
    assert "as good as the winner by validation loss" in verdict([DENSE, LSH, replace(LOSS, test=4.6001)])


def test_verdict_joins_the_names_of_criteria() -> None:
    both = replace(LSH, label="by rank sum", criteria=("rank_sum",))
    text = verdict([DENSE, LSH, replace(both, label="by validation loss", criteria=("loss",)), both])
    assert "selected by LS distance, validation loss and rank sum (test" in text


def test_verdict_of_a_single_judge_and_of_a_place() -> None:
    text = verdict([DENSE, replace(LOSS, place=2, of=11, why=WHY)])
    assert text.startswith(f"The winner is c02, selected by validation loss (test perplexity 4.70): {WHY}.")
    assert "number 2 of 11" in text
    assert "51 of their 120 epochs, 2.4 times fewer, without the dense network" in text


def test_without_a_winner_there_is_none() -> None:
    assert "no winner yet" in verdict([])


def with_seeds(row: Row, *tests: float) -> Row:
    return replace(row, test=float(np.mean(tests)), tests=tests, valids=tests)


LSH_SEEDS = with_seeds(LSH, 4.58, 4.60, 4.62)
LOSS_SEEDS = with_seeds(LOSS, 4.56, 4.60, 4.67)


def test_the_scatter_is_pooled_over_networks_and_a_network_counts_once() -> None:
    again = replace(LSH_SEEDS, label="by rank sum", criteria=("rank_sum",))
    found = scatter([DENSE, SMALL, LSH_SEEDS, LOSS_SEEDS, again])
    assert found is not None
    squares = [np.var(row.tests, ddof=1) for row in (LSH_SEEDS, LOSS_SEEDS)]
    assert found.deviation == pytest.approx(math.sqrt(float(np.mean(squares))))
    assert (found.freedom, found.networks, found.seeds) == (4, 2, 6)
    half = stats.t.ppf(0.975, 4) * found.deviation
    assert found.half_width(LSH_SEEDS, LOSS_SEEDS) == pytest.approx(half * math.sqrt(2 / 3))
    assert found.half_width(LSH_SEEDS, DENSE) == pytest.approx(half * math.sqrt(4 / 3))
    assert scatter([DENSE, LSH, LOSS]) is None


def test_with_seeds_a_small_difference_is_said_to_be_none_and_a_large_one_has_an_interval() -> None:
    text = verdict([DENSE, SMALL, replace(LSH_SEEDS, seed_epochs=20), LOSS_SEEDS])
    assert "2.4 times as many, 120; further seeds of its finalists take 20 more." in text
    assert (
        "The winner by LS distance is not shown to differ from the winner by validation loss: test perplexity 4.60 "
        "against 4.61, 0.01 ± 0.09 lower." in text
    )
    assert "test perplexity 4.60 against 5.10, 0.50 ± 0.13 lower." in text
    assert "not shown to differ from the dense network" in text
    assert "the scatter over seeds in 6 trainings of 2 finalists" in text
    assert "small differences can be chance" not in text


def test_the_winner_is_compared_with_the_best_of_all() -> None:
    best = row("best of all", "c09", 4.58, spent=120, full=120, place=1, of=12)
    text = verdict([DENSE, replace(LSH_SEEDS, place=3, of=12), best])
    assert "It is not shown to differ from the best of all candidates, c09: test perplexity 4.60 against 4.58" in text
    assert "best of all" not in verdict([DENSE, replace(LSH_SEEDS, place=1, of=12), replace(best, network="c01")])
