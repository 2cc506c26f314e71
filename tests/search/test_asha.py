"""ASHA: its promotions by hand, with invented workers, in real searches, and continued after a cut."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from hyperpruning.report.page import write_report
from hyperpruning.report.run import read_run
from hyperpruning.report.series import bracket
from hyperpruning.report.status import line, status
from hyperpruning.search.actions import Abort, Finish, Record, Suggest, Train
from hyperpruning.search.brackets import asha_bracket
from hyperpruning.search.driver import search
from hyperpruning.search.executors import process_pool, workers_of
from hyperpruning.search.history import (
    DENSE,
    Candidate,
    Epoch,
    Failure,
    FinalResult,
    History,
    Promotion,
    Winner,
)
from hyperpruning.search.ledger import LEDGER, read
from hyperpruning.search.plan import Plan, recorded_plan
from hyperpruning.search.schedulers import decide, observations
from hyperpruning.search.space import SearchSpace
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.record import EpochRecord
from small import small

LOSSES = {"c01": 0.5, "c02": 0.4, "c03": 0.3, "c04": 0.6, "c05": 0.2, "c06": 0.1}


def plan(*, epochs=8, **settings):
    settings = {
        "n_candidates": 6,
        "ask_batch": 6,
        "scheduler": "asha",
        "reduction_factor": 2,
        "criteria": ("loss",),
        "as_many_weights": False,
    } | settings
    return Plan(
        task=None, dense_task=None, train=TrainConfig(epochs=epochs), space=SearchSpace({}), sparsity=0.5, **settings
    )


def facts(action, asked, history, loss=LOSSES.get, failing=()):
    match action:
        case Suggest():
            return [Candidate(name, action.batch, {}) for name in action.names]
        case Record():
            return [action.fact]
        case Finish():
            new = {c: name for c, name in action.winners.items() if c not in history.winners}
            return [Winner(criterion, name) for criterion, name in new.items()]
        case Train(network, until):
            if network in failing and until >= failing[network]:
                return [Failure(network, "the loss was nan")]
            known = history.epochs.get(network, {})
            new = [epoch for epoch in range(until + 1) if epoch not in known]
            value = loss(network) or 0.0
            found = [Epoch(network, EpochRecord(epoch, None, value, 4, {}, 0.0, spectrum=(value,))) for epoch in new]
            ended = until == asked.train.epochs and network not in history.finals
            return [*found, *([FinalResult(network, until, value, 0.5, 4, "")] if ended else [])]
    raise AssertionError(action)


def searched(asked, known=(), **how):
    """The facts of a search by one worker in order, when some are known; and the trainings."""
    history, found, trained = History(), list(known), []
    for fact in known:
        history.add(fact)
    while actions := decide(asked, history):
        for action in actions:
            if isinstance(action, Abort):
                return history, found, [*trained, action]
            if isinstance(action, Train):
                trained.append((action.network, action.until))
            for fact in facts(action, asked, history, **how):
                history.add(fact)
                found.append(fact)
    return history, found, trained


def test_the_promotions_of_a_small_search_by_hand():
    """Factor 2, rungs after 1 and 2 epochs: after each result, the best floor(n / 2) of the n at the rung are promoted.

    c02 is the best of two. c03 is the best of three, then the best of two at the next rung. c04 comes as the fourth
    and is not among the best two. c05 is in the best two of five, then the best of three. c06 is the best of six, then
    among the best two of four. c01 is the third of three and the fifth of six: it is never promoted.
    """
    asked = plan()
    assert (asked.rungs, asked.keep) == ((1, 2), (5, 4))
    history, _, trained = searched(asked)
    assert trained == [
        (DENSE, 2),
        *(("c01", 1), ("c02", 1), ("c02", 2)),
        *(("c03", 1), ("c03", 2), ("c03", 8)),
        ("c04", 1),
        *(("c05", 1), ("c05", 2), ("c05", 8)),
        *(("c06", 1), ("c06", 2), ("c06", 8)),
        (DENSE, 8),
    ]
    assert history.promotions == {("loss", 0): ("c02", "c03", "c05", "c06"), ("loss", 1): ("c03", "c05", "c06")}
    assert history.rounds["loss", 0].kept == ("c06", "c05", "c03", "c02")
    assert history.rounds["loss", 0].dropped == ("c01", "c04")
    assert (history.rounds["loss", 1].kept, history.rounds["loss", 1].dropped) == (("c06", "c05", "c03"), ("c02",))
    assert history.winners == {"loss": "c06"}


def test_a_search_that_was_cut_off_anywhere_continues_the_same():
    asked = plan(criteria=("loss", "first", "rank_sum"), ask_batch=2)
    whole = searched(asked)[1]
    for cut in range(len(whole)):
        assert searched(asked, whole[:cut])[1] == whole


@pytest.mark.parametrize("seed", range(20))
def test_invented_workers_of_any_speed(seed):
    """Each promotion is among the best of those that are there; nothing is trained twice; the search ends."""
    draw = random.Random(seed)
    asked = plan(
        epochs=draw.randint(5, 30),
        n_candidates=draw.randint(2, 30),
        ask_batch=draw.randint(1, 8),
        reduction_factor=draw.randint(2, 4),
        criteria=("loss", "first", "rank_sum")[: draw.randint(1, 3)],
    )
    workers, history, clock = draw.randint(1, 4), History(), 0.0
    losses = {name: draw.random() for name in [DENSE, *(f"c{number:02d}" for number in range(1, 31))]}
    failing = {name: draw.randint(1, 5) for name in losses if name != DENSE and draw.random() < 0.1}
    running: dict[str, tuple[float, Train]] = {}
    begun: set[tuple[str, int]] = set()
    while True:
        actions = decide(asked, history, list(running)) if len(running) < workers else []
        if actions and isinstance(actions[0], Abort):
            assert failing
            return
        new = [one for one in actions if not (isinstance(one, Train) and one.network in running)]
        for action in new:
            if isinstance(action, Train):
                assert (action.network, action.until) not in begun
                begun.add((action.network, action.until))
                running[action.network] = clock + draw.random(), action
            else:
                promoted = isinstance(action, Record) and isinstance(action.fact, Promotion)
                if promoted and running and "rank_sum" not in asked.criteria:
                    check_among_the_best(asked, history, action.fact)
                for fact in facts(action, asked, history):
                    history.add(fact)
        if new and len(running) < workers:
            continue
        if not running:
            break
        name = min(running, key=lambda one: running[one][0])
        clock, action = running.pop(name)
        for fact in facts(action, asked, history, losses.get, failing):
            history.add(fact)
    assert set(history.winners) == set(asked.criteria)
    assert decide(asked, history) == []
    assert history.trained_epochs() <= asked.most_epochs()


def check_among_the_best(asked, history, promotion):
    epoch = asked.rungs[promotion.round]
    before = history.promotions.get((promotion.criterion, promotion.round - 1), ())
    there = [name for name in (before if promotion.round else history.candidates) if history.trained(name) >= epoch]
    score = {"loss": lambda name: history.epochs[name][epoch].valid_loss, "first": str}[promotion.criterion]
    assert promotion.network in sorted(there, key=score)[: len(there) // asked.reduction_factor]


def test_finalists_that_fail_are_replaced():
    history, _, trained = searched(plan(), failing={"c03": 8, "c05": 8, "c06": 8})
    assert history.winners == {"loss": "c02"}
    assert trained[-2:] == [("c02", 8), (DENSE, 8)]


def test_a_search_without_any_candidate_left_says_why():
    *_, trained = searched(plan(), failing=dict.fromkeys(LOSSES, 1))
    assert "got failures of all that criterion 'loss' kept: the loss was nan" in trained[-1].reason


def test_the_sampler_does_not_hear_of_candidates_that_are_being_trained():
    asked = plan(ask_batch=3)
    history, found, _ = searched(asked)
    early = History()
    for fact in found[: found.index(Promotion("loss", 0, "c02"))]:
        early.add(fact)
    assert [score for _, score in observations(asked, early, 1)] == [0.5, 0.4]
    assert [score for _, score in observations(asked, history, 1)] == [0.5, 0.4, 0.3]


def test_the_most_that_can_be_promoted():
    """Losses that fall from candidate to candidate: from the third on, each is the best at its rung."""
    assert asha_bracket(27, 1, 30, 3).keep == (25, 23, 21)
    asked = plan(n_candidates=9, reduction_factor=3, epochs=10)
    history, *_ = searched(asked, loss=lambda name: 1.0 - int(name[1:]) / 10 if name != DENSE else 0.5)
    assert tuple(len(history.promotions["loss", number]) for number in (0, 1)) == asked.keep == (7, 5)
    assert history.trained_epochs() == asked.most_epochs()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"target_loss": 1.0}, 'target_loss must be left out with scheduler = "asha"'),
        ({"n_followed": 4}, 'n_followed must be 0 with scheduler = "asha"'),
    ],
)
def test_what_asha_cannot_do_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        plan(**settings)


class OneThread(ThreadPoolExecutor):
    workers = 1


def test_one_worker_has_the_ledger_of_a_search_in_process(text, tmp_path):
    changes = {"scheduler": "asha", "reduction_factor": 2, "n_candidates": 4, "criteria": ("loss", "ls")}
    asked = small(text, search=changes, training={"epochs": 3}).plan()
    history = search(asked, tmp_path / "here")
    with OneThread(1) as executor:
        assert workers_of(executor) == 1
        search(asked, tmp_path / "there", executor=executor)
    ledger = (tmp_path / "here" / LEDGER).read_bytes()
    assert (tmp_path / "there" / LEDGER).read_bytes() == ledger
    assert read(tmp_path / "here").promotions == history.promotions
    assert decide(recorded_plan(history.header.identity), history) == []
    assert write_report(tmp_path / "here").is_file()
    outcomes = [one.outcome for one in bracket(read_run(tmp_path / "here"), "loss")]
    assert outcomes.count("chosen") == 1
    assert "in" not in outcomes
    lines = ledger.splitlines(keepends=True)
    at = next(number for number, one in enumerate(lines) if json.loads(one)["kind"] == "promotion")
    (tmp_path / "here" / LEDGER).write_bytes(b"".join(lines[: at + 1]))
    assert status(tmp_path / "here").stage.startswith("ASHA: 2 of 4 candidates have reached the first rung, epoch 1")
    assert line(Promotion("loss", 0, "c02"), asked.metric) == "validation loss lets c02 train on from rung 1"
    search(asked, tmp_path / "here")
    assert (tmp_path / "here" / LEDGER).read_bytes() == ledger


@pytest.mark.slow
def test_two_processes_come_to_an_end_and_a_cut_ledger_too(tmp_path):
    from hyperpruning.testing.executor import _plan  # its task travels to other processes

    changes = {"scheduler": "asha", "reduction_factor": 2, "n_candidates": 6}
    asked = replace(_plan(), train=replace(_plan().train, epochs=5), **changes)
    with process_pool(2) as executor:
        assert workers_of(executor) == 2
        history = search(asked, tmp_path, executor=executor)
        assert decide(asked, history) == []
        lines = (tmp_path / LEDGER).read_bytes().splitlines(keepends=True)
        (tmp_path / LEDGER).write_bytes(b"".join(lines[: len(lines) // 2]))
        again = search(asked, tmp_path, executor=executor)
    assert set(again.winners) == set(asked.criteria)
