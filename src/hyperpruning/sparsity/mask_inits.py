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
from hyperpruning.sparsity.selection import Sizes

Calibration = Callable[[], Tensor]
Scores = dict[str, Tensor | Sizes | None]
MaskInit = Callable[[PrunableParameters, Calibration | None], Scores]


def random(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Prefer none."""
    return dict.fromkeys(parameters)


def magnitude(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Begin with the largest |w|: one-shot pruning of a trained network."""
    return {name: scores.magnitude(parameter) for name, parameter in parameters.items()}


def lamp(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Begin with the largest LAMP scores. Source: Lee et al. 2021."""
    return {name: scores.lamp(parameter) for name, parameter in parameters.items()}


def snip(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Begin with the largest |w dL/dw|. Source: SNIP, Lee et al. 2019."""
    slopes = _gradients(parameters, _called(calibration, "snip", "the loss of a batch"))
    return _informed({name: (parameter.weight * slopes[name]).abs() for name, parameter in parameters.items()})


def grasp(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Begin with the largest w (H g), which keeps the norm of the gradient g; H is the Hessian of the loss.

    Needs a network that can be differentiated twice (cuDNN's fused recurrent layers cannot: switch cuDNN off).
    Source: GraSP, Wang et al. 2020, which removes the largest -w (H g).
    """
    loss = _called(calibration, "grasp", "the loss of a batch")
    tensors = [parameter.tensor for parameter in parameters.values()]
    slopes = torch.autograd.grad(loss, tensors, create_graph=True, materialize_grads=True)
    through = _gradients(parameters, sum((slope * slope.detach()).sum() for slope in slopes) + 0 * loss)
    return _informed({name: parameter.weight * through[name] for name, parameter in parameters.items()})


def jacobian(parameters: PrunableParameters, calibration: Calibration | None) -> Scores:
    """Begin with the weights to which the norm of the recurrent Jacobian is most sensitive: |d |J 1| / dw|.

    Each tensor's scores are divided by their mean, so that tensors compare. A tensor that the recurrent step does not
    use has no score and begins at random. Source: Zhang & Stadie 2020, "One-shot pruning of recurrent neural networks
    by Jacobian spectrum evaluation"; the division is our reading of its normalisation.
    """
    slopes = _gradients(parameters, _called(calibration, "jacobian", "a jacobian_norm of its recurrent step"))
    return _informed({name: slope.abs() / slope.abs().mean().clamp_min(1e-30) for name, slope in slopes.items()})


def jacobian_norm(step: Callable[[Tensor, Tensor], Tensor], state: Tensor, inputs: Tensor, *, last: int = 4) -> Tensor:
    """Measure |J 1|, J = dh_t / dh_(t-1), summed over the last steps of a sequence, ready to be differentiated.

    The states depend on the weights too, and are differentiated with them.

    Args:
        step: (state (B, D), input) -> the next state (B, D), differentiable twice.
        state: where it starts, (B, D).
        inputs: (T, B, ...), one for each step.
        last: steps measured; the others lead there.
    """
    total, state = state.new_zeros(()), state.detach().requires_grad_()
    for time, one in enumerate(inputs):
        before, state = state, step(state, one)
        if time < len(inputs) - last:
            continue
        # a product with J from two with its transpose: d/du (u J) . 1 = J 1, whatever u is
        dummy = torch.zeros_like(state, requires_grad=True)
        (transposed,) = torch.autograd.grad(state, before, dummy, create_graph=True)
        (pushed,) = torch.autograd.grad(transposed, dummy, torch.ones_like(before), create_graph=True)  # (B, D)
        total = total + pushed.norm(dim=1).mean()
    return total


def _called(calibration: Calibration | None, mask_init: str, what: str) -> Tensor:
    """Ask for the scalar to differentiate."""
    if calibration is None:
        raise ValueError(
            f"the mask_init {mask_init!r} needs data, and there is none; give the Sparsifier calibration=, "
            f"a function that returns {what}"
        )
    with torch.enable_grad():
        return calibration()


def _gradients(parameters: PrunableParameters, scalar: Tensor) -> dict[str, Tensor]:
    """Differentiate by every parameter; zero for those that the scalar does not depend on."""
    found: Sequence[Tensor] = torch.autograd.grad(
        scalar, [parameter.tensor for parameter in parameters.values()], allow_unused=True, materialize_grads=True
    )
    return {name: slope.detach() for name, slope in zip(parameters, found, strict=True)}


def _informed(found: Mapping[str, Tensor]) -> Scores:
    """Leave out the scores of tensors about which they say nothing.

    Raises:
        FloatingPointError: a score is not finite.
    """
    for name, values in found.items():
        if not values.isfinite().all():
            raise FloatingPointError(
                f"a mask_init needs finite scores, and one of {name!r} is not; check the calibration and the weights"
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
