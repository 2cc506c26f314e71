from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.report.run import in_words, read_run
from hyperpruning.report.tables import (
    correlations,
    evenly_spaced,
    results,
)
from hyperpruning.search.ledger import RunFolderError
from hyperpruning.search.ranking import spearman

Invent = Callable[..., Path]


def test_results_are_dense_and_a_choice_for_each_judge(finished: Path) -> None:
    rows = results(finished)
    history = read_run(finished).history
    assert [row.label for row in rows] == ["dense", "by LS distance", "by validation loss", "by rank sum"]
    assert [row.network for row in rows[1:]] == [history.winners[criterion] for criterion in ("ls", "loss", "rank_sum")]
    dense, chosen = rows[0], rows[1]
    assert (dense.sparsity, dense.method, dense.spent, dense.criteria) == (0, "none", None, ())
    assert chosen.sparsity == pytest.approx(1 - 8_000 / 40_000, abs=1e-15)
    assert chosen.test == pytest.approx(np.exp(history.finals[chosen.network].test_loss))
    assert chosen.spent == 12 * 2 + 6 * 1 + 3 * 7 == 51
    assert chosen.full == 120
    assert chosen.place is None  # not everybody was trained to the end


def test_place_and_best_of_the_pool_when_everybody_was_trained(train_all: Path) -> None:
    rows = {row.label: row for row in results(train_all)}
    finals = read_run(train_all).history.finals
    losses = sorted(final.valid_loss for name, final in finals.items() if name != "dense")
    chosen, best = rows["by LS distance"], rows["best of all"]
    assert chosen.of == len(losses) == 12
    assert losses[chosen.place - 1] == pytest.approx(np.log(chosen.valid))  # type: ignore[operator]
    assert (best.place, best.spent, best.full) == (1, 120, 120)


def test_those_that_diverged_do_not_stand_in_the_way_of_a_place(invent: Invent) -> None:
    rows = results(invent(train_all=True, failing=("c03", "c07")))
    assert {row.of for row in rows if row.place is not None} == {10}


@pytest.mark.parametrize("until", ["header", "pool", "rounds"])
def test_unfinished_searches_have_what_they_have(invent: Invent, until: str) -> None:
    folder = invent(until=until)
    assert results(folder) == []
    assert all(each.rho is None for each in correlations(folder))


def test_no_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        results(tmp_path)
    (tmp_path / "ledger.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="must begin with the settings"):
        results(tmp_path)


def test_correlations_agree_with_scipy(train_all: Path) -> None:
    run = read_run(train_all)
    finals = [run.history.finals[name].valid_loss for name in run.completed]
    found = {(each.predictor, each.epoch): each for each in correlations(train_all)}
    assert {epoch for _, epoch in found} == {0, 1, 2, 3}
    assert {predictor for predictor, _ in found} == {
        *(f"LS distance, {kind}" for kind in DISTANCES),
        "validation loss",
        "rank sum",
        "drop fraction",
    }
    losses = [run.history.epochs[name][2].valid_loss for name in run.completed]
    assert found["validation loss", 2].rho == pytest.approx(stats.spearmanr(losses, finals).statistic)
    assert found["validation loss", 2].n == 12
    scores = run.history.rounds["ls", 0].scores
    expected = stats.spearmanr([scores[name] for name in run.completed], finals).statistic
    assert found[f"LS distance, {run.plan.distance}", 2].rho == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_spearman_agrees_with_scipy_also_with_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one, two = generator.integers(0, 6, size=(2, 4 + seed)).astype(float)
    expected = stats.spearmanr(one, two).statistic if len(set(one)) > 1 and len(set(two)) > 1 else None
    assert spearman(one.tolist(), two.tolist()) == (None if expected is None else pytest.approx(expected, abs=1e-11))


def test_spearman_of_too_few_constant_or_infinite_values() -> None:
    assert spearman([1, 2, 3], [1, 2, 3]) is None
    assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert spearman([1, 2, 3, float("inf")], [1, 2, 3, 4]) == 1


def test_some_values_are_evenly_spread() -> None:
    assert evenly_spaced({3, 1, 2}, 8) == [1, 2, 3]
    assert evenly_spaced(set(range(100)), 4) == [0, 33, 66, 99]


def test_methods_in_words() -> None:
    assert in_words({"allocation": "er", "drop": "magnitude", "grow": "gradient", "decay": "linear"}) == (
        "er, magnitude, gradient, none, f = 0.5, decay = linear"
    )
    assert (
        in_words({"drop": "of another version", "drop_fraction": 0.3})
        == "drop = of another version, drop_fraction = 0.3"
    )
