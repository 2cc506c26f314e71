"""`decide`: what a search does next, on invented histories, without training."""

import random

import pytest

from hyperpruning.search.actions import Abort, Finish, Record, Suggest, Train
from hyperpruning.search.forecast import epochs_of_one_search, forecast
from hyperpruning.search.history import (
    DENSE,
    SMALL,
    Candidate,
    Epoch,
    Failure,
    FinalResult,
    History,
    SpaceExhausted,
    Winner,
)
from hyperpruning.search.plan import Plan, batches
from hyperpruning.search.schedulers import decide, observations, survivors
from hyperpruning.search.scoring import split_by_score
from hyperpruning.search.space import SearchSpace
from hyperpruning.search.validation import check_rounds
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.record import EpochRecord


def plan(*, epochs=6, **settings):
    settings = {"n_candidates": 5, "ask_batch": 3, "rungs": (1, 2), "keep": (3, 2)} | settings
    return Plan(
        task=None, dense_task=None, train=TrainConfig(epochs=epochs), space=SearchSpace({}), sparsity=0.5, **settings
    )


def record(draw, epoch):
    loss, spectrum = draw.random(), (draw.random(), draw.random())
    return EpochRecord(epoch, None, loss, 4, {}, 0.0, spectrum=spectrum, averaged_loss=draw.random())


def results(action, asked, history, draw, failing=()):
    """What came of an action, as facts."""
    match action:
        case Suggest():
            return [Candidate(name, action.batch, {"drop_fraction": draw.random()}) for name in action.names]
        case Record():
            return [action.fact]
        case Finish():
            return [Winner(criterion, name) for criterion, name in action.winners.items()]
        case Train():
            known = history.epochs.get(action.network, {})
            if action.network in failing and action.until > 1:
                return [Failure(action.network, "the loss was nan")]
            facts = [
                Epoch(action.network, record(draw, epoch)) for epoch in range(action.until + 1) if epoch not in known
            ]
            if action.until == asked.train.epochs:
                facts.append(FinalResult(action.network, 1, draw.random(), 0.5, 4, ""))
            return facts
    raise AssertionError(action)


def run_to_end(asked, seed=0, failing=()):
    """A whole invented search: its history, and the actions in order."""
    draw, history, taken = random.Random(seed), History(), []
    while actions := decide(asked, history):
        for action in actions:
            taken.append(action)
            if isinstance(action, Abort):
                return history, taken
            for fact in results(action, asked, history, draw, failing):
                history.add(fact)
    return history, taken


def test_a_search_goes_from_suggestions_to_winners():
    _, taken = run_to_end(plan())
    kinds = [type(action).__name__ for action in taken]
    assert [kind for number, kind in enumerate(kinds) if kind != (kinds[number - 1] if number else "")] == [
        *("Suggest", "Train", "Suggest", "Train"),  # two batches
        *("Record", "Train", "Record"),  # two rounds
        *("Train", "Finish"),
    ]
    assert taken[0] == Suggest(0, ("c01", "c02", "c03"))
    assert taken[1:5] == [Train(DENSE, 1), Train("c01", 1), Train("c02", 1), Train("c03", 1)]


def test_the_better_are_kept_and_ties_go_by_name():
    assert split_by_score({"c": 1.0, "a": 2.0, "b": 1.0, "d": 0.5}, 2) == (["d", "b"], ["c", "a"])


def test_decide_asked_ten_thousand_times_keeps_its_promises():
    """On histories cut off after any fact: no state, nobody eliminated is trained on, and it always comes to an end."""
    draw, asked_times = random.Random(1), 0
    while asked_times < 10_000:
        n_candidates = draw.randint(2, 8)
        keep = tuple(
            sorted(draw.sample(range(1, n_candidates), draw.randint(1, min(3, n_candidates - 1))), reverse=True)
        )
        rungs = tuple(sorted(draw.sample(range(7), len(keep))))
        asked = plan(
            epochs=draw.randint(7, 9),
            n_candidates=n_candidates,
            ask_batch=draw.randint(1, 4),
            rungs=rungs,
            keep=keep,
            criteria=tuple(draw.sample(["ls", "loss", "rank_sum"], draw.randint(1, 3))),
            train_all=draw.random() < 0.3,
        )
        failing = {name for names in batches(asked) for name in names if draw.random() < 0.1}
        history = History()
        while True:
            actions = decide(asked, history)
            assert actions == decide(asked, history)
            asked_times += 2
            if not actions or isinstance(actions[0], Abort):
                break
            assert len({type(action) for action in actions}) == 1 or isinstance(actions[-1], Abort)
            alive = {name for names in survivors(asked, history).values() for name in names}
            for action in actions:
                if isinstance(action, Train):
                    assert action.network not in history.failures
                    assert action.network in alive | {DENSE, SMALL} or asked.train_all
                if isinstance(action, Abort):
                    break
                facts = results(action, asked, history, draw, failing)
                for fact in facts[: draw.randint(1, len(facts))]:  # the rest is lost, as in a crash
                    history.add(fact)
        if actions:
            assert history.failures
        else:
            assert set(history.winners) == set(asked.criteria)
            for criterion, winner in history.winners.items():
                assert winner in history.rounds[criterion, len(keep) - 1].kept


def test_what_is_known_is_not_asked_for_again():
    asked = plan()
    history, _ = run_to_end(asked)
    assert decide(asked, history) == []
    del history.epochs["c02"][1]
    assert decide(asked, history) == [Train("c02", 1)]
    del history.candidates["c02"]
    assert decide(asked, history) == [Suggest(0, ("c02",))]


def test_a_dense_reference_that_failed_aborts():
    history = History()
    history.add(Failure(DENSE, "the loss was nan"))
    (abort,) = decide(plan(), history)
    assert abort.reason == "The dense reference must train without failure, got: the loss was nan"


def test_candidates_that_all_fail_abort():
    _, taken = run_to_end(plan(), failing={f"c0{number}" for number in range(1, 6)})
    assert isinstance(taken[-1], Abort)
    assert "got failures of all that criterion 'ls' kept: the loss was nan" in taken[-1].reason


def test_an_exhausted_space_goes_on_with_what_it_gave():
    asked, history = plan(), History()
    for number in (1, 2):
        history.add(Candidate(f"c0{number}", 0, {}))
    assert decide(asked, history) == [Suggest(0, ("c03",))]
    history.add(SpaceExhausted(2))
    assert decide(asked, history) == [Train(DENSE, 1), Train("c01", 1), Train("c02", 1)]


def test_the_sampler_learns_from_the_first_criterion_and_from_failures():
    asked = plan(criteria=("loss",))
    history, _ = run_to_end(asked, failing={"c02"})
    del history.epochs["c02"]
    observed = observations(asked, history, 1)
    assert [config for config, _ in observed] == [history.candidates[f"c0{number}"].config for number in (1, 2, 3)]
    assert [score for _, score in observed] == [
        history.epochs["c01"][1].valid_loss,
        float("inf"),
        history.epochs["c03"][1].valid_loss,
    ]
    assert observations(asked, history, 0) == []


def test_continued_epochs_are_counted_once():
    # the paper's figures (40 merged to 26 candidates): continuing from checkpoints
    rungs, keep = (3, 6, 9, 12, 15), (14, 8, 5, 3, 2)
    paper = plan(n_candidates=26, rungs=rungs, keep=keep, epochs=100)
    assert epochs_of_one_search(paper, "ls", 26) == 26 * 3 + 3 * (14 + 8 + 5 + 3) + 170
    demo = plan(n_candidates=12, rungs=(2, 3), keep=(5, 2), epochs=10)
    assert demo.most_epochs() - demo.dense_epochs == 12 * 3 + 6 * 7
    whole = plan(n_candidates=12, rungs=(2, 3), keep=(5, 2), epochs=10, train_all=True)
    assert whole.most_epochs() - whole.dense_epochs == 120


def test_a_forecast_ends_as_the_search_does():
    asked = plan()
    history, _ = run_to_end(asked)
    assert forecast(asked, history).trained_epochs() == history.trained_epochs()
    begun = forecast(asked, History())
    assert decide(asked, begun) == []
    one = epochs_of_one_search(asked, "ls", 5)
    assert one <= begun.trained_epochs(dense=False) <= asked.most_epochs()
    every = plan(train_all=True)
    assert forecast(every, History()).trained_epochs() == 7 * 6  # with both dense networks
    assert every.dense_epochs == 2 * 6


@pytest.mark.parametrize(
    ("rounds", "says"),
    [
        ({"n_candidates": 1, "rungs": (1,), "keep": (1,)}, "n_candidates must be at least 2, got 1"),
        ({"n_candidates": 6, "rungs": (1, 2), "keep": (3,)}, "one entry for each round, got 2 and 1"),
        ({"n_candidates": 6, "rungs": (), "keep": ()}, "one entry for each round"),
        ({"n_candidates": 6, "rungs": (2, 1), "keep": (4, 2)}, "rungs must increase"),
        ({"n_candidates": 6, "rungs": (2, 10), "keep": (4, 2)}, r"between 0 and epochs - 1 = 9, got \[2, 10\]"),
        ({"n_candidates": 6, "rungs": (1, 2), "keep": (3, 0)}, "at least 1 finalist, got"),
        ({"n_candidates": 6, "rungs": (1, 2), "keep": (6, 2)}, "keep must decrease from below n_candidates = 6"),
    ],
)
def test_rounds_that_cannot_be_held_are_refused(rounds, says):
    with pytest.raises(ValueError, match=says):
        check_rounds(**rounds, epochs=10)


def test_what_decide_remembers_changes_no_decision():
    """A copy of a history has no memo; distances, batches and epochs are then computed anew."""
    asked, draw, history = plan(n_candidates=7, ask_batch=2, criteria=("ls", "rank_sum")), random.Random(3), History()
    while actions := decide(asked, history):
        for action in actions:
            for fact in results(action, asked, history, draw, failing=("c03",)):
                history.add(fact)
                assert decide(asked, history) == decide(asked, history.copy())
    assert set(history.winners) == {"ls", "rank_sum"}
