"""Suggestions: repeatable, distinct, valid, and informed by what is observed."""

import json
import math
from dataclasses import replace

import optuna
import pytest

from hyperpruning.search.dimensions import FloatRange, IntRange, Prior
from hyperpruning.search.plan import validate
from hyperpruning.search.samplers import SAMPLERS, sampler_of, suggest
from hyperpruning.search.space import SearchSpace, space_from_identity
from hyperpruning.sparsity.serialization import from_config
from small import small

SPACE = SearchSpace(
    {
        "allocation": ("uniform", "er"),
        "drop_scope": ("tensor", "sign", "global"),
        "grow": ("random", "gradient"),
        "drop_fraction": FloatRange(0.3, 0.8, 0.1),
    }
)


def scored(configs):
    return [(config, float(config["drop_fraction"]) + (config["drop_scope"] == "tensor")) for config in configs]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])
def test_the_same_question_gets_the_same_answer(sampler):
    observed = scored(suggest(SPACE, [], sampler=SAMPLERS[sampler], seed=1, count=6))
    observed[2] = (observed[2][0], math.inf)
    answers = [suggest(SPACE, observed, sampler=SAMPLERS[sampler], seed=2, count=6) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0] != suggest(SPACE, observed, sampler=SAMPLERS[sampler], seed=3, count=6)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])
def test_configs_are_distinct_new_and_valid(sampler):
    observed = []
    for seed in range(2):
        fresh = suggest(SPACE, observed, sampler=SAMPLERS[sampler], seed=seed, count=6)
        assert len(fresh) == 6
        observed += scored(fresh)
    configs = [config for config, _ in observed]
    assert all(configs.count(config) == 1 for config in configs)
    assert all(from_config(config).drop_fraction == config["drop_fraction"] for config in configs)


def test_tpe_learns_from_what_it_is_observed():
    observed = []
    for seed in range(6):
        observed += scored(suggest(SPACE, observed, sampler=SAMPLERS["tpe"], seed=seed, count=5))
    first, last = ([score for _, score in part] for part in (observed[:10], observed[-10:]))
    assert sum(last) < sum(first)


def test_an_exhausted_space_gives_what_it_has():
    space = SearchSpace({"drop_scope": ("tensor", "global"), "drop_fraction": FloatRange(0.3, 0.4, 0.1)})
    assert space.size() == 4
    configs = suggest(space, [], sampler=SAMPLERS["tpe"], seed=0, count=9)
    assert len(configs) == 4
    assert suggest(space, scored_plain(configs), sampler=SAMPLERS["tpe"], seed=0, count=2) == []


def scored_plain(configs):
    return [(config, 1.0) for config in configs]


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((0.5, 0.3, 0.1), "low must be at most high"),
        ((0.3, 0.5, 0.3), "must be a multiple of step"),
        ((0, 1, 0), "above 0"),
    ],
)
def test_a_range_that_is_none_is_refused(numbers, says):
    with pytest.raises(ValueError, match=says):
        FloatRange(*numbers)


MIXED = SearchSpace(
    {
        "grow": ("random", "gradient"),
        "drop_fraction": FloatRange(0.3, 0.8),
        "training.lr": FloatRange(0.1, 10.0, log=True),
        "task.layers": IntRange(1, 8, log=True),
        "redistribute": ("none", "magnitude"),
    },
    conditions={"redistribute": {"grow": ("gradient",)}},
)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in ("gp", "grid")])
def test_a_mixed_space(sampler):
    observed = []
    for seed in range(2):
        fresh = suggest(MIXED, observed, sampler=SAMPLERS[sampler], seed=seed, count=3)
        assert len(fresh) == 3
        assert fresh == suggest(MIXED, observed, sampler=SAMPLERS[sampler], seed=seed, count=3)
        observed += scored_plain(fresh)
    for config, _ in observed:
        assert ("redistribute" in config) == (config["grow"] == "gradient")
        assert type(config["task.layers"]) is int
        assert config["training.lr"] == float(f"{config['training.lr']:.3g}")
        assert 0.1 <= config["training.lr"] <= 10


def test_the_grid_sampler_needs_steps_and_gives_every_config():
    with pytest.raises(ValueError, match="Every dimension must have a step with the grid sampler"):
        suggest(MIXED, [], sampler=SAMPLERS["grid"], seed=0, count=2)
    space = SearchSpace({"drop_scope": ("tensor", "global"), "drop_fraction": FloatRange(0.3, 0.5, 0.1)})
    assert len(suggest(space, [], sampler=SAMPLERS["grid"], seed=0, count=6)) == 6


def test_any_optuna_sampler_suggests_new_configs_batch_by_batch():
    sampler = sampler_of(optuna.samplers.RandomSampler(seed=5))
    first = suggest(SPACE, [], sampler=sampler, seed=0, count=4)
    assert first == suggest(SPACE, [], sampler=sampler, seed=1, count=4)  # the object has its own seed
    second = suggest(SPACE, scored_plain(first), sampler=sampler, seed=1, count=4)
    assert not [config for config in second if config in first]


def test_fixed_configs_come_first_and_may_have_other_settings():
    fixed = ({"method": "rigl", "training.lr": 3.0}, {"drop_scope": "tensor", "drop_fraction": 0.4})
    space = replace(SPACE, fixed=fixed)
    for sampler in ("tpe", "random"):
        fresh = suggest(space, [], sampler=SAMPLERS[sampler], seed=0, count=4)
        assert fresh[:2] == list(fixed)
        assert len(suggest(space, scored_plain(fresh), sampler=SAMPLERS[sampler], seed=1, count=4)) == 4


def test_a_prior_shapes_the_first_batch_only():
    space = replace(MIXED, priors={"training.lr": Prior(1.0, 1.0), "grow": Prior("random", 1.0)})
    first = suggest(space, [], sampler=SAMPLERS["random"], seed=0, count=40)
    assert {config["grow"] for config in first} == {"random"}
    inside = [0.2 < config["training.lr"] < 5 for config in first]  # a factor of 5 is 3.5 deviations
    assert all(inside)
    later = suggest(space, scored_plain(first), sampler=SAMPLERS["random"], seed=1, count=40)
    assert {config["grow"] for config in later} == {"random", "gradient"}


def test_constraints_are_met():
    space = replace(SPACE, constraints={"gentle": lambda config: config["drop_fraction"] < 0.5})
    fresh = suggest(space, [], sampler=SAMPLERS["tpe"], seed=0, count=6)
    assert len(fresh) == 6
    assert all(config["drop_fraction"] < 0.5 for config in fresh)


def test_configs_of_one_network_are_one_candidate():
    space = SearchSpace(
        {"grow": ("none",), "drop": ("none",), "drop_fraction": (0.0,), "drop_scope": ("tensor", "sign", "global")}
    )
    assert len(suggest(space, [], sampler=SAMPLERS["random"], seed=0, count=3)) == 1


def test_a_space_is_read_from_its_identity():
    space = replace(MIXED, priors={"training.lr": Prior(1.0, 0.5)}, fixed=({"grow": "random"},))
    assert space_from_identity(json.loads(json.dumps(space.identity()))) == space
    assert SPACE.identity()["drop_fraction"] == {"low": 0.3, "high": 0.8, "step": 0.1}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dimensions": {"grow": "random"}}, "The choices of grow must be a tuple"),
        ({"dimensions": {"grow": ()}}, "at least one value"),
        ({"dimensions": {"drop_fractoin": (0.1,)}}, "Did you mean 'drop_fraction'"),
        ({"dimensions": {"optimizer.lr": (0.1,)}}, "training.NAME or task.NAME"),
        ({"dimensions": {"grow": ("random",)}, "conditions": {"grow": {"drop": ("none",)}}}, "must be of a dimension"),
        ({"dimensions": {"grow": ("random",)}, "priors": {"grow": Prior("none", 1.0)}}, "must lie in its dimension"),
    ],
)
def test_a_space_that_is_none_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        SearchSpace(**values)


@pytest.mark.parametrize(
    ("dimensions", "says"),
    [
        ({"method": ("set", "riggl", "rigl")}, "method must be one of .*, got 'riggl'. Did you mean 'rigl'"),
        ({"drop": ("magnitude", "taylr")}, "drop must be one of .*, got 'taylr'. Did you mean 'taylor'"),
    ],
)
def test_a_misspelt_name_is_refused_before_a_search_although_other_choices_are_valid(dimensions, says, text):
    plan = replace(
        small(text, search={"n_candidates": 2, "keep": (1,), "rungs": (1,)}).plan(), space=SearchSpace(dimensions)
    )
    with pytest.raises(ValueError, match=says):
        validate(plan)


def test_choices_that_are_one_name_are_refused():
    with pytest.raises(ValueError, match=r"The choices of method must be a tuple, .* got 'rigl'. Write \('rigl',\)"):
        SearchSpace({"method": "rigl"})
