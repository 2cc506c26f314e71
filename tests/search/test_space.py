"""Suggestions: repeatable, distinct, valid, and informed by what is told."""

import math

import pytest

from hyperpruning.search.space import SAMPLERS, FloatRange, SearchSpace, suggest
from hyperpruning.sparsity.serialization import from_config

SPACE = SearchSpace(
    {
        "allocation": ("uniform", "er"),
        "drop_scope": ("tensor", "sign", "global"),
        "grow": ("random", "gradient"),
        "drop_fraction": FloatRange(0.3, 0.8, 0.1),
    }
)


def scored(points):
    return [(point, float(point["drop_fraction"]) + (point["drop_scope"] == "tensor")) for point in points]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_question_gets_the_same_answer(sampler):
    told = scored(suggest(SPACE, [], sampler=SAMPLERS[sampler], seed=1, count=6))
    told[2] = (told[2][0], math.inf)
    answers = [suggest(SPACE, told, sampler=SAMPLERS[sampler], seed=2, count=6) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0] != suggest(SPACE, told, sampler=SAMPLERS[sampler], seed=3, count=6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_points_are_distinct_new_and_valid(sampler):
    told = []
    for seed in range(4):
        fresh = suggest(SPACE, told, sampler=SAMPLERS[sampler], seed=seed, count=8)
        assert len(fresh) == 8
        told += scored(fresh)
    points = [point for point, _ in told]
    assert all(points.count(point) == 1 for point in points)
    assert all(from_config(point).drop_fraction == point["drop_fraction"] for point in points)


def test_tpe_learns_from_what_it_is_told():
    told = []
    for seed in range(6):
        told += scored(suggest(SPACE, told, sampler=SAMPLERS["tpe"], seed=seed, count=5))
    first, last = ([score for _, score in part] for part in (told[:10], told[-10:]))
    assert sum(last) < sum(first)


def test_an_exhausted_space_gives_what_it_has():
    space = SearchSpace({"drop_scope": ("tensor", "global"), "drop_fraction": FloatRange(0.3, 0.4, 0.1)})
    assert space.size() == 4
    points = suggest(space, [], sampler=SAMPLERS["tpe"], seed=0, count=9)
    assert len(points) == 4
    assert suggest(space, scored_plain(points), sampler=SAMPLERS["tpe"], seed=0, count=2) == []


def scored_plain(points):
    return [(point, 1.0) for point in points]
