"""Rounds: decisions, their cost, and rounds that cannot be held."""

import pytest

from hyperpruning.search.schedulers import check_rounds, cost, decide, most


def test_the_better_go_on_and_ties_go_by_name():
    assert decide({"c": 1.0, "a": 2.0, "b": 1.0, "d": 0.5}, 2) == (["d", "b"], ["c", "a"])


def test_cost_counts_continued_epochs_once():
    # the paper's figures (40 merged to 26 candidates): continuing from checkpoints
    assert (
        cost(pool=26, rungs=(3, 6, 9, 12, 15), keep=(14, 8, 5, 3, 2), epochs=100) == 26 * 3 + 3 * (14 + 8 + 5 + 3) + 170
    )
    assert most(pool=12, rungs=(2, 3), keep=(5, 2), epochs=10, judges=3) == 12 * 3 + 6 * 7


@pytest.mark.parametrize(
    ("rounds", "says"),
    [
        ({"pool": 1, "rungs": (1,), "keep": (1,)}, "at least two candidates"),
        ({"pool": 6, "rungs": (1, 2), "keep": (3,)}, "one of each a round"),
        ({"pool": 6, "rungs": (), "keep": ()}, "one of each a round"),
        ({"pool": 6, "rungs": (2, 1), "keep": (4, 2)}, "growing epochs"),
        ({"pool": 6, "rungs": (2, 10), "keep": (4, 2)}, "growing epochs before the last one"),
        ({"pool": 6, "rungs": (1, 2), "keep": (3, 0)}, "eliminates everybody"),
        ({"pool": 6, "rungs": (1, 2), "keep": (6, 2)}, "let it decrease"),
    ],
)
def test_rounds_that_cannot_be_held_are_refused(rounds, says):
    with pytest.raises(ValueError, match=says):
        check_rounds(**rounds, epochs=10)
