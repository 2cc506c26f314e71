"""Scores: which weights are kept in a drop, and which are grown.

A score is a function `(parameter) -> scores` of one `PrunableParameter`. It returns a tensor of the parameter's shape,
or a flat `Sizes`, which stands for |x|; the weights with the largest scores are kept or grown. None instead means that
the choice is drawn at random. Of equal scores the first is chosen. In growth, a score of zero gives no information: if
there are too few scores above zero, the rest is drawn at random.

To add one, write the function and add a line to DROPS or GROWTHS.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hyperpruning.sparsity.parameter import PrunableParameter
from hyperpruning.sparsity.selection import Sizes, positive

Score = Callable[[PrunableParameter], Tensor | Sizes | None]


def random(parameter: PrunableParameter) -> None:
    """Prefer none. Source of the growth: SET, Mocanu et al. 2018."""
    return


def magnitude(parameter: PrunableParameter) -> Sizes:
    """Keep the largest |w|."""
    return Sizes(parameter.weight.reshape(-1))


def taylor(parameter: PrunableParameter) -> Tensor:
    """Keep the largest |g w|, the change of the loss to first order. Source: SNIP, Lee et al. 2019, during training."""
    return (parameter.gradient * parameter.weight).abs_()


def magnitude_gradient(parameter: PrunableParameter, *, weight: float = 1.0) -> Tensor:
    """Keep the largest |w| + weight |g|; functools.partial gives another weight. Source: MEST, Yuan et al. 2021."""
    return parameter.weight.abs().add_(parameter.gradient.abs(), alpha=weight)


def lamp(parameter: PrunableParameter) -> Tensor:
    """Keep the largest w^2 / (sum of the squares in this tensor that are no smaller): the same scale in every tensor.

    Each tensor's largest weight scores 1, so a global choice empties none. Source: LAMP, Lee et al. 2021, equation 4.
    """
    squares = parameter.weight.square().flatten()
    ordered, order = squares.sort(descending=True, stable=True)
    sums = ordered.double().cumsum(0)
    # equal weights share the sum that reaches the last of them, as the formula says
    last = torch.searchsorted(-ordered, -ordered, right=True) - 1
    scores = torch.empty_like(squares)
    scores[order] = (ordered / sums[last].clamp_min(torch.finfo(torch.float64).tiny)).to(squares.dtype)
    return scores.view(parameter.weight.shape)


def gradient(parameter: PrunableParameter) -> Sizes:
    """Grow where |dL/dw| of the last batch is largest. Source: RigL, Evci et al. 2020.

    Raises:
        ValueError: gradients never reach what is pruned.
    """
    _check_reached(parameter, parameter.gradient)
    return Sizes(parameter.gradient.reshape(-1))


def gradient_average(parameter: PrunableParameter) -> Sizes:
    """Grow where the running mean of dL/dw is largest (factor 0.9 a step).

    The Sparsifier keeps this mean, of pruned weights too; an optimizer's own momentum is zero where a weight is pruned.
    Source: SNFS, Dettmers & Zettlemoyer 2019, as RigL's code has it.
    """
    if parameter.average is None:
        raise ValueError(
            f"an update by average gradient needs one, and none was kept for {parameter.name!r}; call step()"
        )
    _check_reached(parameter, parameter.average)
    return Sizes(parameter.average.reshape(-1))


def unfired(parameter: PrunableParameter) -> Tensor:
    """Grow what has never been active first, otherwise anywhere. Source: ITOP, Liu et al. 2021."""
    drawn = torch.rand(parameter.mask.shape, generator=parameter.generator).to(parameter.mask.device)
    return (drawn / 2).add_(~parameter.ever)


def _check_reached(parameter: PrunableParameter, slopes: Tensor) -> None:
    """Refuse where no pruned weight has a gradient although those beside it in both directions do."""
    matrix, mask = slopes.flatten(1), parameter.mask.flatten(1)
    if positive(Sizes(slopes.reshape(-1)), ~parameter.mask.reshape(-1)).any():
        return
    live = (matrix != 0) & mask
    beside = live.any(1, keepdim=True) & live.any(0, keepdim=True) & ~mask
    if int(beside.count_nonzero()) >= 20:
        raise ValueError(
            f"growing by gradient needs gradients of what is pruned, and those of {parameter.name!r} are all zero; "
            "multiply no mask into the forward pass (the Sparsifier keeps pruned weights at zero), or grow at random"
        )


DROPS: dict[str, Score] = {
    "magnitude": magnitude,
    "taylor": taylor,
    "magnitude_gradient": magnitude_gradient,
    "lamp": lamp,
    "random": random,
}
GROWTHS: dict[str, Score] = {
    "random": random,
    "gradient": gradient,
    "gradient_average": gradient_average,
    "unfired": unfired,
}
