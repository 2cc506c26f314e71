"""Redistributions: how many of the new weights each tensor gets.

A redistribution is a function `(parameters, kept, n_replaced) -> shares`. `parameters` are the prunable parameters,
`kept` the bool masks after the drop, `n_replaced` the number of dropped blocks of each tensor that growth replaces; all
by parameter name. It returns a non-negative share for each tensor, in any unit of measure.

To add one, write the function and add a line to REDISTRIBUTIONS.
"""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.selection import apportion, count_true

Redistribute = Callable[[PrunableParameters, Mapping[str, Tensor], Mapping[str, int]], dict[str, float]]


def none(parameters: PrunableParameters, kept: Mapping[str, Tensor], n_replaced: Mapping[str, int]) -> dict[str, float]:
    """Let each tensor grow as many blocks as it dropped, also in a global drop. Source: RigL, Evci et al. 2020."""
    return {name: float(count) for name, count in n_replaced.items()}


def nonzeros(
    parameters: PrunableParameters, kept: Mapping[str, Tensor], n_replaced: Mapping[str, int]
) -> dict[str, float]:
    """Share in proportion to the number of kept weights. Source: DSR, Mostafa & Wang 2019."""
    return {name: float(mask.count_nonzero()) for name, mask in kept.items()}


def size(parameters: PrunableParameters, kept: Mapping[str, Tensor], n_replaced: Mapping[str, int]) -> dict[str, float]:
    """Share in proportion to the size of the tensors, towards equal densities."""
    return {name: float(mask.numel()) for name, mask in kept.items()}


def magnitude(
    parameters: PrunableParameters, kept: Mapping[str, Tensor], n_replaced: Mapping[str, int]
) -> dict[str, float]:
    """Share in proportion to the mean |w| of the kept weights; a tensor without kept weights gets share 0.

    Source: SNFS, Dettmers & Zettlemoyer 2019, with the weights instead of the momentum.
    """
    return {name: _mean(parameter.weight, kept[name]) for name, parameter in parameters.items()}


def gradient(
    parameters: PrunableParameters, kept: Mapping[str, Tensor], n_replaced: Mapping[str, int]
) -> dict[str, float]:
    """Share in proportion to the mean |dL/dw| of the kept weights."""
    return {name: _mean(parameter.gradient, kept[name]) for name, parameter in parameters.items()}


def momentum(
    parameters: PrunableParameters, kept: Mapping[str, Tensor], n_replaced: Mapping[str, int]
) -> dict[str, float]:
    """Share in proportion to the mean |momentum| of the weights that were active before the drop.

    The momentum is the running mean of the gradient if the method keeps one, otherwise the optimizer's. Source: SNFS,
    Dettmers & Zettlemoyer 2019, and its code (`gather_statistics`).
    """
    return {
        name: _mean(parameter.momentum if parameter.average is None else parameter.average, parameter.mask)
        for name, parameter in parameters.items()
    }


def _mean(values: Tensor, mask: Tensor) -> float:
    """Return the mean of |values| over a mask; 0 for an empty mask."""
    return float((values.abs() * mask.to(values.dtype)).sum()) / max(1, count_true(mask))


def growth_quotas(
    shares: Mapping[str, float],
    survivors: Mapping[str, int],
    n_replaced: Mapping[str, int],
    sizes: Mapping[str, int],
    *,
    floor: float,
    ceiling: float,
) -> dict[str, int]:
    """Return how many blocks each tensor grows, in proportion to the shares; their sum is sum(n_replaced).

    What finds no room in a tensor goes to the others in proportion to their shares (in SNFS's code: in equal parts).
    A tensor whose density was beyond a limit before the update may keep its density, but not move further away. So the
    old densities are always a solution, and the sum is always exact.

    Args:
        shares: from a redistribution, by parameter name.
        survivors: the number of blocks after the drop, by parameter name.
        n_replaced: the number of dropped blocks that growth replaces, by parameter name.
        sizes: the number of all blocks, by parameter name.
        floor: the lowest density of a tensor, 0 to 1.
        ceiling: the highest density of a tensor, 0 to 1.

    Returns:
        the number of new blocks by parameter name.
    """
    lower, upper = growth_limits(survivors, n_replaced, sizes, floor=floor, ceiling=ceiling)
    return apportion(sum(n_replaced.values()), shares, lower, upper)


def growth_limits(
    survivors: Mapping[str, int],
    n_replaced: Mapping[str, int],
    sizes: Mapping[str, int],
    *,
    floor: float,
    ceiling: float,
) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many blocks each tensor must grow at least, and at most; arguments as in `growth_quotas`."""
    lower, upper = {}, {}
    for name, n_blocks in sizes.items():
        before = survivors[name] + n_replaced[name]
        lower[name] = max(0, min(math.ceil(floor * n_blocks), before) - survivors[name])
        upper[name] = max(math.floor(ceiling * n_blocks), before) - survivors[name]
    return lower, upper


REDISTRIBUTIONS: dict[str, Redistribute] = {
    "none": none,
    "nonzeros": nonzeros,
    "magnitude": magnitude,
    "gradient": gradient,
    "momentum": momentum,
    "size": size,
}
