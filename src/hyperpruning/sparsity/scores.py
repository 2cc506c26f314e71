"""Scores: which weights are kept in a drop, and which are grown.

A score is a function `(parameter) -> scores` of one `PrunableParameter`. It returns a tensor of the parameter's shape,
or a flat `LazyAbs`, which stands for |x|; the weights with the largest scores are kept or grown. None instead means
that the choice is drawn at random. Of equal scores the first is chosen. In growth, a score of zero gives no
information: if there are too few scores above zero, the rest is drawn at random.

To add one, write the function and add a line to DROPS or GROWTHS.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hyperpruning.sparsity.parameter import PrunableParameter
from hyperpruning.sparsity.selection import LazyAbs, positive

Score = Callable[[PrunableParameter], Tensor | LazyAbs | None]


def random(parameter: PrunableParameter) -> None:
    """Choose at random. Source of the growth: SET, Mocanu et al. 2018."""
    return


def magnitude(parameter: PrunableParameter) -> LazyAbs:
    """Keep the weights with the largest |w|."""
    return LazyAbs(parameter.weight.reshape(-1))


def taylor(parameter: PrunableParameter) -> Tensor:
    """Keep the largest |w dL/dw|, the first-order change of the loss. Source: SNIP, Lee et al. 2019."""
    return (parameter.gradient * parameter.weight).abs_()


def magnitude_gradient(parameter: PrunableParameter, *, weight: float = 1.0) -> Tensor:
    """Keep the largest |w| + weight |dL/dw|; set `weight` by functools.partial. Source: MEST, Yuan et al. 2021."""
    return parameter.weight.abs().add_(parameter.gradient.abs(), alpha=weight)


def lamp(parameter: PrunableParameter) -> Tensor:
    """Keep the largest w^2 / (sum of all squares in this tensor that are at least w^2): one scale for all tensors.

    The largest weight of each tensor has score 1, so a global choice leaves no tensor empty. Source: LAMP,
    Lee et al. 2021, equation 4.
    """
    squares = parameter.weight.square().flatten()
    ordered, order = squares.sort(descending=True, stable=True)
    sums = ordered.double().cumsum(0)
    # equal weights have the same sum, which includes all of them, as in the formula
    last = torch.searchsorted(-ordered, -ordered, right=True) - 1
    scores = torch.empty_like(squares)
    scores[order] = (ordered / sums[last].clamp_min(torch.finfo(torch.float64).tiny)).to(squares.dtype)
    return scores.view(parameter.weight.shape)


def gradient(parameter: PrunableParameter) -> LazyAbs:
    """Grow the weights with the largest |dL/dw| in the last batch. Source: RigL, Evci et al. 2020.

    Raises:
        ValueError: pruned weights get no gradients.
    """
    _check_pruned_have_gradients(parameter, parameter.gradient)
    return LazyAbs(parameter.gradient.reshape(-1))


def gradient_average(parameter: PrunableParameter) -> LazyAbs:
    """Grow the weights with the largest |running mean of dL/dw| (decay 0.9 per optimizer step).

    The Sparsifier keeps this mean, pruned weights included; the optimizer's momentum of a pruned weight is zero.
    Source: SNFS, Dettmers & Zettlemoyer 2019, as implemented in RigL's code.
    """
    if parameter.average is None:
        raise ValueError(
            f"The running mean of the gradient must be kept when grow is 'gradient_average', got none for "
            f"{parameter.name!r}. Call step() after each optimizer.step()."
        )
    _check_pruned_have_gradients(parameter, parameter.average)
    return LazyAbs(parameter.average.reshape(-1))


def unfired(parameter: PrunableParameter) -> Tensor:
    """Grow weights that have never been active first, then others at random. Source: ITOP, Liu et al. 2021."""
    drawn = torch.rand(parameter.mask.shape, generator=parameter.generator).to(parameter.mask.device)
    return (drawn / 2).add_(~parameter.ever_active)


def _check_pruned_have_gradients(parameter: PrunableParameter, gradients: Tensor) -> None:
    """Refuse if no pruned weight has a gradient although active weights in its row and in its column do."""
    matrix, mask = gradients.flatten(1), parameter.mask.flatten(1)
    if positive(LazyAbs(gradients.reshape(-1)), ~parameter.mask.reshape(-1)).any():
        return
    live = (matrix != 0) & mask
    beside = live.any(1, keepdim=True) & live.any(0, keepdim=True) & ~mask
    if int(beside.count_nonzero()) >= 20:
        raise ValueError(
            f"Pruned weights must have gradients when growth uses gradients, got only zeros for {parameter.name!r}. "
            "Do not multiply a mask into the forward pass (the Sparsifier keeps pruned weights at zero), or grow "
            "at random."
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
