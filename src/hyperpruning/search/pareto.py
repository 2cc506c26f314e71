"""Two objectives at once: which points are on the Pareto frontier, and the order of candidates by fronts.

A point dominates another one if it is at least as good in both values and better in one; smaller is better. The first
front, or Pareto frontier, is what no point dominates; the next front is what no point of the rest dominates, and so on
(Deb et al. 2002, IEEE Trans. Evol. Comput. 6(2), NSGA-II).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

Point = tuple[float, float]


def pareto(points: Sequence[Point]) -> list[bool]:
    """Which points are on the Pareto frontier; of equal points all or none.

    Args:
        points: pairs of which smaller is better; inf is allowed.

    >>> pareto([(1.0, 9.0), (2.0, 5.0), (3.0, 7.0), (2.0, 5.0)])
    [True, True, False, True]
    """
    return [front == 0 for front in fronts(points)]


def fronts(points: Sequence[Point]) -> list[int]:
    """The number of each point's front, from 0, in O(n log n).

    >>> fronts([(1.0, 9.0), (2.0, 5.0), (3.0, 7.0), (4.0, 8.0)])
    [0, 0, 1, 2]
    """
    lowest: list[float] = []  # second value of the last point of each front, which increases with its number
    found: dict[Point, int] = {}
    for point in sorted(set(points)):  # a later point never dominates an earlier one
        front = bisect_right(lowest, point[1])
        lowest[front : front + 1] = [point[1]]
        found[point] = front
    return [found[point] for point in points]


def split_by_fronts(scores: Mapping[str, float], costs: Mapping[str, float], keep: int) -> tuple[list[str], list[str]]:
    """Split names by the fronts of (score, cost): those kept and those dropped, each best first.

    Within a front the larger crowding distance comes first, so that the candidates that are kept lie apart: the two
    ends of the front before all others, and of these the smaller score.

    Args:
        scores: by name, smaller is better.
        costs: of the same names.
        keep: number of names to keep.

    >>> split_by_fronts({"a": 1.0, "b": 1.1, "c": 3.0, "d": 4.0}, {"a": 9, "b": 8, "c": 1, "d": 2}, 2)
    (['a', 'c'], ['b', 'd'])
    """
    points = {name: (scores[name], float(costs[name])) for name in scores}
    front = dict(zip(points, fronts(list(points.values())), strict=True))
    apart: dict[str, float] = {}
    for number in set(front.values()):
        apart |= _crowding({name: points[name] for name in points if front[name] == number})
    order = sorted(scores, key=lambda name: (front[name], -apart[name], scores[name], name))
    return order[:keep], order[keep:]


def _crowding(front: Mapping[str, Point]) -> dict[str, float]:
    """The crowding distance of each name of a front: the gap between its neighbours in each value, of the whole range.

    The ends of the front have inf; equal points share their place.
    """
    places = sorted(set(front.values()))
    whole = [abs(places[-1][value] - places[0][value]) for value in (0, 1)]
    found = {places[0]: math.inf, places[-1]: math.inf}
    for before, place, after in zip(places, places[1:], places[2:], strict=False):
        gaps = [abs(after[value] - before[value]) / whole[value] for value in (0, 1) if math.isfinite(whole[value])]
        found[place] = sum(gaps)
    return {name: found[point] for name, point in front.items()}
