"""Halving, Hyperband, a budget of epochs, and several seeds of the finalists."""

import pytest

from hyperpruning.report import tables
from hyperpruning.report.page import write_report
from hyperpruning.report.status import status
from hyperpruning.report.verdict import verdict
from hyperpruning.search.brackets import Bracket, halving_rungs, hyperband_brackets
from hyperpruning.search.driver import search
from hyperpruning.search.finalists import mean_loss, winner
from hyperpruning.search.forecast import forecast
from hyperpruning.search.history import History, candidate_and_seed
from hyperpruning.search.ledger import read
from hyperpruning.search.plan import recorded_plan, seed_names
from hyperpruning.search.schedulers import decide, survivors
from small import small


def test_halving_keeps_the_best_part_and_trains_it_longer():
    assert halving_rungs(64, 1, 100, 4) == Bracket(0, 64, (1, 4, 16), (16, 4, 1))
    assert halving_rungs(5, 2, 10, 2) == Bracket(0, 5, (2, 4), (2, 1))


def test_hyperband_has_the_brackets_of_its_paper():
    """Table 1 of Li et al. 2018: R = 81, eta = 3; 81, 27 (34 there: more than the budget), 9, ... configurations."""
    found = hyperband_brackets(143, 1, 81, 3)
    assert [one.count for one in found] == [81, 34, 15, 8, 5]
    assert [one.rungs for one in found] == [(1, 3, 9, 27), (3, 9, 27), (9, 27), (27,), ()]
    assert [one.keep for one in found] == [(27, 9, 3, 1), (11, 3, 1), (5, 1), (2,), ()]
    assert [one.first for one in found] == [0, 81, 115, 130, 138]
    assert [one.first_round for one in found] == [0, 4, 7, 9, 10]


@pytest.mark.parametrize("count", range(2, 30))
def test_hyperband_uses_every_candidate_once(count):
    found = hyperband_brackets(count, 1, 27, 3)
    assert [one.first for one in found] == [sum(one.count for one in found[:i]) for i in range(len(found))]
    assert sum(one.count for one in found) == count


@pytest.mark.parametrize("scheduler", ["halving", "hyperband", "asha"])
def test_whole_searches(text, tmp_path, scheduler):
    plan = small(text, search={"scheduler": scheduler, "reduction_factor": 2, "n_candidates": 6}).plan()
    history = search(plan, tmp_path)
    assert decide(plan, history) == []
    assert winner(plan, history) in history.winners.values()
    read_again = recorded_plan(read(tmp_path).header.identity)
    assert decide(read_again, history) == []
    assert (read_again.rungs, read_again.keep) == (plan.rungs, plan.keep)
    assert history.trained_epochs() <= plan.most_epochs()
    rungs_and_keep = {"halving": ((1, 2), (3, 1)), "hyperband": ((1, 2), (5, 4)), "asha": ((1, 2), (5, 4))}
    assert (plan.rungs, plan.keep) == rungs_and_keep[scheduler]


@pytest.mark.parametrize("scheduler", ["rounds", "halving", "hyperband", "asha"])
@pytest.mark.parametrize("budget", [40, 60, 100])
def test_a_budget_is_respected_to_the_epoch(text, scheduler, budget):
    changes = {"scheduler": scheduler, "max_epochs": budget, "n_candidates": 60, "criteria": ("ls", "loss")}
    plan = small(text, search=changes).plan()
    assert plan.most_epochs() <= budget
    assert plan.n_candidates == 60 or plan.most_epochs(plan.n_candidates + 1) > budget
    assert forecast(plan, History()).trained_epochs() <= budget


def test_a_budget_that_is_too_small_says_the_minimum(text):
    with pytest.raises(ValueError, match=r"max_epochs must be at least (\d+) for one search of 4 candidates") as e:
        small(text, search={"max_epochs": 3}).plan()
    least = int(str(e.value).split("at least ")[1].split()[0])
    assert small(text, search={"max_epochs": least}).plan().n_candidates == 4


def test_finalists_are_trained_with_several_seeds_and_the_mean_decides(text, tmp_path):
    plan = small(text, search={"finalist_seeds": 3}).plan()
    history = search(plan, tmp_path)
    finalists = {name for names in survivors(plan, history).values() for name in names}
    for name in finalists:
        losses = [history.finals[one].valid_loss for one in seed_names(plan, name)]
        assert len(set(losses)) == 3
        assert mean_loss(plan, history, name) == pytest.approx(sum(losses) / 3)
    best = {c: min(names, key=lambda n: mean_loss(plan, history, n)) for c, names in survivors(plan, history).items()}
    assert history.winners == best
    assert history.trained_epochs() <= plan.most_epochs()
    assert read(tmp_path).finals == history.finals
    row = next(row for row in tables.results(tmp_path) if row.network == history.winners["loss"])
    low, high = min(row.valids), max(row.valids)
    assert low < row.valid < high
    (cell,) = [text for text in tables.cells(row) if text.startswith(f"{row.valid:.2f} (")]
    assert cell == f"{row.valid:.2f} ({low:.2f} to {high:.2f})"
    assert "means over seeds" in verdict(tables.results(tmp_path))
    assert "means over seeds" in write_report(tmp_path).read_text()
    assert {network.name for network in status(tmp_path).networks} == {"dense", *history.candidates}


def test_names_of_seeds():
    assert candidate_and_seed("dense") == ("dense", 1)
    assert candidate_and_seed("small") == ("small", 1)
    assert candidate_and_seed("c12s10") == ("c12", 10)
