"""Checks of what an update of the masks is made from, and of what it leaves."""

from collections.abc import Callable, Mapping
from numbers import Integral

from torch import Tensor, nn

from hyperpruning.sparsity.mask_inits import Scores
from hyperpruning.sparsity.method import Method, MethodError
from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.selection import LazyAbs


def check_steps(name: str, count: object) -> None:
    """Check that a number of optimizer steps, if it is given, is a whole number of at least 1.

    Raises:
        ValueError: it is not.
    """
    if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 1):
        raise ValueError(
            f"{name} must be a whole number of at least 1 optimizer step, got {count!r}. Correct it, or leave it out."
        )


def check_model_and_optimizer(model: object, optimizer: object) -> None:
    """Check that the first two arguments of a Sparsifier are what they must be, in this order.

    Raises:
        ValueError: one is not.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {model!r}. Give the model first.")
    if not (optimizer is None or hasattr(optimizer, "param_groups")):
        raise ValueError(
            f"optimizer must be a torch optimizer or None, got {optimizer!r}. Give it second, and the method third."
        )


def check_finite(parameters: PrunableParameters, step: int) -> None:
    """Check that weights and gradients can be ranked.

    Raises:
        FloatingPointError: a weight or a gradient is not finite.
    """
    for name, parameter in parameters.items():
        for what, values in (("weight", parameter.tensor), ("gradient", parameter.tensor.grad)):
            # checking the sum is ten times faster than checking each value; the sum alone may overflow
            if values is None or values.sum().isfinite() or values.to_dense().isfinite().all():
                continue
            raise FloatingPointError(
                f"Every {what} must be finite at an update, got NaN or infinity in {name!r} at step {step}. "
                "The masks did not change. Lower the learning rate or clip the gradients."
            )


def check_scores(
    part: str,
    score: Callable[..., object],
    parameters: PrunableParameters,
    scores: Scores,
    eligible: Mapping[str, Tensor],
) -> None:
    """Check that no score of an eligible block is NaN: it would be neither larger nor smaller than any other.

    Raises:
        FloatingPointError: a score is NaN.
    """
    for name, values in scores.items():
        # checking the sum is ten times faster than checking each value; infinite scores can be ranked
        if values is None or (values.values if isinstance(values, LazyAbs) else values).sum().isfinite():
            continue
        if bool(values[eligible[name]].isnan().any()):
            raise FloatingPointError(
                f"Every score of a method must be a number, got NaN from {part} = "
                f"{getattr(score, '__name__', score)!r} in {name!r} at step {parameters[name].step}. "
                "The masks did not change. Return a number for every weight."
            )


def check_not_empty(method: Method, parameters: PrunableParameters, masks: Mapping[str, Tensor]) -> None:
    """Check that no tensor loses its last active weight.

    Raises:
        MethodError: a tensor loses it.
    """
    for name, mask in masks.items():
        if parameters[name].mask.any() and not mask.any():
            raise MethodError(
                f"Every tensor must keep an active weight, got none in {name!r} at step {parameters[name].step}, since "
                f"its weights are ranked against those of other tensors and floor is {method.floor:g}. "
                "Set floor = 0.02, rank by the scope 'tensor', or leave it dense."
            )
