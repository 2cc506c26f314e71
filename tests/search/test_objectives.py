"""Several objectives: what a rung keeps, what the sampler is told, and one search over several sparsities."""

import json
import math
from collections import Counter

import pytest
from optuna.samplers import RandomSampler

from hyperpruning.search.actions import Finish, Record, Suggest, Train
from hyperpruning.search.driver import search
from hyperpruning.search.finalists import winner
from hyperpruning.search.history import Candidate, Epoch, Failure, FinalResult, History, Winner
from hyperpruning.search.ledger import LEDGER, read
from hyperpruning.search.pareto import split_by_fronts
from hyperpruning.search.plan import Plan, recorded_plan
from hyperpruning.search.samplers import SAMPLERS, suggest
from hyperpruning.search.schedulers import decide, observations
from hyperpruning.search.space import SearchSpace
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.record import EpochRecord
from small import small, write_text

SPARSITIES = (0.67, 0.8, 0.9)
LOSS = {"dense": 0.9, "c01": 1.0, "c02": 1.1, "c03": 1.3, "c04": 1.2, "c05": 1.6, "c06": 1.5}
ACTIVE = {"dense": 100, "c01": 33, "c02": 33, "c03": 20, "c04": 20, "c05": 10, "c06": 10}
OF = {33: 0.67, 20: 0.8, 10: 0.9}


def plan(**settings):
    settings = {
        "n_candidates": 6,
        "ask_batch": 3,
        "rungs": (1, 2),
        "keep": (3, 2),
        "criteria": ("loss",),
        "objectives": ("loss", "active"),
        "as_many_weights": False,
        "space": SearchSpace({"sparsity": SPARSITIES}),
    } | settings
    return Plan(task=None, dense_task=None, train=TrainConfig(epochs=4), **settings)


def facts(action, history, failing=()):
    match action:
        case Suggest():
            return [Candidate(name, action.batch, {"sparsity": OF[ACTIVE[name]]}) for name in action.names]
        case Record():
            return [action.fact]
        case Finish():
            return [Winner(criterion, name) for criterion, name in action.winners.items()]
        case Train(network, until):
            if network in failing:
                return [Failure(network, "the loss was nan")]
            loss, active, known = LOSS[network], ACTIVE[network], history.epochs.get(network, {})
            new = [epoch for epoch in range(until + 1) if epoch not in known]
            found = [Epoch(network, EpochRecord(epoch, None, loss, active, {}, 0.0)) for epoch in new]
            return [*found, *([FinalResult(network, 4, loss, loss, active, "")] if until == 4 else [])]
    raise AssertionError(action)


def searched(asked, known=(), failing=()):
    """The facts of a search in order, when some are known."""
    history, found = History(), list(known)
    for fact in known:
        history.add(fact)
    while actions := decide(asked, history):
        for action in actions:
            for fact in facts(action, history, failing):
                history.add(fact)
                found.append(fact)
    return history, found


def test_a_rung_keeps_the_best_fronts_of_score_and_active_weights():
    history, _ = searched(plan())
    first, second = history.rounds["loss", 0], history.rounds["loss", 1]
    assert first.kept == ("c01", "c06", "c04")  # the frontier: the best of each sparsity, its ends first
    assert first.dropped == ("c02", "c05", "c03")  # the next front
    assert second.kept == ("c01", "c06")
    assert first.scores == {name: LOSS[name] for name in sorted(LOSS) if name != "dense"}
    alone, _ = searched(plan(objectives=("loss",)))
    assert alone.rounds["loss", 0].kept == ("c01", "c02", "c04")
    assert alone.rounds["loss", 1].kept == ("c01", "c02")


@pytest.mark.parametrize("settings", [{}, {"scheduler": "halving", "reduction_factor": 2}, {"scheduler": "hyperband"}])
def test_the_winner_is_the_finalist_with_the_lowest_loss(settings):
    asked = plan(**settings)
    history, _ = searched(asked)
    finalists = {name: final.valid_loss for name, final in history.finals.items() if name != "dense"}
    assert settings or len({ACTIVE[name] for name in finalists}) > 1
    assert winner(asked, history) == min(finalists, key=finalists.get)


def test_decisions_are_those_of_the_fronts_at_the_rung():
    history, _ = searched(plan(criteria=("loss", "min_loss"), keep=(4, 2)))
    for decision in history.rounds.values():
        active = {name: history.epochs[name][decision.epoch].active for name in decision.scores}
        kept, dropped = split_by_fronts(decision.scores, active, len(decision.kept))
        assert (list(decision.kept), list(decision.dropped)) == (kept, dropped)


@pytest.mark.parametrize("failing", [(), ("c01", "c05")])
def test_a_search_that_was_cut_anywhere_goes_on_to_the_same_facts(failing):
    asked = plan()
    _, whole = searched(asked, failing=failing)
    for cut in range(len(whole)):
        history, again = searched(asked, whole[:cut], failing)
        assert Counter(map(repr, again)) == Counter(map(repr, whole)), cut
        assert again[:cut] == whole[:cut]
        assert winner(asked, history) == ("c02" if failing else "c01")


def test_the_sampler_is_told_score_and_active_weights():
    asked = plan()
    history, _ = searched(asked, failing=("c02",))
    assert [values for _, values in observations(asked, history, 1)] == [(1.0, 33.0), (math.inf, math.inf), (1.3, 20.0)]
    assert [values for _, values in observations(plan(objectives=("loss",)), history, 1)] == [1.0, math.inf, 1.3]


SPACE = SearchSpace({f"task.size{number}": tuple(range(50)) for number in range(8)})


@pytest.mark.parametrize("n_objectives", [1, 2])
def test_nsga2_breeds_from_the_best(n_objectives):
    observed = suggest(SPACE, [], sampler=SAMPLERS["random"], seed=0, count=12)

    def bred(good):
        scored = [(config, 1.0 if place in good else 9.0 + place) for place, config in enumerate(observed)]
        values = [(config, score if n_objectives == 1 else (score, 1.0)) for config, score in scored]
        found = suggest(SPACE, values, sampler=SAMPLERS["nsga2"], seed=1, count=4, n_objectives=n_objectives)
        parents = {name: {observed[place][name] for place in good} for name in SPACE.dimensions}
        return sum(config[name] in parents[name] for config in found for name in parents)

    assert min(bred((0, 1, 2, 3)), bred((8, 9, 10, 11))) >= 24  # of 32 values; one of 8 is a mutation


class OneObjective(RandomSampler):
    def sample_relative(self, study, trial, search_space):
        if len(study.directions) > 1:
            raise ValueError("one direction is supported")
        return {}


def test_a_sampler_for_one_objective_is_named():
    for n_objectives in (1, 2):
        arguments = {"sampler": lambda seed, n, space: OneObjective(), "seed": 0, "count": 2}
        if n_objectives == 1:
            assert len(suggest(SPACE, [], **arguments)) == 2
            continue
        with pytest.raises(ValueError, match=r"must take several objectives, got OneObjective \(one direction"):
            suggest(SPACE, [], **arguments, n_objectives=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "asha"}, 'objectives must be ."loss". with scheduler = "asha"'),
        ({"space": SearchSpace({"drop_fraction": (0.3, 0.5)})}, "must have the dimension sparsity or one of the task"),
        (
            {"objectives": ("loss", "speed")},
            "objectives must be one of loss, active, .* got 'speed'",
        ),
        ({"objectives": ("active",)}, r"objectives must be \['loss'\], or loss and one of .*, got \['active'\]"),
        ({"objectives": ()}, r"objectives must be .* got \[\]"),
    ],
)
def test_what_cannot_be_weighed_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        plan(**settings)


def test_objectives_are_read_from_a_ledger_and_older_ledgers_have_none(text):
    space = {"sparsity": SPARSITIES}
    asked = small(text, search={"objectives": ("loss", "active")}, space=space).plan()
    identity = json.loads(json.dumps(asked.identity()))
    assert identity["objectives"] == ["loss", "active"]
    assert recorded_plan(identity).objectives == ("loss", "active")
    assert "objectives" not in small(text, space=space).plan().identity()


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A search over three sparsities, which must not train more than one dense network."""
    settings = {"n_candidates": 6, "ask_batch": 3, "rungs": (1,), "keep": (3,), "criteria": ("loss", "ls")}
    experiment = small(
        write_text(tmp_path_factory.mktemp("text")),
        training={"epochs": 2},
        search=settings | {"objectives": ("loss", "active"), "sampler": "nsga2"},
        space={
            "sparsity": SPARSITIES,
            "drop_fraction": {"low": 0.3, "high": 0.7, "step": 0.2},
            "fixed": [{"sparsity": sparsity, "drop_fraction": 0.5} for sparsity in SPARSITIES],
        },
    )
    return experiment.plan()


def test_one_search_over_several_sparsities_shares_its_dense_network(asked, tmp_path):
    found = []
    history = search(asked, tmp_path / "whole", on_fact=found.append)
    dense = [fact.record.epoch for fact in found if isinstance(fact, Epoch) and fact.network == "dense"]
    assert dense == [0, 1, 2]
    assert {candidate.config["sparsity"] for candidate in history.candidates.values()} == set(SPARSITIES)
    prunable = history.epochs["dense"][0].active
    for name, candidate in history.candidates.items():
        expected = prunable - round(candidate.config["sparsity"] * prunable)
        assert all(abs(record.active - expected) <= 1 for record in history.epochs[name].values())
    for decision in history.rounds.values():
        active = {name: history.epochs[name][decision.epoch].active for name in decision.scores}
        assert list(decision.kept) == split_by_fronts(decision.scores, active, 3)[0]

    class Killed(Exception):
        pass

    def kill(fact):
        if isinstance(fact, Candidate) and fact.name == "c05":
            raise Killed

    with pytest.raises(Killed):
        search(asked, tmp_path / "killed", on_fact=kill)
    search(asked, tmp_path / "killed")
    assert (tmp_path / "killed" / LEDGER).read_bytes() == (tmp_path / "whole" / LEDGER).read_bytes()
    assert read(tmp_path / "killed").winners == history.winners
