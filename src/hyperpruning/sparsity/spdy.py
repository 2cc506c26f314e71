"""Allocation by dynamic programming: SPDY (Frantar & Alistarh 2022, arXiv 2201.13096).

Each tensor l has levels s, from dense to sparse. A level has a number of active weights n_ls, a cost t_ls (a number of
weights, or measured seconds) and an error e_ls. `best_levels` finds the levels with the least sum of errors whose sum
of costs is within a limit. The errors that predict the loss are unknown, so `search_coefficients` searches the
coefficients c in [0, 1]^L for which the best levels under the errors c_l e_ls have the least loss on calibration data:

    levels = geometric_levels({"rnn.weight_hh_l0": 16_384, "decoder.weight": 6_400})
    counts = search_coefficients(
        lambda c: allocate(levels, scale_errors(quadratic_errors(levels), c), budget=5_000), list(levels), evaluate,
        generator=torch.Generator().manual_seed(0),
    )

Here `evaluate(counts) -> float` prunes a copy of the network and returns its loss. The Sparsifier uses the counts as
the allocation `functools.partial(allocations.table, counts=counts)`; examples/allocation.py is a complete example.
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

MAX_BUCKETS = 10_000  # as in SPDY


def geometric_levels(
    sizes: Mapping[str, int], *, n_levels: int = 41, min_density: float = 0.01
) -> dict[str, list[int]]:
    """Return levels from dense to `min_density`, each of which prunes the same fraction of the level before.

    Args:
        sizes: the number of weights by tensor.
        n_levels: the number of levels, at least 2.
        min_density: the density of the sparsest level, above 0 and below 1.

    Returns:
        the number of active weights by tensor, for each level.

    >>> geometric_levels({"w": 1000}, n_levels=4, min_density=0.001)
    {'w': [1000, 100, 10, 1]}
    """
    if n_levels < 2 or not 0 < min_density < 1:
        raise ValueError(
            "n_levels must be at least 2 and min_density above 0 and below 1, "
            f"got n_levels={n_levels} and min_density={min_density}."
        )
    densities = [min_density ** (s / (n_levels - 1)) for s in range(n_levels)]
    return {name: [round(size * density) for density in densities] for name, size in sizes.items()}


def quadratic_errors(levels: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return SPDY's prior errors e_ls = (s / (S - 1))^2, where s = 0 is the dense level and S the number of levels."""
    return {name: [(s / max(len(of) - 1, 1)) ** 2 for s in range(len(of))] for name, of in levels.items()}


def scale_errors(errors: Mapping[str, Sequence[float]], coefficients: Mapping[str, float]) -> dict[str, list[float]]:
    """Return the scaled errors c_l e_ls."""
    return {name: [coefficients[name] * error for error in of] for name, of in errors.items()}


@torch.no_grad()
def measure_times(
    shapes: Mapping[str, torch.Size], levels: Mapping[str, Sequence[int]], *, repetitions: int = 20
) -> dict[str, list[float]]:
    """Measure the time of one product of each matrix with a vector, at each level, on this machine's CPU.

    The dense level is measured as a dense matrix, other levels as compressed sparse rows with active weights at random
    places. The number of threads is torch's current setting.

    Args:
        shapes: (rows, columns) by tensor.
        levels: the number of active weights by tensor, for each level.
        repetitions: the number of measurements; the shortest one counts.

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
                with warnings.catch_warnings():  # torch warns once that this layout is in beta state
                    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
                    matrix = (matrix * chosen).to_sparse_csr()
            runs = []
            for _ in range(repetitions):
                start = time.perf_counter()
                matrix @ vector
                runs.append(time.perf_counter() - start)
            times[name].append(min(runs))
    return times


def best_levels(
    costs: Mapping[str, Sequence[float]],
    errors: Mapping[str, Sequence[float]],
    limit: float,
    *,
    n_buckets: int = MAX_BUCKETS,
) -> dict[str, int]:
    """Choose one level for each tensor: the least sum of errors whose sum of costs is at most `limit`.

    D_l[b] = min_s D_{l-1}[b - t_ls] + e_ls over buckets b of cost (a multiple-choice knapsack). Costs above a tensor's
    cheapest level are rounded *up* to whole buckets in exact arithmetic: the limit is never exceeded, and a feasible
    limit stays feasible. If all costs are integers, a bucket is their greatest common divisor, provided
    that at most `n_buckets` are needed; the result is then the optimum. Otherwise the cost between the cheapest levels
    and the limit is divided into `n_buckets` buckets.

    Args:
        costs: by tensor, for each level; not negative, in any unit.
        errors: by tensor, for each level; finite.
        limit: of the sum of costs, in the same unit.
        n_buckets: the largest number of buckets.

    Returns:
        the index of the chosen level by tensor; of equal sums always the same one.

    Raises:
        ValueError: the cheapest levels exceed the limit, or costs and errors do not fit each other.
    """
    _check_tables(costs, errors)
    if not math.isfinite(limit) or n_buckets < 1:
        raise ValueError(f"limit must be finite and n_buckets at least 1, got {limit} and {n_buckets}.")
    base = {name: Fraction(min(of)) for name, of in costs.items()}
    spare = Fraction(limit) - sum(base.values())
    if spare < 0:
        raise ValueError(
            f"limit must be at least {float(sum(base.values())):.6g}, the cost of the cheapest levels of "
            f"{', '.join(costs)}, got {limit:.6g}. Raise it, or add cheaper levels."
        )
    above = {name: [Fraction(cost) - base[name] for cost in of] for name, of in costs.items()}
    size = _bucket_size(above, spare, n_buckets)
    buckets = {name: [math.ceil(cost / size) for cost in of] for name, of in above.items()}
    return _solve_knapsack(buckets, errors, math.floor(spare / size))


def _bucket_size(costs: Mapping[str, Sequence[Fraction]], spare: Fraction, n_buckets: int) -> Fraction:
    """Return the size of a bucket (see `best_levels`)."""
    each = [cost for of in costs.values() for cost in of]
    if all(cost.denominator == 1 for cost in each):
        divisor = Fraction(math.gcd(*(cost.numerator for cost in each)) or 1)
        if spare / divisor <= n_buckets:
            return divisor
    return spare / n_buckets or Fraction(1)


def _solve_knapsack(
    costs: Mapping[str, Sequence[int]], errors: Mapping[str, Sequence[float]], capacity: int
) -> dict[str, int]:
    """Solve the multiple-choice knapsack with integer costs; every tensor must have a level of cost 0."""
    best = np.zeros(capacity + 1)  # D_l[b]: the least sum of errors that costs at most b
    chosen = {}
    for name, of in costs.items():
        options = np.full((len(of), capacity + 1), np.inf)
        for level, cost in enumerate(of):
            if cost <= capacity:
                options[level, cost:] = best[: capacity + 1 - cost] + errors[name][level]
        chosen[name] = options.argmin(0)  # the first of equal ones
        best = options.min(0)
    levels, left = {}, capacity
    for name in reversed(chosen):
        levels[name] = int(chosen[name][left])
        left -= costs[name][levels[name]]
    return {name: levels[name] for name in costs}


def allocate(levels: Mapping[str, Sequence[int]], errors: Mapping[str, Sequence[float]], budget: int) -> dict[str, int]:
    """Allocate exactly `budget` active weights, with the least sum of errors.

    The result are the best levels within the budget. The few remaining weights go to the tensors in proportion to the
    room below their densest level.

    Args:
        levels: the number of active weights by tensor, for each level.
        errors: by tensor, for each level.
        budget: the total number of active weights.

    Returns:
        the number of active weights by tensor, with sum(counts) == budget.

    Raises:
        ValueError: the budget is below the sum of the sparsest levels or above that of the densest.

    >>> levels = {"encoder": [8, 4, 2], "rnn": [8, 4, 2]}
    >>> allocate(levels, {"encoder": [0, 1, 2], "rnn": [0, 5, 9]}, 11)
    {'encoder': 3, 'rnn': 8}
    """
    _check_tables(levels, errors)
    low, high = (sum(bound(of) for of in levels.values()) for bound in (min, max))
    if not low <= budget <= high:
        raise ValueError(
            f"budget must be {low} to {high} weights, the range of the levels of {', '.join(levels)}, got {budget}. "
            "Change it, or add levels."
        )
    choice = best_levels(levels, errors, budget)
    counts = {name: of[choice[name]] for name, of in levels.items()}
    room = {name: max(of) - counts[name] for name, of in levels.items()}
    more = apportion(budget - sum(counts.values()), room, dict.fromkeys(room, 0), room)
    return {name: counts[name] + more[name] for name in counts}


def allocate_within_latency(
    levels: Mapping[str, Sequence[int]],
    times: Mapping[str, Sequence[float]],
    errors: Mapping[str, Sequence[float]],
    target: float,
) -> dict[str, int]:
    """Allocate weights with the least sum of errors whose measured times add up to at most `target`.

    The sum is exact: math.fsum of the chosen times is at most `target`.

    Args:
        levels: the number of active weights by tensor, for each level.
        times: measured seconds by tensor, for each level.
        errors: by tensor, for each level.
        target: the largest sum of times in seconds, without the rest of the network.

    Returns:
        the number of active weights by tensor.

    Raises:
        ValueError: the fastest levels exceed the target.
    """
    _check_tables(levels, times)
    choice = best_levels(times, errors, target)
    return {name: of[choice[name]] for name, of in levels.items()}


def search_coefficients(
    solve: Callable[[Mapping[str, float]], Mapping[str, int]],
    names: Sequence[str],
    evaluate: Callable[[Mapping[str, int]], float],
    *,
    generator: Generator,
    n_starts: int = 100,
    patience: int = 100,
) -> dict[str, int]:
    """Search the sensitivity coefficients whose allocation has the least calibration loss.

    The search draws `n_starts` random c in [0, 1]^L. Starting from the best of them, it draws k of the L coordinates
    again and keeps the result if the loss falls. k starts at L / 10 (rounded up) and is reduced by 1 after `patience`
    consecutive draws without improvement.

    Args:
        solve: coefficients by tensor -> number of active weights by tensor, e.g. `allocate` with `scale_errors`.
        names: the tensors.
        evaluate: number of active weights by tensor -> calibration loss; called once for each allocation.
        generator: on the CPU.
        n_starts: the number of random starts.
        patience: the number of draws without improvement after which k is reduced.

    Returns:
        the number of active weights by tensor.

    Raises:
        ValueError: no random start has a finite loss.
    """
    if n_starts < 1 or patience < 0 or not names:
        raise ValueError(
            "names must not be empty, n_starts at least 1 and patience at least 0, "
            f"got {list(names)}, {n_starts} and {patience}."
        )
    losses: dict[tuple[int, ...], float] = {}

    def loss_and_counts(coefficients: Tensor) -> tuple[float, dict[str, int]]:
        counts = dict(solve(dict(zip(names, coefficients.tolist(), strict=True))))
        key = tuple(counts[name] for name in names)
        if key not in losses:
            loss = float(evaluate(counts))
            losses[key] = loss if math.isfinite(loss) else math.inf
        return losses[key], counts

    def draw(size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    best = min((draw(len(names)) for _ in range(n_starts)), key=lambda coefficients: loss_and_counts(coefficients)[0])
    loss, counts = loss_and_counts(best)
    if loss == math.inf:
        raise ValueError(f"The calibration loss of at least one random start must be finite, got none of {n_starts}.")
    n_redrawn = math.ceil(len(names) / 10)
    failures = 0
    while n_redrawn and patience:
        candidate = best.clone()
        candidate[torch.randperm(len(names), generator=generator)[:n_redrawn]] = draw(n_redrawn)
        new_loss, new_counts = loss_and_counts(candidate)
        if new_loss < loss:
            best, loss, counts, failures = candidate, new_loss, new_counts, 0
        elif (failures := failures + 1) == patience:
            n_redrawn, failures = n_redrawn - 1, 0
    return counts


def _check_tables(costs: Mapping[str, Sequence[float]], errors: Mapping[str, Sequence[float]]) -> None:
    """Check that every level has one finite cost and one finite error."""
    for name in dict.fromkeys([*costs, *errors]):
        cost, error = costs.get(name, ()), errors.get(name, ())
        if not len(cost) == len(error) > 0:
            raise ValueError(
                f"Every level must have one cost and one error, got {len(cost)} costs and {len(error)} errors "
                f"for {name!r}."
            )
        if not (all(0 <= value < math.inf for value in cost) and all(math.isfinite(value) for value in error)):
            raise ValueError(
                f"Costs must be finite and not negative, and errors finite, got {list(cost)} and {list(error)} "
                f"for {name!r}."
            )
