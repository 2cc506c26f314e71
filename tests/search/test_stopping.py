"""Stopping rules: a target that is reached, and a choice that is clear, on invented histories."""

import json
import math
import random

import pytest

from hyperpruning.report.run import read_run
from hyperpruning.report.series import bracket
from hyperpruning.report.status import line, status
from hyperpruning.search.actions import Finish, Record, Suggest, Train
from hyperpruning.search.driver import search
from hyperpruning.search.forecast import forecast
from hyperpruning.search.history import (
    DENSE,
    Candidate,
    Epoch,
    Failure,
    FinalResult,
    History,
    Stopped,
    Winner,
    candidate_and_seed,
)
from hyperpruning.search.ledger import LEDGER, read
from hyperpruning.search.plan import Plan, recorded_plan
from hyperpruning.search.schedulers import decide
from hyperpruning.search.space import SearchSpace
from hyperpruning.search.stopping import choice_is_clear, tail_of_t
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.record import EpochRecord
from small import small

QUALITY = {"c01": 1.0, "c02": 1.1, "c03": 1.2, "c04": 1.3, "c05": 1.4}  # loss at the end; it falls by 0.5 per epoch


def plan(**settings):
    settings = {
        "n_candidates": 5,
        "ask_batch": 5,
        "rungs": (1,),
        "keep": (3,),
        "criteria": ("loss",),
        "as_many_weights": False,
    } | settings
    return Plan(
        task=None, dense_task=None, train=TrainConfig(epochs=6), space=SearchSpace({}), sparsity=0.5, **settings
    )


def facts(action, history, loss, failing=()):
    match action:
        case Suggest():
            return [Candidate(name, action.batch, {}) for name in action.names]
        case Record():
            return [action.fact]
        case Finish():
            return [Winner(criterion, name) for criterion, name in action.winners.items()]
        case Train(network, until):
            known = history.epochs.get(network, {})
            new = [epoch for epoch in range(until + 1) if epoch not in known]
            found = [Epoch(network, EpochRecord(epoch, None, loss(network, epoch), 4, {}, 0.0)) for epoch in new]
            if network in failing and until >= failing[network]:
                return [*found[:-1], Failure(network, "the loss was nan")]
            return [*found, *([FinalResult(network, until, loss(network, until), 0.5, 4, "")] if until == 6 else [])]
    raise AssertionError(action)


def falling(network, epoch):
    """The loss of a network after an epoch; the seeds of a candidate differ by 0.01."""
    name, seed = candidate_and_seed(network)
    return QUALITY.get(name, 0.9) + 0.5 * (6 - epoch) + 0.01 * (seed - 1)


def searched(asked, loss=falling, failing=None):
    history = History()
    while actions := decide(asked, history):
        for action in actions:
            for fact in facts(action, history, loss, failing or {}):
                history.add(fact)
    return history


def test_the_first_finalist_at_the_target_wins_and_the_others_stop():
    """c01 has the loss 1.0 + 0.5 * 2 = 2.0 after epoch 4; c02 and c03 have trained as long, and stop there."""
    history = searched(plan(target_loss=2.05))
    assert history.stops["loss"].network == history.winners["loss"] == "c01"
    assert history.stops["loss"].rule == "target_loss"
    assert history.stops["loss"].reason == (
        "The target is reached: the validation loss of c01 after epoch 4 is 2.0000 nats, at most target_loss 2.0500."
    )
    assert [history.trained(name) for name in ("c01", "c02", "c03", "c04")] == [6, 4, 4, 1]
    assert set(history.finals) == {DENSE, "c01"}


def test_the_loss_of_the_dense_network_can_be_the_target():
    history = searched(plan(target_loss="dense"), loss=lambda n, e: falling(n, e) - (0.25 if n == "c02" else 0))
    assert history.finals[DENSE].valid_loss == pytest.approx(0.9)
    assert history.winners["loss"] == "c02"
    assert "at most the dense network's 0.9000" in history.stops["loss"].reason


def test_a_target_that_nobody_reaches_changes_no_result():
    plain, never = searched(plan()), searched(plan(target_loss=0.5))
    assert not never.stops
    assert (never.winners, never.finals, never.epochs) == (plain.winners, plain.finals, plain.epochs)


def test_each_criterion_stops_for_itself():
    asked = plan(criteria=("loss", "first"), keep=(1,), target_loss=2.05)
    history = searched(asked, loss=lambda n, e: falling(n, e) - (0.6 if n == "c02" else 0))
    assert {criterion: found.network for criterion, found in history.stops.items()} == {"loss": "c02", "first": "c01"}
    assert [history.stops[one].reason.split("after epoch ")[1][0] for one in ("loss", "first")] == ["3", "4"]


def test_a_winner_by_target_that_fails_afterwards_gives_the_others_back():
    history = searched(plan(target_loss=2.05), failing={"c01": 6})
    assert history.failures == {"c01": "the loss was nan"}
    assert history.stops["loss"].network == history.winners["loss"] == "c02"


def test_a_clear_choice_saves_the_last_seeds():
    """What is left of c03 without the means of the finalists and of the seeds: -0.01 and 0.01; of the others half.

    So the squares are 2 * (0.01**2 + 2 * 0.005**2) = 0.0003 with 2 degrees of freedom, the error of a difference is
    sqrt(0.00015 * 2 / 2) = 0.01225, and t = 0.1 / 0.01225 = 8.2. At 2 degrees 10 % / (2 others * 2 times) is 4.3.
    """
    asked = plan(finalist_seeds=4, clear_level=0.1)
    history = searched(
        asked, loss=lambda n, e: falling(n, e) + (0.03 * (candidate_and_seed(n)[1] - 1) if "c03" in n else 0)
    )
    assert history.stops["loss"].reason == (
        "The choice is clear: after 2 seeds, the mean validation loss of c01 is 1.0050 nats and that of the next "
        "finalist, c02, 1.1050 (t = 8.2, level 0.1)."
    )
    assert history.winners == {"loss": "c01"}
    assert set(history.finals) == {DENSE, *("c01", "c02", "c03"), *("c01s2", "c02s2", "c03s2")}


def test_what_a_seed_adds_to_all_finalists_is_no_scatter():
    asked = plan(finalist_seeds=4, clear_level=0.01)
    history = searched(asked, loss=lambda n, e: falling(n, e) + 5 * (candidate_and_seed(n)[1] % 2))
    assert history.winners == {"loss": "c01"}
    assert "after 2 seeds" in history.stops["loss"].reason


def test_a_choice_within_the_scatter_takes_all_seeds():
    history = searched(
        plan(finalist_seeds=4, clear_level=0.05), loss=lambda n, e: falling(n, e) + random.Random(n).random()
    )
    assert not history.stops
    assert len(history.finals) == 1 + 3 * 4


def test_equal_finalists_are_seldom_told_apart():
    """The stated level: of 1000 searches with three equal finalists, the one named best loses in at most 5 %."""
    draw, asked, lost = random.Random(0), plan(finalist_seeds=4, clear_level=0.05), 0
    for _ in range(1000):
        history = History()
        for name in ("c01", "c02", "c03"):
            for network in (name, f"{name}s2", f"{name}s3"):
                history.add(FinalResult(network, 6, draw.gauss(1.0, 0.1), 0.5, 4, ""))
        found = [choice_is_clear(asked, history, "loss", ("c01", "c02", "c03"), seeds) for seeds in (2, 3)]
        lost += any(one is not None and one.network != "c01" for one in found)
    assert lost <= 50


@pytest.mark.parametrize(
    ("freedom", "statistic", "tail"),
    [(1, 6.314, 0.05), (2, 4.303, 0.025), (3, 4.541, 0.01), (5, 2.015, 0.05), (10, 3.169, 0.005), (30, 1.697, 0.05)],
)
def test_the_tail_of_t_is_that_of_the_tables(freedom, statistic, tail):
    """Percentage points of Student's t to three decimals, as every table of it has them."""
    assert tail_of_t(statistic, freedom) == pytest.approx(tail, rel=2e-3)
    assert tail_of_t(-statistic, freedom) == pytest.approx(1 - tail, rel=2e-3)


def test_finalists_without_any_scatter():
    history = History()
    for name, loss in (("c01", 1.0), ("c02", 1.0), ("c03", 1.1)):
        for network in (name, f"{name}s2"):
            history.add(FinalResult(network, 6, loss, 0.5, 4, ""))
    asked = plan(finalist_seeds=3, clear_level=0.05)
    assert choice_is_clear(asked, history, "loss", ("c01", "c02"), 2) is None  # equal
    assert choice_is_clear(asked, history, "loss", ("c01", "c03"), 2).network == "c01"
    assert choice_is_clear(asked, history, "loss", ("c01",), 2) is None  # nothing to choose


def test_a_forecast_reckons_without_stops():
    asked = plan(target_loss=100.0)
    assert forecast(asked, History()).trained_epochs() == 6 + 5 * 1 + 3 * 5


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"target_loss": "dens"}, "target_loss must be a finite number or \"dense\", got 'dens'"),
        ({"target_loss": math.nan}, "target_loss must be a number or a string, got nan"),
        ({"clear_level": 0.05}, "finalist_seeds must be at least 3 with clear_level, got 1"),
        ({"clear_level": 0.5, "finalist_seeds": 3}, "clear_level must be above 0 and below 0.5, got 0.5"),
    ],
)
def test_rules_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        plan(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_loss": 2.05, "criteria": ("loss", "first"), "keep": (2,)},
        {"target_loss": "dense"},
        {"finalist_seeds": 4, "clear_level": 0.05},
    ],
)
def test_a_search_that_was_cut_off_anywhere_stops_as_the_whole_one(settings):
    """Cut off after each of its facts, and continued: the same facts in the same order."""
    asked = plan(**settings)
    whole = told(asked)  # the dense network ends at 1.05 here
    assert any(isinstance(fact, Stopped) for fact in whole)
    for cut in range(len(whole)):
        assert told(asked, whole[:cut]) == whole


def told(asked, known=()):
    """The facts of a search in order, when some are known."""
    history, found = History(), list(known)
    for fact in known:
        history.add(fact)
    while actions := decide(asked, history):
        for action in actions:
            for fact in facts(action, history, lambda n, e: falling(n, e) + 0.15 * (n == DENSE)):
                if not (isinstance(fact, Winner) and fact.criterion in history.winners):
                    history.add(fact)
                    found.append(fact)
    return found


def test_a_real_search_says_why_it_stopped_and_stops_again(text, tmp_path):
    asked = small(text, search={"target_loss": 3.0, "criteria": ("loss",)}).plan()
    history = search(asked, tmp_path)
    (stop,) = history.stops.values()
    assert read(tmp_path).stops == history.stops
    assert recorded_plan(history.header.identity).target_loss == 3.0
    assert stop.reason in status(tmp_path).notes
    assert status(tmp_path).finished
    assert line(stop, asked.metric) == f"{stop.reason} The other finalists of validation loss stop"
    outcomes = {one.network: one.outcome for one in bracket(read_run(tmp_path), "loss")}
    assert sorted(outcomes.values()) == ["chosen", "out", "out", "out", "out"]
    whole = (tmp_path / LEDGER).read_bytes().splitlines(keepends=True)
    (at,) = [number for number, one in enumerate(whole) if json.loads(one)["kind"] == "stop"]
    (tmp_path / LEDGER).write_bytes(b"".join(whole[: at - 1]))
    search(asked, tmp_path)
    assert (tmp_path / LEDGER).read_bytes() == b"".join(whole)


def test_a_copy_has_the_stops():
    history = History()
    history.add(Stopped("loss", "target_loss", "c09", "It is reached."))
    assert history.copy().stops == history.stops
