"""Selection criteria, ranks and rank correlation."""

import math

import pytest

from hyperpruning.search.criteria import CRITERIA, Rung
from hyperpruning.search.ranking import ranks, spearman
from hyperpruning.training.record import EpochRecord


def record(loss, *spectrum):
    return EpochRecord(1, 1.0, loss, 10, {}, 0.0, spectrum=spectrum)


def gap(one, two):
    return sum(abs(a - b) for a, b in zip(one, two, strict=True))


RECORDS = {"a": record(2.0, -1.0, -2.0), "b": record(1.0, -1.0, -4.0), "c": record(3.0, -1.0, -1.0)}
RUNG = Rung(
    epoch=1,
    epochs=9,
    records={name: {1: found} for name, found in RECORDS.items()},
    dense={1: record(0.5, -1.0, -2.0)},
    configs={},
    distance=gap,
)


@pytest.mark.parametrize(
    ("criterion", "scores"),
    [
        ("ls", {"a": 0.0, "b": 2.0, "c": 1.0}),
        ("loss", {"a": 2.0, "b": 1.0, "c": 3.0}),
        ("rank_sum", {"a": 3.0, "b": 4.0, "c": 5.0}),
    ],
)
def test_scores(criterion, scores):
    assert CRITERIA[criterion](RUNG) == scores


def test_ties_share_their_mean_rank():
    assert ranks([1.0, 1.0, 0.0, 2.0]).tolist() == [2.5, 2.5, 1.0, 4.0]
    assert ranks([math.inf, 1.0, math.inf]).tolist() == [2.5, 1.0, 2.5]


def test_spearman_needs_four_pairs_that_differ():
    assert spearman([1, 2, 3], [1, 2, 3]) is None
    assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert spearman([1, 2, 2, 4], [1, 3, 3, 9]) == 1


def test_none_in_a_record_is_minus_infinity():
    assert record(1.0, -1.0, None).exponents == [-1.0, -math.inf]
