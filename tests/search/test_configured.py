"""Settings outside the method as dimensions of a search: how each candidate is trained."""

from dataclasses import replace

import pytest

import hyperpruning as hp
from hyperpruning.experiment import Experiment, ExperimentError
from hyperpruning.search.configured import configured
from hyperpruning.search.dimensions import FloatRange, Prior
from hyperpruning.search.driver import search
from hyperpruning.search.plan import recorded_plan
from hyperpruning.search.schedulers import decide
from hyperpruning.search.validation import validate
from small import small


def plan_with(text, dimensions, **changes):
    plan = small(text).plan()
    space = hp.SearchSpace({"drop_fraction": FloatRange(0.3, 0.8, 0.1), **dimensions})
    return replace(plan, space=space, **changes)


def test_a_config_sets_training_task_method_and_sparsity(text):
    plan = plan_with(text, {"training.lr": FloatRange(1.0, 10.0), "task.dropout": (0.0, 0.3), "sparsity": (0.5, 0.7)})
    one = configured(plan, {"drop_fraction": 0.4, "training.lr": 2.5, "task.dropout": 0.3, "sparsity": 0.7})
    assert (one.train.lr, one.task.dropout, one.method.drop_fraction, one.sparsity) == (2.5, 0.3, 0.4, 0.7)
    assert configured(plan, {"drop_fraction": 0.4}).train == plan.train


def test_another_optimizer_brings_the_numbers_that_suit_it(text):
    plan = plan_with(text, {"training.optimizer": ("snt_asgd", "adam")})
    adam = configured(plan, {"training.optimizer": "adam"}).train
    assert (adam.lr, adam.average_from) == (1e-3, 1.0)
    assert configured(plan, {"training.optimizer": "adam", "training.lr": 0.01}).train.lr == 0.01


@pytest.mark.parametrize(
    ("dimensions", "says"),
    [
        ({"training.learning_rate": (1.0,)}, r"got training\.learning_rate"),
        ({"training.lrr": (1.0, 2.0)}, r"got training\.lrr\. Did you mean 'lr'\?"),
        ({"training.epochs": (2, 3)}, "other than epochs, seed, device, threads, half_life"),
        ({"task.hiden": (2, 3)}, "Did you mean 'hidden'"),
        ({"training.lr": (-1.0, -2.0)}, "at least n_candidates = 5 valid methods, got 0 .*lr must be above 0"),
        ({"trainig.lr": (1.0,)}, "A dimension must be a setting of a method, sparsity"),
    ],
)
def test_settings_that_do_not_exist_are_refused_before_training(text, dimensions, says):
    with pytest.raises(ValueError, match=says):
        validate(plan_with(text, dimensions))


def test_a_mixed_search_runs_resumes_and_its_ledger_is_read(text, tmp_path):
    space = {"training": {"lr": {"low": 1.0, "high": 10.0, "log": True}, "batch": [4, 8]}, "sparsity": [0.5, 0.7]}
    more = {"task": {"dropout": [0.0, 0.2]}, "priors": {"training.lr": {"centre": 5.0, "confidence": 0.5}}}
    criteria = {"criteria": ("conditional_ls", "loss then blend", "averaged_loss * ls")}
    plan = small(text, space={**space, **more}, search=criteria).plan()
    history = search(plan, tmp_path / "run")
    configs = [candidate.config for candidate in history.candidates.values()]
    assert {"training.lr", "task.batch", "task.dropout", "sparsity"} <= configs[0].keys()
    actives = {name: history.epochs[name][1].active for name in history.candidates}
    assert len(set(actives.values())) == len({config["sparsity"] for config in configs})
    assert set(history.winners) == set(criteria["criteria"])
    read = recorded_plan(history.header.identity)
    assert read.space.dimensions == plan.space.dimensions
    assert read.space.priors == {"training.lr": Prior(5.0, 0.5)}
    assert decide(read, history) == []


def test_calibration_trains_the_first_candidates_to_the_last_rung(text, tmp_path):
    plan = small(text, search={"n_followed": 4, "criteria": ("calibrated", "loss")}).plan()
    history = search(plan, tmp_path)
    assert all(history.trained(f"c0{number}") >= 2 for number in range(1, 5))
    assert history.winners.keys() == {"calibrated", "loss"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"search": {"criteria": ("calibrated",)}}, "calibrated must have n_followed at least 4"),
        ({"search": {"criteria": ("averaged_ls",)}}, r"averaged_ls must have averaged = true in \[spectrum\]"),
        ({"search": {"criteria": ("blend",)}, "training": {"half_life": 0.0}}, "blend must have half_life above 0"),
        ({"search": {"n_followed": 6}}, "n_followed must be at most n_candidates = 5, got 6"),
    ],
)
def test_a_criterion_without_its_record_is_refused(text, changes, says):
    with pytest.raises(ValueError, match=says):
        small(text, **changes).plan()


def test_spectra_of_averaged_weights_are_recorded_if_asked(text, tmp_path):
    plan = small(text, search={"criteria": ("averaged_ls",)}, spectrum={"averaged": True}).plan()
    records = search(plan, tmp_path).epochs["c01"]
    assert records[0].averaged_spectrum == records[0].spectrum
    assert records[1].averaged_spectrum != records[1].spectrum
    assert len(records[1].averaged_spectrum) == len(records[1].spectrum)


def test_an_optuna_sampler_object_and_a_function_of_ones_own(text, tmp_path):
    import optuna

    plan = replace(small(text).plan(), sampler=optuna.samplers.RandomSampler(seed=3))
    first = search(plan, tmp_path / "a")
    assert first.header.identity["sampler"] == "optuna.samplers._random.RandomSampler"
    again = search(plan, tmp_path / "b")
    assert first.candidates == again.candidates
    assert decide(recorded_plan(first.header.identity), first) == []


def test_the_space_of_an_experiment_says_what_is_wrong():
    for space, says in (
        ({"training": {"lr": 3}}, r"The choices of lr must be a list or a range, got 3\. Write \[3\]"),
        ({"training": {"lr": {"low": 1}}}, "The range of lr must have low and high"),
        ({"sparsity": 0.9}, "The choices of sparsity must be a list or a range"),
        ({"conditions": {"x": {"y": [1]}}}, "A condition must be of a dimension of the space"),
    ):
        with pytest.raises(ExperimentError, match=says):
            Experiment(space=space)
