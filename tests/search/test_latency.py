"""A latency target: measured times -> weights of each tensor -> how a candidate is trained."""

import itertools
import json
import pickle
from dataclasses import replace

import pytest

from hyperpruning.search.configured import configured, constrained, timed
from hyperpruning.search.history import Candidate, Epoch, History
from hyperpruning.search.latency import StepTimes, target_microseconds
from hyperpruning.search.plan import Plan, recorded_plan
from hyperpruning.search.scoring import cost_at
from hyperpruning.search.space import SearchSpace
from hyperpruning.search.validation import validate
from hyperpruning.sparsity.parameter import GRANULARITIES
from hyperpruning.sparsity.serialization import from_config, to_config
from hyperpruning.sparsity.spdy import geometric_levels, quadratic_errors
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.record import EpochRecord
from small import small, write_text

WEIGHTS = {"embedding": [50, 5, 1], "a": [1000, 100, 10], "b": [400, 40, 4]}
TIMES = StepTimes(
    "exact",
    2.0,
    WEIGHTS,
    {
        "weight": {"a": [10.0, 4.0, 1.0], "b": [4.0, 2.0, 1.0]},
        "block_8x4": {"a": [10.0, 2.0, 0.5], "b": [4.0, 1.0, 0.5]},
    },
)
BLOCK = GRANULARITIES["block_8x4"]


def test_times_are_linear_between_two_levels():
    assert TIMES.dense == 16.0
    assert (TIMES.floor(), TIMES.floor(BLOCK)) == (4.0, 3.0)
    assert TIMES.predicted({"embedding": 50, "a": 1000, "b": 400}) == 16.0
    assert TIMES.predicted({"embedding": 1, "a": 55, "b": 4}) == 2.0 + 2.5 + 1.0
    assert TIMES.predicted({"embedding": 1, "a": 100, "b": 40}, BLOCK) == 2.0 + 2.0 + 1.0
    assert TIMES.predicted({"embedding": 1, "a": 100, "b": 40}, GRANULARITIES["row"]) == 2.0 + 4.0 + 2.0


@pytest.mark.parametrize("target", [4.1, 6.5, 9.0, 13.0, 16.0])
@pytest.mark.parametrize("granularity", ["weight", "block_8x4"])
def test_the_weights_are_the_best_that_meet_the_target(target, granularity):
    kind = GRANULARITIES[granularity]
    found = TIMES.within(target, kind)
    assert found["embedding"] == 50  # it is looked up
    assert TIMES.predicted(found, kind) <= target + 1e-9
    levels = geometric_levels({"a": 1000, "b": 400})
    errors = quadratic_errors(levels)
    sums = {
        (a, b): errors["a"][i] + errors["b"][j]
        for (i, a), (j, b) in itertools.product(enumerate(levels["a"]), enumerate(levels["b"]))
        if TIMES.predicted({"embedding": 50, "a": a, "b": b}, kind) <= target - 1e-3  # the width of a bucket
    }
    chosen = errors["a"][levels["a"].index(found["a"])] + errors["b"][levels["b"].index(found["b"])]
    assert chosen <= min(sums.values()) + 1e-12


def test_blocks_get_more_weights_than_single_ones_at_the_same_target():
    assert sum(TIMES.within(6.0, BLOCK).values()) > sum(TIMES.within(6.0).values())


def test_a_target_is_a_part_of_the_dense_step_or_microseconds():
    assert target_microseconds("0.5x", TIMES) == 8.0
    assert target_microseconds("7.5us", TIMES) == target_microseconds("7.5 us", TIMES) == 7.5


@pytest.mark.parametrize("latency", ["0.3", "x", "0us", "-1us", "3ms", "1..2x", "", "nanx"])
def test_no_target(latency):
    with pytest.raises(ValueError, match="latency must be"):
        Plan(task=None, dense_task=None, train=TrainConfig(epochs=4), space=SearchSpace({}), latency=latency)


def test_a_target_below_the_floor_says_the_floor():
    with pytest.raises(ValueError, match=r"at least 4 us \(0.25x\) here, .* with 1% .*, got 3.9 us"):
        TIMES.within(3.9)


def test_other_times_are_refused():
    with pytest.raises(ValueError, match="one time for each level"):
        replace(TIMES, products={**TIMES.products, "weight": {"a": [1.0], "b": [4.0, 2.0, 1.0]}})
    with pytest.raises(ValueError, match="Step times must be of weight, block_8x4, got weight"):
        replace(TIMES, products={"weight": TIMES.products["weight"]})
    with pytest.raises(TypeError, match="rest must be float"):
        replace(TIMES, rest="2")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    experiment = small(
        write_text(tmp_path_factory.mktemp("text")),
        pruning={"latency": "0.5x"},
        space={"granularity": ("weight", "block_8x4"), "redistribute": ("none", "nonzeros")},
    )
    return experiment.plan()


def times_of(plan):
    """Invented times of the network of a plan: a nanosecond for each weight, half of it in blocks."""
    network = plan.task.network(0)
    sizes = {name: one.numel() for name, one in network.named_parameters() if one.ndim == 2}
    weights = {name: [size, size // 10, max(1, size // 100)] for name, size in sizes.items()}
    matrices = [name for name in sizes if name != "encoder.weight"]
    products = {name: [count / 1000 for count in weights[name]] for name in matrices}
    halves = {name: [first, *(time / 2 for time in rest)] for name, (first, *rest) in products.items()}
    return StepTimes("exact", 0.1, weights, {"weight": products, "block_8x4": halves})


def test_a_candidate_is_trained_with_the_weights_that_the_target_leaves(plan):
    found = timed(plan, times_of(plan))
    assert "allocation" not in found.space.dimensions
    single, blocks = (configured(found, {"granularity": name}) for name in ("weight", "block_8x4"))
    counts = found.step_times.within(found.step_times.dense / 2)
    assert single.method.allocation.keywords == {"counts": counts}
    assert single.sparsity == found.sparsity == 1 - sum(counts.values()) / sum(w[0] for w in weights_of(found))
    assert blocks.sparsity < single.sparsity
    validate(found)
    moving = {"granularity": "weight", "redistribute": "nonzeros"}
    assert not constrained(found).is_valid(moving)
    with pytest.raises(ValueError, match=r"keep the number of weights of each tensor with a latency target"):
        configured(found, moving)


def weights_of(plan):
    return plan.step_times.weights.values()


def test_a_plan_with_times_is_read_from_a_ledger_and_older_ledgers_have_none(plan):
    found = timed(plan, times_of(plan))
    identity = json.loads(json.dumps(found.identity()))
    again = recorded_plan(identity)
    assert (again.latency, again.step_times) == ("0.5x", found.step_times)
    older = small(plan.task.folder).plan().identity()
    assert not {"latency", "latency_precision", "step_times"} & older.keys()
    assert pickle.loads(pickle.dumps(found.step_times)) == found.step_times
    with pytest.raises(ValueError, match="must be those of this version"):
        recorded_plan(identity | {"step_times": {"precision": "exact"}})


def test_what_does_not_fit_a_latency(plan, tmp_path):
    with pytest.raises(ValueError, match=r"must have step_times here, got None\. Call hp\.hyperprune"):
        validate(plan)
    with pytest.raises(ValueError, match="sparsity must not be in the search space with a latency target"):
        timed(replace(plan, space=SearchSpace({"sparsity": (0.5, 0.8)})), times_of(plan))
    sizes = replace(plan, space=SearchSpace({"drop_fraction": (0.2, 0.3, 0.4, 0.5, 0.6), "task.hidden": (8, 9)}))
    with pytest.raises(ValueError, match="All networks must have the sizes whose step was measured"):
        validate(timed(sizes, times_of(plan)))


def test_a_target_that_blocks_alone_meet_leaves_the_candidates_with_blocks(plan):
    times = times_of(plan)
    between = (times.floor(BLOCK) + times.floor()) / 2
    found = timed(replace(plan, latency=f"{between}us"), times)
    assert constrained(found).is_valid({"granularity": "block_8x4"})
    assert not constrained(found).is_valid({"granularity": "weight"})
    with pytest.raises(ValueError, match="granularity block_8x4"):
        timed(replace(plan, latency=f"{times.floor(BLOCK) / 2}us"), times)


def test_a_table_of_weights_is_written_and_read_as_a_config(plan):
    method = configured(timed(plan, times_of(plan)), {"granularity": "weight"}).method
    config = to_config(method)
    assert config["allocation"] == method.allocation.keywords["counts"]
    assert to_config(from_config(json.loads(json.dumps(config)))) == config
    with pytest.raises(ValueError, match="number of weights of each tensor"):
        from_config({"allocation": {"a": 1.5}})


def test_the_second_objective_can_be_the_predicted_time_or_the_multiply_adds():
    settings = {"task": None, "dense_task": None, "train": TrainConfig(epochs=4), "rungs": (1,), "keep": (1,)}
    space = SearchSpace({"sparsity": (0.5, 0.9), "granularity": ("weight", "block_8x4")})
    asked = Plan(**settings, space=space, objectives=("loss", "latency"), step_times=TIMES)
    density = {"embedding": [1.0], "a": [0.2, 0.0], "b": [0.1, 0.1, 0.1]}
    history = History()
    for name, kind in (("c01", "weight"), ("c02", "block_8x4")):
        history.add(Candidate(name, 0, {"granularity": kind}))
        history.add(Epoch(name, EpochRecord(1, None, 1.0, 140, density, 0.0, multiply_adds=70)))
    assert [cost_at(asked, history, name, 1) for name in ("c01", "c02")] == [2.0 + 4.0 + 2.0, 2.0 + 2.0 + 1.0]
    counted = replace(asked, objectives=("loss", "multiply_adds"))
    assert cost_at(counted, history, "c01", 1) == 70
    assert cost_at(replace(asked, objectives=("loss", "active")), history, "c01", 1) == 140
