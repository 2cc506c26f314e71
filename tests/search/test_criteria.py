"""The judges."""

import math

import pytest

from hyperpruning.search.criteria import OBJECTIVES, exponents, ranks
from hyperpruning.training.epochs import EpochRecord


def record(loss, *spectrum):
    return EpochRecord(1, 1.0, loss, 10, {}, 0.0, spectrum=spectrum)


def gap(one, two):
    return sum(abs(a - b) for a, b in zip(one, two, strict=True))


RECORDS = {"a": record(2.0, -1.0, -2.0), "b": record(1.0, -1.0, -4.0), "c": record(3.0, -1.0, -1.0)}
DENSE = record(0.5, -1.0, -2.0)


@pytest.mark.parametrize(
    ("objective", "scores"),
    [
        ("ls", {"a": 0.0, "b": 2.0, "c": 1.0}),
        ("loss", {"a": 2.0, "b": 1.0, "c": 3.0}),
        ("rank_sum", {"a": 3.0, "b": 4.0, "c": 5.0}),
    ],
)
def test_scores(objective, scores):
    assert OBJECTIVES[objective](RECORDS, DENSE, gap) == scores


def test_ties_share_their_mean_rank():
    assert ranks({"a": 1.0, "b": 1.0, "c": 0.0, "d": 2.0}) == {"a": 2.5, "b": 2.5, "c": 1.0, "d": 4.0}


def test_none_in_a_record_is_minus_infinity():
    assert exponents(record(1.0, -1.0, None)) == [-1.0, -math.inf]
