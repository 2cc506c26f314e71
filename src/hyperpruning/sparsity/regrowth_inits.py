"""Regrowth initialisations: the value with which a newly grown weight starts.

A regrowth initialisation is a function `(parameter, kept, grown) -> values`. `parameter` is one parameter before the
update, `kept` the bool mask of the weights that the drop left, `grown` the bool mask of the new weights. It returns a
number, or a tensor of the parameter's shape that is read where `grown` is True; the optimizer state there is set to
zero. None changes neither weights nor optimizer state: new weights are zero, except for a weight that was dropped and
grown again in the same update, which keeps its value.

To add one, write the function and add a line to REGROWTH_INITS.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hyperpruning.sparsity.parameter import PrunableParameter

RegrowthInit = Callable[[PrunableParameter, Tensor, Tensor], Tensor | float | None]


def zero(parameter: PrunableParameter, kept: Tensor, grown: Tensor) -> float:
    """Start at zero, also if the weight was dropped in the same update."""
    return 0.0


def keep(parameter: PrunableParameter, kept: Tensor, grown: Tensor) -> None:
    """Start at zero, but keep a weight that was dropped in the same update.

    Source: the code of RigL (Evci et al. 2020) and of Selfish-RNN (Liu et al. 2021).
    """
    return


def random(parameter: PrunableParameter, kept: Tensor, grown: Tensor) -> Tensor:
    """Start at a random value, uniform between -m and m, where m is the mean |w| of the kept weights.

    Source: SET, Mocanu et al. 2018, which uses another scale.
    """
    size = (parameter.weight.abs() * kept.to(parameter.weight.dtype)).sum() / kept.count_nonzero().clamp_min(1)
    drawn = torch.rand(parameter.weight.shape, generator=parameter.generator).to(parameter.weight)
    return (2 * drawn - 1) * size


REGROWTH_INITS: dict[str, RegrowthInit] = {"zero": zero, "keep": keep, "random": random}
