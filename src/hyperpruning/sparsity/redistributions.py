"""How the weights that were dropped are shared out among the tensors.

A redistribution is a function `(parameters, kept, dropped) -> shares`: parameters and the bool masks of what the drop
left, by name, the number dropped from each, and back a non-negative share for each, in any unit.
To add one, write the function and its line in REDISTRIBUTIONS.
"""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from hyperpruning.sparsity.exact import apportion

Redistribute = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, int]], dict[str, float]]


def none(parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor], dropped: Mapping[str, int]) -> dict[str, float]:
    """Give each tensor back what it lost, also where the drop was global. Source: RigL, Evci et al. 2020."""
    return {name: float(count) for name, count in dropped.items()}


def nonzeros(
    parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor], dropped: Mapping[str, int]
) -> dict[str, float]:
    """Share by the number of survivors. Source: DSR, Mostafa & Wang 2019."""
    return {name: float(mask.count_nonzero()) for name, mask in kept.items()}


def magnitude(
    parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor], dropped: Mapping[str, int]
) -> dict[str, float]:
    """Share by the mean |w| of the survivors; a tensor without any has no share.

    Source: SNFS, Dettmers & Zettlemoyer 2019, with the weight in the place of the momentum.
    """
    return {name: float(parameters[name][mask].abs().mean()) if mask.any() else 0.0 for name, mask in kept.items()}


def growth_quotas(
    shares: Mapping[str, float],
    kept: Mapping[str, Tensor],
    dropped: Mapping[str, int],
    *,
    floor: float,
    ceiling: float,
) -> dict[str, int]:
    """Turn shares into how many weights each tensor grows: exactly as many in all as were dropped.

    The density limits hold a tensor back and never force one: a tensor that stood beyond a limit before the update may
    stay where it was, but goes no further. So what every tensor had is always a solution, and the budget never breaks.

    Args:
        shares: from a redistribution.
        kept, dropped: bool masks of what the drop left, and how many it took, by name.
        floor, ceiling: density limits, 0 to 1.
    """
    lower, upper = {}, {}
    for name, mask in kept.items():
        size, survivors = mask.numel(), int(mask.count_nonzero())
        before = survivors + dropped[name]
        lower[name] = max(0, min(math.ceil(floor * size), before) - survivors)
        upper[name] = max(math.floor(ceiling * size), before) - survivors
    return apportion(sum(dropped.values()), shares, lower, upper)


REDISTRIBUTIONS: dict[str, Redistribute] = {"none": none, "nonzeros": nonzeros, "magnitude": magnitude}
