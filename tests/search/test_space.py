"""Suggestions: repeatable, distinct, valid, and informed by what is observed."""

import math

import pytest

from hyperpruning.search.samplers import SAMPLERS, suggest
from hyperpruning.search.space import FloatRange, SearchSpace
from hyperpruning.sparsity.serialization import from_config

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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_question_gets_the_same_answer(sampler):
    observed = scored(suggest(SPACE, [], sampler=SAMPLERS[sampler], seed=1, count=6))
    observed[2] = (observed[2][0], math.inf)
    answers = [suggest(SPACE, observed, sampler=SAMPLERS[sampler], seed=2, count=6) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0] != suggest(SPACE, observed, sampler=SAMPLERS[sampler], seed=3, count=6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_configs_are_distinct_new_and_valid(sampler):
    observed = []
    for seed in range(4):
        fresh = suggest(SPACE, observed, sampler=SAMPLERS[sampler], seed=seed, count=8)
        assert len(fresh) == 8
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


def test_choices_that_are_no_tuple_are_refused():
    with pytest.raises(
        ValueError,
        match=r"^The choices of 'method' must be a tuple of names or a FloatRange, got 'rigl'. Write \('rigl',\).$",
    ):
        SearchSpace({"method": "rigl"})
    with pytest.raises(ValueError, match=r"The choices of 'method' must be .* got Method\(.* Write \('rigl',\)"):
        SearchSpace({"method": from_config({"method": "set"})})


@pytest.mark.parametrize(
    ("dimensions", "says"),
    [
        ({"method": ("set", "riggl", "rigl")}, "method must be one of .*, got 'riggl'. Did you mean 'rigl'"),
        (
            {"drop_scopes": ("tensor",)},
            "must be one of .* got 'drop_scopes'. Did you mean 'drop_scope'",
        ),
        ({"drop": ("magnitude", "taylr")}, "drop must be one of .*, got 'taylr'. Did you mean 'taylor'"),
    ],
)
def test_a_misspelt_name_is_refused_although_other_choices_are_valid(dimensions, says):
    with pytest.raises(ValueError, match=says):
        SearchSpace(dimensions).check_names()
