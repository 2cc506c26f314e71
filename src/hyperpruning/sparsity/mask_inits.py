"""Which weights a network begins with.

A mask initialisation is a function `(views, calibration) -> scores`: all prunable parameters by name, and back a
tensor of each one's shape, of which the largest begin; None has no preference, and the choice is drawn at random. A
calibration is a function of no arguments that gives a scalar to differentiate: the loss of a batch (or the sum over several)
for `snip` and `grasp`, a `jacobian_norm` for `jacobian`. To add one, write the function and its line in MASK_INITS.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hyperpruning.sparsity import scores
from hyperpruning.sparsity.parameter import View
from hyperpruning.sparsity.selection import Sizes

Calibration = Callable[[], Tensor]
Scores = dict[str, Tensor | Sizes | None]
MaskInit = Callable[[Mapping[str, View], Calibration | None], Scores]


def random(views: Mapping[str, View], calibration: Calibration | None) -> Scores:
    """Prefer none."""
    return dict.fromkeys(views)


def magnitude(views: Mapping[str, View], calibration: Calibration | None) -> Scores:
    """Begin with the largest |w|: one-shot pruning of a trained network."""
    return {name: scores.magnitude(view) for name, view in views.items()}


def lamp(views: Mapping[str, View], calibration: Calibration | None) -> Scores:
    """Begin with the largest LAMP scores. Source: Lee et al. 2021."""
    return {name: scores.lamp(view) for name, view in views.items()}


def snip(views: Mapping[str, View], calibration: Calibration | None) -> Scores:
    """Begin with the largest |w dL/dw|. Source: SNIP, Lee et al. 2019."""
    slopes = _gradients(views, _called(calibration, "snip", "the loss of a batch"))
    return _informed({name: (view.weight * slopes[name]).abs() for name, view in views.items()})


def grasp(views: Mapping[str, View], calibration: Calibration | None) -> Scores:
    """Begin with the largest w (H g), which keeps the norm of the gradient g; H is the Hessian of the loss.

    Needs a network that can be differentiated twice (cuDNN's fused recurrent layers cannot: switch cuDNN off).
    Source: GraSP, Wang et al. 2020, which removes the largest -w (H g).
    """
    loss = _called(calibration, "grasp", "the loss of a batch")
    parameters = [view.parameter for view in views.values()]
    slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    through = _gradients(views, sum((slope * slope.detach()).sum() for slope in slopes) + 0 * loss)
    return _informed({name: view.weight * through[name] for name, view in views.items()})


def jacobian(views: Mapping[str, View], calibration: Calibration | None) -> Scores:
    """Begin with the weights to which the norm of the recurrent Jacobian is most sensitive: |d |J 1| / dw|.

    Each tensor's scores are divided by their mean, so that tensors compare. A tensor that the recurrent step does not
    use has no score and begins at random. Source: Zhang & Stadie 2020, "One-shot pruning of recurrent neural networks
    by Jacobian spectrum evaluation"; the division is our reading of its normalisation.
    """
    slopes = _gradients(views, _called(calibration, "jacobian", "a jacobian_norm of its recurrent step"))
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


def _gradients(views: Mapping[str, View], scalar: Tensor) -> dict[str, Tensor]:
    """Differentiate by every parameter; zero for those that the scalar does not depend on."""
    found: Sequence[Tensor] = torch.autograd.grad(
        scalar, [view.parameter for view in views.values()], allow_unused=True, materialize_grads=True
    )
    return {name: slope.detach() for name, slope in zip(views, found, strict=True)}


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
