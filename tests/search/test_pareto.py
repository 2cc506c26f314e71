"""The Pareto frontier and its fronts, against their definition."""

import math

from hypothesis import given
from hypothesis import strategies as st

from hyperpruning.search.pareto import fronts, pareto, split_by_fronts
from hyperpruning.search.scoring import split_by_score

VALUES = st.one_of(st.integers(0, 4).map(float), st.floats(allow_nan=False))
POINTS = st.lists(st.tuples(VALUES, VALUES), max_size=12)


def dominates(one, two):
    return one[0] <= two[0] and one[1] <= two[1] and one != two


def fronts_by_definition(points):
    found, number = {}, 0
    while len(found) < len(points):
        rest = [index for index in range(len(points)) if index not in found]
        first = [i for i in rest if not any(dominates(points[j], points[i]) for j in rest)]
        found |= dict.fromkeys(first, number)
        number += 1
    return [found[index] for index in range(len(points))]


@given(POINTS)
def test_the_frontier_is_what_no_point_dominates(points):
    assert pareto(points) == [not any(dominates(other, one) for other in points) for one in points]


@given(POINTS)
def test_fronts_are_those_of_the_definition(points):
    assert fronts(points) == fronts_by_definition(points)


@given(POINTS, st.integers(1, 12))
def test_the_best_fronts_are_kept(points, keep):
    names = [f"c{index:02d}" for index in range(len(points))]
    scores, costs = ({name: point[value] for name, point in zip(names, points, strict=True)} for value in (0, 1))
    kept, dropped = split_by_fronts(scores, costs, keep)
    front = dict(zip(names, fronts(points), strict=True))
    assert sorted([*kept, *dropped]) == names
    assert len(kept) == min(keep, len(points))
    assert all(front[one] <= front[two] for one in kept for two in dropped)
    assert split_by_fronts(dict(reversed(scores.items())), costs, keep) == (kept, dropped)  # not by the order given


@given(st.lists(VALUES, max_size=12), st.integers(1, 12))
def test_equal_costs_leave_the_order_to_the_score(values, keep):
    scores = {f"c{index:02d}": value for index, value in enumerate(values)}
    assert split_by_fronts(scores, dict.fromkeys(scores, 4), keep) == split_by_score(scores, keep)


def test_of_a_front_that_does_not_fit_those_that_lie_apart_are_kept():
    scores = {"a": 1.0, "b": 1.1, "c": 1.2, "d": 3.0, "e": 4.0, "f": 9.0}
    costs = {"a": 50, "b": 49, "c": 48, "d": 20, "e": 10, "f": 11}
    assert [split_by_fronts(scores, costs, keep)[0] for keep in (1, 2, 3)] == [["a"], ["a", "e"], ["a", "e", "d"]]
    assert split_by_fronts(scores, costs, 6)[0][-1] == "f"  # e is better in both


def test_an_infinite_score_comes_last_on_its_front():
    assert split_by_fronts({"a": 1.0, "b": math.inf, "c": math.inf}, {"a": 3, "b": 2, "c": 3}, 3)[0] == ["a", "b", "c"]
