"""Allocation by dynamic programming: SPDY (Frantar & Alistarh 2022, arXiv 2201.13096).

Each tensor l has levels s, from dense to sparse: n_ls weights left, a cost t_ls (weights, or measured seconds), an
error e_ls. `cheapest` finds the levels with the least sum of errors within a limit of cost, exactly. Which errors
predict the loss is not known, so `search_coefficients` looks for the c in [0, 1]^L whose solution under c_l e_ls has
the least loss on calibration data:

    levels = geometric_levels({"rnn.weight_hh_l0": 16_384, "decoder.weight": 6_400})
    counts = search_coefficients(
        lambda c: allocate(levels, scaled(square_errors(levels), c), budget=5_000), list(levels), evaluate,
        generator=torch.Generator().manual_seed(0),
    )

with `evaluate(counts) -> float` pruning a copy of the network and measuring it. The engine takes the counts as the
allocation `functools.partial(allocations.table, counts=counts)`; examples/allocation.py goes all the way.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Generator, Tensor

from hyperpruning.sparsity.selection import apportion, sample

BUCKETS = 10_000  # SPDY's


def geometric_levels(sizes: Mapping[str, int], *, number: int = 41, least: float = 0.01) -> dict[str, list[int]]:
    """Lay out levels that each prune one fraction of what the last one left, from dense to the density `least`.

    >>> geometric_levels({"w": 1000}, number=4, least=0.001)
    {'w': [1000, 100, 10, 1]}
    """
    if number < 2 or not 0 < least < 1:
        raise ValueError(f"levels need a number >= 2 and a least density in (0, 1), not {number} and {least}")
    return {name: [round(size * least ** (s / (number - 1))) for s in range(number)] for name, size in sizes.items()}


def square_errors(levels: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return SPDY's prior e_ls = (s / (S - 1))^2, with s counted from the dense level."""
    return {name: [(s / max(len(of) - 1, 1)) ** 2 for s in range(len(of))] for name, of in levels.items()}


def scaled(errors: Mapping[str, Sequence[float]], coefficients: Mapping[str, float]) -> dict[str, list[float]]:
    """Return c_l e_ls."""
    return {name: [coefficients[name] * error for error in of] for name, of in errors.items()}


@torch.no_grad()
def measured_times(
    shapes: Mapping[str, torch.Size], levels: Mapping[str, Sequence[int]], *, repetitions: int = 20
) -> dict[str, list[float]]:
    """Measure the seconds of one product of each matrix with a vector, at each level, on this machine's CPU.

    Dense weights where none is left out, otherwise compressed sparse rows with so many weights at random places; the
    shortest of some repetitions counts. What torch's threads are set to is what is measured.

    Returns:
        seconds by tensor, for each level.
    """
    generator = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = {}
    for name, counts in levels.items():
        vector, times[name] = torch.ones(shapes[name][1], 1), []
        for count in counts:
            matrix = torch.ones(shapes[name])
            if count < matrix.numel():
                chosen = sample(torch.ones(matrix.numel(), dtype=torch.bool), count, generator).view(shapes[name])
                with warnings.catch_warnings():  # torch says once that this layout is in beta state
                    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
                    matrix = (matrix * chosen).to_sparse_csr()
            runs = []
            for _ in range(repetitions):
                start = time.perf_counter()
                matrix @ vector
                runs.append(time.perf_counter() - start)
            times[name].append(min(runs))
    return times


def cheapest(
    costs: Mapping[str, Sequence[float]],
    errors: Mapping[str, Sequence[float]],
    limit: float,
    *,
    buckets: int = BUCKETS,
) -> dict[str, int]:
    """Choose one level for each tensor: the least sum of errors whose sum of costs is at most `limit`.

    D_l[b] = min_s D_{l-1}[b - t_ls] + e_ls, over buckets b of cost. What a tensor costs beyond its cheapest level is
    rounded *up* to whole buckets, by exact arithmetic: the limit is never exceeded, and never refused for rounding.
    A bucket is the greatest common divisor of whole costs where no more than `buckets` of them are needed; the result
    is then the optimum. Otherwise the spare cost is cut in `buckets`.

    Args:
        costs: by tensor, for each level; non-negative, any unit.
        errors: by tensor, for each level; finite.
        limit: of the sum of costs, same unit.
        buckets: the most to use.

    Returns:
        the number of the chosen level by tensor; of equal sums one, always the same.

    Raises:
        ValueError: the cheapest levels together exceed the limit; costs and errors that are no such tables.
    """
    _check_tables(costs, errors)
    if not math.isfinite(limit) or buckets < 1:
        raise ValueError(f"a limit must be finite and buckets at least 1, not {limit} and {buckets}: correct them")
    base = {name: Fraction(min(of)) for name, of in costs.items()}
    spare = Fraction(limit) - sum(base.values())
    if spare < 0:
        raise ValueError(
            f"a limit must hold the cheapest levels of {', '.join(costs)}, {float(sum(base.values())):.6g} in all, and "
            f"{limit:.6g} does not: raise it, or add cheaper levels"
        )
    above = {name: [Fraction(cost) - base[name] for cost in of] for name, of in costs.items()}
    unit = _bucket(above, spare, buckets)
    steps = {name: [math.ceil(cost / unit) for cost in of] for name, of in above.items()}
    return _dynamic(steps, errors, math.floor(spare / unit))


def _bucket(costs: Mapping[str, Sequence[Fraction]], spare: Fraction, buckets: int) -> Fraction:
    """Return the size of a bucket, as `cheapest` says."""
    each = [cost for of in costs.values() for cost in of]
    if all(cost.denominator == 1 for cost in each):
        divisor = Fraction(math.gcd(*(cost.numerator for cost in each)) or 1)
        if spare / divisor <= buckets:
            return divisor
    return spare / buckets or Fraction(1)


def _dynamic(
    steps: Mapping[str, Sequence[int]], errors: Mapping[str, Sequence[float]], capacity: int
) -> dict[str, int]:
    """Solve the multiple-choice knapsack in whole costs; every tensor has a level that costs nothing."""
    best = np.zeros(capacity + 1)  # D_l[b], at most b spent
    chosen = {}
    for name, costs in steps.items():
        options = np.full((len(costs), capacity + 1), np.inf)
        for level, cost in enumerate(costs):
            if cost <= capacity:
                options[level, cost:] = best[: capacity + 1 - cost] + errors[name][level]
        chosen[name] = options.argmin(0)  # the first of equal ones
        best = options.min(0)
    levels, left = {}, capacity
    for name in reversed(chosen):
        levels[name] = int(chosen[name][left])
        left -= steps[name][levels[name]]
    return {name: levels[name] for name in steps}


def allocate(levels: Mapping[str, Sequence[int]], errors: Mapping[str, Sequence[float]], budget: int) -> dict[str, int]:
    """Allocate exactly `budget` weights with the least sum of errors.

    The best levels within the budget; the few weights that no level asks for go to the tensors in proportion to the
    room they have, none beyond its densest level.

    Args:
        levels: weights left by tensor, for each level.
        errors: by tensor, for each level.
        budget: weights that are active in the end.

    Returns:
        active weights by tensor, with sum(counts) == budget.

    Raises:
        ValueError: the levels cannot hold the budget.

    >>> levels = {"encoder": [8, 4, 2], "rnn": [8, 4, 2]}
    >>> allocate(levels, {"encoder": [0, 1, 2], "rnn": [0, 5, 9]}, 11)
    {'encoder': 3, 'rnn': 8}
    """
    _check_tables(levels, errors)
    low, high = (sum(bound(of) for of in levels.values()) for bound in (min, max))
    if not low <= budget <= high:
        raise ValueError(
            f"a budget must lie within the levels of {', '.join(levels)}, {low} to {high} weights, and {budget} does "
            "not: change it, or add levels"
        )
    choice = cheapest(levels, errors, budget)
    counts = {name: of[choice[name]] for name, of in levels.items()}
    room = {name: max(of) - counts[name] for name, of in levels.items()}
    more = apportion(budget - sum(counts.values()), room, dict.fromkeys(room, 0), room)
    return {name: counts[name] + more[name] for name in counts}


def allocate_within(
    levels: Mapping[str, Sequence[int]],
    times: Mapping[str, Sequence[float]],
    errors: Mapping[str, Sequence[float]],
    target: float,
) -> dict[str, int]:
    """Allocate weights with the least sum of errors such that the measured times add up to at most `target`.

    Whether they do is a comparison of exact numbers: math.fsum of the chosen times, unrounded, is <= target.

    Args:
        levels: weights left by tensor, for each level.
        times: seconds that tensor takes at that level, as measured on the machine.
        errors: by tensor, for each level.
        target: seconds in all, less what the rest of the network takes.

    Returns:
        active weights by tensor.

    Raises:
        ValueError: the fastest levels together are slower than the target.
    """
    _check_tables(levels, times)
    choice = cheapest(times, errors, target)
    return {name: of[choice[name]] for name, of in levels.items()}


def search_coefficients(
    solve: Callable[[Mapping[str, float]], Mapping[str, int]],
    names: Sequence[str],
    evaluate: Callable[[Mapping[str, int]], float],
    *,
    generator: Generator,
    starts: int = 100,
    patience: int = 100,
) -> dict[str, int]:
    """Search the sensitivity coefficients whose allocation has the least calibration loss.

    `starts` random c in [0, 1]^L; from the best, k of the L coordinates at a time are drawn anew and kept where the
    loss falls; k begins at a tenth of L (rounded up) and falls by one after `patience` draws in a row without success.

    Args:
        solve: coefficients by tensor -> active weights by tensor: `allocate` or `allocate_within`, errors `scaled`.
        names: the tensors.
        evaluate: active weights by tensor -> calibration loss; it is asked once for each allocation.
        generator: on the CPU; the same one, the same result.
        starts, patience: see above.

    Returns:
        active weights by tensor.

    Raises:
        ValueError: every start has a loss that is not finite.
    """
    if starts < 1 or patience < 0 or not names:
        raise ValueError(f"a search needs names, starts >= 1, patience >= 0, not {list(names)}, {starts}, {patience}")
    losses: dict[tuple[int, ...], float] = {}

    def tried(coefficients: Tensor) -> tuple[float, dict[str, int]]:
        counts = dict(solve(dict(zip(names, coefficients.tolist(), strict=True))))
        key = tuple(counts[name] for name in names)
        if key not in losses:
            loss = float(evaluate(counts))
            losses[key] = loss if math.isfinite(loss) else math.inf
        return losses[key], counts

    def drawn(size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    best = min((drawn(len(names)) for _ in range(starts)), key=lambda coefficients: tried(coefficients)[0])
    loss, counts = tried(best)
    if loss == math.inf:
        raise ValueError(f"a calibration loss must be finite for some allocation, and is not for {starts} random ones")
    redrawn = math.ceil(len(names) / 10)
    failures = 0
    while redrawn and patience:
        near = best.clone()
        near[torch.randperm(len(names), generator=generator)[:redrawn]] = drawn(redrawn)
        other, theirs = tried(near)
        if other < loss:
            best, loss, counts, failures = near, other, theirs, 0
        elif (failures := failures + 1) == patience:
            redrawn, failures = redrawn - 1, 0
    return counts


def _check_tables(costs: Mapping[str, Sequence[float]], errors: Mapping[str, Sequence[float]]) -> None:
    """Refuse what does not say one finite cost and error for each level."""
    for name in dict.fromkeys([*costs, *errors]):
        cost, error = costs.get(name, ()), errors.get(name, ())
        if not len(cost) == len(error) > 0:
            raise ValueError(
                f"every level has a cost and an error, and {name!r} has {len(cost)} costs and {len(error)} errors: "
                "give both for the same tensors and levels"
            )
        if not (all(0 <= value < math.inf for value in cost) and all(math.isfinite(value) for value in error)):
            raise ValueError(
                f"costs must be finite and not negative, errors finite, and {name!r} has {list(cost)} and "
                f"{list(error)}: measure it again"
            )
