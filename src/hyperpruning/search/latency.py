"""A latency target: what a step takes at several densities, and how many weights of each tensor meet a target.

The times are measured once, before a search (network_costs.py), and are part of the plan, so that everything that
follows from them can be repeated: the weights of each tensor, by dynamic programming (sparsity/spdy.py), and the
predicted times of candidates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from hyperpruning.settings import check_types
from hyperpruning.sparsity.allocations import table
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import GRANULARITIES, SINGLE, Granularity
from hyperpruning.sparsity.spdy import best_levels, geometric_levels, quadratic_errors

# what times are measured for: the decoder has a format for blocks of 8 x 4, and one for all other sparse matrices
TIMED = {"weight": SINGLE, "block_8x4": GRANULARITIES["block_8x4"]}
MIN_DENSITY = 0.01
_TARGET = re.compile(r"([0-9.]+) ?(x|us)")


@dataclass(frozen=True)
class StepTimes:
    """What a step of the decoder takes on one machine, by the densities of its matrices; batch 1.

    Attributes:
        precision: of the decoder, "exact" or "int8".
        rest: microseconds of a step outside the products with prunable matrices.
        weights: by prunable tensor, its active weights at each level, from all to `MIN_DENSITY`.
        products: a key of `TIMED` -> tensor -> microseconds of its product at each level; they never rise from one
            level to the next. A tensor that is looked up and never multiplied has none.
    """

    precision: str
    rest: float
    weights: Mapping[str, list[int]]
    products: Mapping[str, Mapping[str, list[float]]]
    _known: dict[Any, dict[str, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_types(self)
        if set(self.products) != set(TIMED):
            raise ValueError(f"Step times must be of {', '.join(TIMED)}, got {', '.join(self.products)}.")
        for of in self.products.values():
            if any(len(times) != len(self.weights[tensor]) for tensor, times in of.items()):
                raise ValueError("Step times must have one time for each level, got others. Measure them again.")

    def to_json(self) -> dict[str, Any]:
        """The times in JSON types; `StepTimes(**values)` is the inverse."""
        return {"precision": self.precision, "rest": self.rest, "weights": self.weights, "products": self.products}

    @property
    def dense(self) -> float:
        """Microseconds of a step with all weights."""
        return self.rest + math.fsum(times[0] for times in self.products["weight"].values())

    def floor(self, granularity: Granularity = SINGLE) -> float:
        """Microseconds of a step at the sparsest level."""
        return self.rest + math.fsum(times[-1] for times in self.products[_key(granularity)].values())

    def predicted(self, active: Mapping[str, float], granularity: Granularity = SINGLE) -> float:
        """Microseconds of a step with these active weights by tensor: between two levels linear in their number.

        >>> single, blocks = {"w": [9.0, 2.0, 1.0]}, {"w": [9.0, 1.0, 0.5]}
        >>> times = StepTimes("exact", 1.0, {"w": [100, 10, 1]}, {"weight": single, "block_8x4": blocks})
        >>> times.predicted({"w": 55})
        6.5
        """
        of = self.products[_key(granularity)]
        return self.rest + math.fsum(_time(self.weights[name], times, active[name]) for name, times in of.items())

    def within(self, target: float, granularity: Granularity = SINGLE) -> dict[str, int]:
        """The active weights of each tensor with which a step is predicted to take at most `target` microseconds.

        Of all choices of levels that meet the target, the one with the least sum of SPDY's prior errors (see
        `spdy.quadratic_errors`), with 41 levels for each tensor; tensors without a product stay dense.

        Raises:
            ValueError: even the sparsest level takes longer; the message has the least time.
        """
        key = _key(granularity)
        if (key, target) not in self._known:
            self._known[key, target] = self._solved(target, granularity)
        return self._known[key, target]

    def _solved(self, target: float, granularity: Granularity) -> dict[str, int]:
        key, least = _key(granularity), self.floor(granularity)
        of, sizes = self.products[key], {name: counts[0] for name, counts in self.weights.items()}
        if target < least:
            raise ValueError(
                f"latency must be at least {least:.3g} us ({least / self.dense:.2g}x) here, what a step takes with "
                f"{MIN_DENSITY:.0%} of the weights (granularity {key}), got {target:.3g} us. Raise it."
            )
        levels = {
            name: [max(count, self.weights[name][-1]) for count in counts]
            for name, counts in geometric_levels(sizes, min_density=MIN_DENSITY).items()
            if name in of
        }
        costs = {name: [_time(self.weights[name], of[name], count) for count in levels[name]] for name in levels}
        chosen = best_levels(costs, quadratic_errors(levels), max(target - self.rest, 0.0))
        return sizes | {name: levels[name][chosen[name]] for name in levels}


def _time(counts: Sequence[float], times: Sequence[float], count: float) -> float:
    return float(np.interp(count, counts[::-1], times[::-1]))


def _key(granularity: Granularity) -> str:
    return "block_8x4" if granularity == TIMED["block_8x4"] else "weight"


def check_latency(latency: str) -> None:
    """Check a latency target.

    Raises:
        ValueError: it is neither "0.3x" nor "40us".
    """
    number, _ = _split(latency)
    if not 0 < number < math.inf:
        raise ValueError(f"latency must be above 0, got {latency!r}. Raise it.")


def target_microseconds(latency: str, times: StepTimes) -> float:
    """A latency target in microseconds.

    Args:
        latency: "40us", or "0.3x": a part of the step of the dense network in the same precision.
        times: of the steps.
    """
    number, unit = _split(latency)
    return number if unit == "us" else number * times.dense


def _split(latency: str) -> tuple[float, str]:
    found = _TARGET.fullmatch(latency.strip())
    try:
        return float(found[1]), found[2]  # type: ignore[index]
    except (TypeError, ValueError):
        raise ValueError(
            f'latency must be a part of the dense step, like "0.3x", or microseconds, like "40us", got {latency!r}. '
            "Write one of them."
        ) from None


def within_latency(method: Method, latency: str, times: StepTimes) -> tuple[Method, float]:
    """A method with the weights of each tensor that meet a latency target, and its sparsity.

    Raises:
        ValueError: the method moves weights between tensors, which changes the time, or the target is too low.
    """
    if method.moves_weights_between_tensors or method.update is not None:
        raise ValueError(
            "A method must keep the number of weights of each tensor with a latency target, got one that moves them. "
            'Use redistribute "none", no global scope and update "exact".'
        )
    counts = times.within(target_microseconds(latency, times), method.granularity)
    whole = sum(levels[0] for levels in times.weights.values())
    return replace(method, allocation=partial(table, counts=counts)), 1 - sum(counts.values()) / whole
