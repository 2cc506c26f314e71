"""Redistributions: how many of the new weights each tensor gets.

A redistribution is a function `(parameters, kept, lost) -> shares`. `parameters` are the prunable parameters, `kept`
the bool masks after the drop, `lost` the number of units that each tensor dropped and that growth replaces; all by
parameter name. It returns a non-negative share for each tensor, in any unit of measure.

To add one, write the function and add a line to REDISTRIBUTIONS.
"""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.selection import apportion, counted

Redistribute = Callable[[PrunableParameters, Mapping[str, Tensor], Mapping[str, int]], dict[str, float]]


def none(parameters: PrunableParameters, kept: Mapping[str, Tensor], lost: Mapping[str, int]) -> dict[str, float]:
    """Give each tensor back what it lost, also where the drop was global. Source: RigL, Evci et al. 2020."""
    return {name: float(count) for name, count in lost.items()}


def nonzeros(parameters: PrunableParameters, kept: Mapping[str, Tensor], lost: Mapping[str, int]) -> dict[str, float]:
    """Share by the number of survivors. Source: DSR, Mostafa & Wang 2019."""
    return {name: float(mask.count_nonzero()) for name, mask in kept.items()}


def size(parameters: PrunableParameters, kept: Mapping[str, Tensor], lost: Mapping[str, int]) -> dict[str, float]:
    """Share by the size of the tensors, towards equal densities."""
    return {name: float(mask.numel()) for name, mask in kept.items()}


def magnitude(parameters: PrunableParameters, kept: Mapping[str, Tensor], lost: Mapping[str, int]) -> dict[str, float]:
    """Share by the mean |w| of the survivors; a tensor without any has no share.

    Source: SNFS, Dettmers & Zettlemoyer 2019, with the weight in the place of the momentum.
    """
    return {name: _mean(parameter.weight, kept[name]) for name, parameter in parameters.items()}


def gradient(parameters: PrunableParameters, kept: Mapping[str, Tensor], lost: Mapping[str, int]) -> dict[str, float]:
    """Share by the mean |dL/dw| of the survivors."""
    return {name: _mean(parameter.gradient, kept[name]) for name, parameter in parameters.items()}


def momentum(parameters: PrunableParameters, kept: Mapping[str, Tensor], lost: Mapping[str, int]) -> dict[str, float]:
    """Share by the mean |momentum| of the survivors: the running mean of the gradient where the method keeps one.

    Otherwise it is the optimizer's. Source: SNFS, Dettmers & Zettlemoyer 2019.
    """
    return {
        name: _mean(parameter.momentum if parameter.average is None else parameter.average, kept[name])
        for name, parameter in parameters.items()
    }


def _mean(values: Tensor, mask: Tensor) -> float:
    """Average |values| over a mask; 0 over none."""
    return float((values.abs() * mask.to(values.dtype)).sum()) / max(1, counted(mask))


def growth_quotas(
    shares: Mapping[str, float],
    survivors: Mapping[str, int],
    lost: Mapping[str, int],
    sizes: Mapping[str, int],
    *,
    floor: float,
    ceiling: float,
) -> dict[str, int]:
    """Turn shares into how many units each tensor grows: exactly as many in all as were lost.

    The density limits hold a tensor back and never force one: a tensor that stood beyond a limit before the update may
    stay where it was, but goes no further. So what every tensor had is always a solution, and the budget never breaks.

    Args:
        shares: from a redistribution.
        survivors, lost, sizes: units of each tensor that the drop left, that it is to get back, and in all.
        floor, ceiling: density limits, 0 to 1.
    """
    lower, upper = {}, {}
    for name, units in sizes.items():
        before = survivors[name] + lost[name]
        lower[name] = max(0, min(math.ceil(floor * units), before) - survivors[name])
        upper[name] = max(math.floor(ceiling * units), before) - survivors[name]
    return apportion(sum(lost.values()), shares, lower, upper)


REDISTRIBUTIONS: dict[str, Redistribute] = {
    "none": none,
    "nonzeros": nonzeros,
    "magnitude": magnitude,
    "gradient": gradient,
    "momentum": momentum,
    "size": size,
}
