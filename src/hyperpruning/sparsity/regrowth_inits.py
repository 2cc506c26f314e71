"""What a new weight begins with.

A start is a function `(view, kept, grown) -> values`: one parameter before the update, the bool masks of what the drop
left and of what is new, and back a number or a tensor of its shape, read where `grown` is true; the optimizer's state
begins at zero there. None leaves both as they are: zero, but for a weight that was dropped and regrown at once.
To add one, write the function and its line in REGROWTH_INITS.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hyperpruning.sparsity.parameter import View

RegrowthInit = Callable[[View, Tensor, Tensor], Tensor | float | None]


def zero(view: View, kept: Tensor, grown: Tensor) -> float:
    """Begin at zero, also where the weight was dropped in the same update."""
    return 0.0


def keep(view: View, kept: Tensor, grown: Tensor) -> None:
    """Begin at zero, but keep what was dropped in the same update, as RigL and the published recurrent codes do."""
    return


def random(view: View, kept: Tensor, grown: Tensor) -> Tensor:
    """Begin at random: uniform in +- the mean |w| of the survivors. Source: SET, Mocanu et al. 2018 (its own scale)."""
    size = (view.weight.abs() * kept.to(view.weight.dtype)).sum() / kept.count_nonzero().clamp_min(1)
    drawn = torch.rand(view.weight.shape, generator=view.generator).to(view.weight)
    return (2 * drawn - 1) * size


REGROWTH_INITS: dict[str, RegrowthInit] = {"zero": zero, "keep": keep, "random": random}
