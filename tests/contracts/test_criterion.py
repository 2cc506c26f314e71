"""Criteria of ours pass the suite of a criterion, and one that breaks a promise fails it."""

import itertools
import math

import pytest

from hyperpruning.search.criteria import CRITERIA, loss, rank_sum
from hyperpruning.testing import check_criterion


@pytest.mark.parametrize("name", CRITERIA)
def test_ours(name):
    check_criterion(CRITERIA[name])


def test_a_score_of_infinity_is_one():
    check_criterion(lambda rung: dict.fromkeys(rung.records, math.inf))


def changes(rung):
    scores = loss(rung)
    rung.records[next(iter(rung.records))].pop(0, None)
    return scores


def reads_none(rung):
    return {name: sum(records[rung.epoch].spectrum) for name, records in rung.records.items()}


NUMBERS = itertools.count()


@pytest.mark.parametrize(
    ("criterion", "says"),
    [
        (lambda rung: {**loss(rung), "c01": math.nan}, "must be a float, finite or inf, got nan for c01"),
        (lambda rung: dict.fromkeys(rung.records, -math.inf), "finite or inf, got -inf"),
        (lambda rung: dict.fromkeys(rung.records, "low"), "finite or inf, got 'low'"),
        (lambda rung: dict(list(loss(rung).items())[1:]), "must score the candidates"),
        (lambda rung: {**loss(rung), "dense": 1.0}, "must score the candidates"),
        (lambda rung: {name: float(at) for at, name in enumerate(rung.records)}, "not depend on the order"),
        (lambda rung: {name: float(next(NUMBERS)) for name in rung.records}, "same scores each time"),
        (lambda rung: [*rank_sum(rung).values()], "must score every rung, got TypeError"),
        (changes, "must leave the rung as it was"),
        (reads_none, "must score every rung, got TypeError"),
    ],
)
def test_a_faulty_criterion_fails(criterion, says):
    with pytest.raises(AssertionError, match=says):
        check_criterion(criterion)
