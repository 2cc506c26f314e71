"""The trust of a report is the correlation of the first scores with later losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats

from hyperpruning.report.page import report
from hyperpruning.report.run import read_run
from hyperpruning.report.trust import sentence, trust

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


def test_before_a_decision_there_is_none(invent: Invent) -> None:
    run = read_run(invent(until="pool"))
    assert trust(run) == []
    assert sentence([]) == ""
