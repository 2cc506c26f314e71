"""Weight initialisations: factors on the initial values of the weights that the first mask leaves.

A weight initialisation is a function `(parameter) -> factors` of one `PrunableParameter` with its first mask. The
factors are a tensor that fits its shape (one for each row suffices). They are for networks that are trained from
scratch: a network that is trained already must not be scaled.

To add one, write the function and add a line to WEIGHT_INITS.
"""

from collections.abc import Callable

from torch import Tensor

from hyperpruning.sparsity.parameter import PrunableParameter

WeightInit = Callable[[PrunableParameter], Tensor]


def fan_in(parameter: PrunableParameter) -> Tensor:
    """Scale each row by sqrt(columns / active weights), so that its output varies as much as in the dense network.

    Columns are all dimensions but the first; a row without active weights keeps its values. Source: Evci et al. 2022
    ("Gradient flow in sparse neural networks and how lottery tickets win"), which draws each unit's weights for the
    inputs that it has left.
    """
    mask = parameter.mask.flatten(1)
    factors = (mask.shape[1] / mask.sum(1).clamp_min(1)).sqrt()
    return factors.to(parameter.weight.dtype).view(-1, *[1] * (parameter.weight.dim() - 1))


WEIGHT_INITS: dict[str, WeightInit] = {"fan_in": fan_in}
