"""The trust of a report is the correlation of the first scores with later losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hyperpruning.report.page import report
from hyperpruning.report.run import read_run
from hyperpruning.report.trust import Trust, sentence, trust

Invent = Callable[..., Path]


def test_all_candidates_are_compared_with_the_end(train_all: Path) -> None:
    history = read_run(train_all).history
    found = trust(read_run(train_all))
    assert [each.criterion for each in found] == ["ls", "loss", "rank_sum"]
    for each in found:
        scores = history.rounds[each.criterion, 0].scores
        final = [history.finals[name].valid_loss for name in scores]
        assert each.rho == pytest.approx(stats.spearmanr(list(scores.values()), final).statistic)
        assert (each.epoch, each.later, each.n) == (2, 10, 12)


def test_of_a_usual_search_those_that_trained_on_are_compared(finished: Path) -> None:
    history = read_run(finished).history
    found = trust(read_run(finished))
    further = [name for name in history.candidates if history.trained(name) > 2]
    assert {each.n for each in found} == {len([name for name in further if history.trained(name) >= found[0].later])}
    text = sentence(found)
    assert text.startswith(
        f"Trust: how the scores after epoch 2 agree with the losses after epoch {found[0].later} (Spearman, "
    )
    assert f"{found[1].rho:+.2f}" in text
    assert text in report(finished).replace("\u00a0", " ")


def test_a_candidate_whose_records_a_damaged_ledger_lost_is_left_out(train_all: Path) -> None:
    run = read_run(train_all)
    lost = next(iter(run.history.rounds["ls", 0].scores))
    del run.history.epochs[lost], run.history.finals[lost]
    assert {each.n for each in trust(run)} == {11}


def test_intervals_and_differences_are_of_the_same_bootstrap_samples(train_all: Path) -> None:
    found = trust(read_run(train_all))
    low, high = np.nanquantile(found[0].draws, (0.025, 0.975))
    assert f"LS distance {found[0].rho:+.2f} ({low:+.2f} to {high:+.2f})" in sentence(found)
    assert low < found[0].rho < high


def invented(criterion: str, draws: list[float]) -> Trust:
    return Trust(criterion, 1, 10, draws[0], 12, np.array(draws))


def test_what_is_shown_and_what_is_not() -> None:
    good, bad = [0.8, 0.7, 0.9] * 50, [0.1, 0.0, 0.2] * 50
    assert "Shown by these candidates: validation loss better than LS distance." in sentence(
        [invented("ls", bad), invented("loss", good)]
    )
    assert "No criterion is shown to agree better" in sentence([invented("ls", bad), invented("loss", bad[::-1])])
    few = [Trust("ls", 1, 10, 0.5, 5), Trust("loss", 1, 10, None, 5)]
    assert sentence(few).endswith(
        "LS distance +0.50 and validation loss undefined; unrelated values exceed ±0.98 in 1 case of 20."
    )


def test_before_a_decision_there_is_none(invent: Invent) -> None:
    run = read_run(invent(until="pool"))
    assert trust(run) == []
    assert sentence([]) == ""
