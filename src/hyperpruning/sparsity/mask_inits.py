"""Mask initialisations: which weights are active at the start.

A mask initialisation is a function `(parameters, calibration) -> scores`. `parameters` are all prunable parameters by
name. The function returns one tensor of each parameter's shape; the weights with the largest scores are active at the
start. None instead of a tensor means that the active weights are drawn at random.

`calibration` is a function without arguments that returns a scalar to differentiate: for `snip` and `grasp` the loss of
one batch or the sum over several batches, for `jacobian` a `jacobian_norm`.

To add one, write the function and add a line to MASK_INITS.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hyperpruning.sparsity import scores
from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.selection import LazyAbs

Calibration = Callable[[], Tensor]
Scores = dict[str, Tensor | LazyAbs | None]
MaskInit = Callable[[PrunableParameters, Calibration | None], Scores]


def random(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Draw the active weights at random."""
    return dict.fromkeys(parameters)


def magnitude(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Keep the weights with the largest |w|: one-shot pruning of a trained network."""
    return {name: scores.magnitude(parameter) for name, parameter in parameters.items()}


def lamp(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Keep the weights with the largest LAMP scores. Source: Lee et al. 2021."""
    return {name: scores.lamp(parameter) for name, parameter in parameters.items()}


def snip(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Keep the weights with the largest |w dL/dw|. Source: SNIP, Lee et al. 2019."""
    gradients = _gradients(parameters, _calibration_scalar(calibration, "snip", "the loss of a batch"))
    return _none_where_zero(
        {name: (parameter.weight * gradients[name]).abs() for name, parameter in parameters.items()}
    )


def grasp(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Keep the weights with the largest w (H g), where g is the gradient and H the Hessian of the loss.

    This preserves the norm of the gradient. The network must be differentiable twice; cuDNN's fused recurrent layers
    are not (switch cuDNN off). Source: GraSP, Wang et al. 2020, which removes the largest -w (H g). Its code divides
    the logits by a temperature of 200: for that, let the calibration return cross_entropy(logits / 200, targets).
    """
    loss = _calibration_scalar(calibration, "grasp", "the loss of a batch")
    tensors = [parameter.tensor for parameter in parameters.values()]
    gradients = torch.autograd.grad(loss, tensors, create_graph=True, materialize_grads=True)
    through = _gradients(parameters, sum((gradient * gradient.detach()).sum() for gradient in gradients) + 0 * loss)
    return _none_where_zero({name: parameter.weight * through[name] for name, parameter in parameters.items()})


def jacobian(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Keep the weights to which the norm of the recurrent Jacobian J is most sensitive: the largest |d |J 1| / dw|.

    Each tensor's scores are divided by their mean, so that tensors can be compared. A tensor that the recurrent step
    does not use has no scores; its active weights are drawn at random. Source: Zhang & Stadie 2020, "One-shot pruning
    of recurrent neural networks by Jacobian spectrum evaluation"; the division by the mean is our reading of its
    normalisation.
    """
    gradients = _gradients(
        parameters, _calibration_scalar(calibration, "jacobian", "a jacobian_norm of its recurrent step")
    )
    return _none_where_zero(
        {name: gradient.abs() / gradient.abs().mean().clamp_min(1e-30) for name, gradient in gradients.items()}
    )


def jacobian_norm(step: Callable[[Tensor, Tensor], Tensor], state: Tensor, inputs: Tensor, *, last: int = 4) -> Tensor:
    """Return the norm |J 1| of J = dh_t / dh_(t-1), summed over the last steps of a sequence; differentiable.

    The states depend on the weights too, and the gradient includes that.

    Args:
        step: (state (B, D), input) -> the next state (B, D), differentiable twice.
        state: the first state, (B, D).
        inputs: (T, B, ...), one input for each step.
        last: the number of steps that are summed, at the end of the sequence.

    Returns:
        a scalar, averaged over B.
    """
    total, state = state.new_zeros(()), state.detach().requires_grad_()
    for time, one in enumerate(inputs):
        before, state = state, step(state, one)
        if time < len(inputs) - last:
            continue
        # J 1 from two products with the transpose: d/du (u J) . 1 = J 1 for any u
        dummy = torch.zeros_like(state, requires_grad=True)
        (transposed,) = torch.autograd.grad(state, before, dummy, create_graph=True)
        (pushed,) = torch.autograd.grad(transposed, dummy, torch.ones_like(before), create_graph=True)  # (B, D)
        total = total + pushed.norm(dim=1).mean()
    return total


def _calibration_scalar(calibration: Calibration | None, mask_init: str, what: str) -> Tensor:
    """Return the scalar to differentiate."""
    if calibration is None:
        raise ValueError(
            f"calibration must be given when mask_init is {mask_init!r}, got None. "
            f"Give the Sparsifier calibration=, a function that returns {what}."
        )
    with torch.enable_grad():
        return calibration()


def _gradients(parameters: PrunableParameters, scalar: Tensor) -> dict[str, Tensor]:
    """Return the gradient for every parameter; zero for those that the scalar does not depend on."""
    found: Sequence[Tensor] = torch.autograd.grad(
        scalar, [parameter.tensor for parameter in parameters.values()], allow_unused=True, materialize_grads=True
    )
    return {name: gradient.detach() for name, gradient in zip(parameters, found, strict=True)}


def _none_where_zero(found: Mapping[str, Tensor]) -> Scores:
    """Replace the scores of a tensor by None if all of them are zero.

    Raises:
        FloatingPointError: a score is not finite.
    """
    for name, values in found.items():
        if not values.isfinite().all():
            raise FloatingPointError(
                f"The scores of a mask_init must be finite, got NaN or infinity for {name!r}. "
                "Check the calibration and the weights."
            )
    return {name: values if values.any() else None for name, values in found.items()}


MASK_INITS: dict[str, MaskInit] = {
    "random": random,
    "magnitude": magnitude,
    "lamp": lamp,
    "snip": snip,
    "grasp": grasp,
    "jacobian": jacobian,
}
