"""Costs: what the sparsity counts.

A cost is a function `(name, parameter) -> integer` that returns the cost of one weight of a parameter. A parameter
whose weights cost 0 is not pruned.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Cost = Callable[[str, nn.Parameter], int]


def weights(name: str, parameter: nn.Parameter) -> int:
    """Cost 1 for a weight of a matrix or a kernel; 0 for biases and other vectors, which are not pruned."""
    return int(parameter.ndim >= 2)


def multiply_adds(model: nn.Module, example: Any = None) -> Cost:
    """Return a cost that counts the multiply-adds of each weight for one token (one sequence position, one image).

    A weight of a linear or recurrent layer costs 1; a weight of a convolution costs 1 for each position of its output.
    An embedding lookup costs nothing, so embeddings stay dense, unless they are tied to a decoder. A module that is
    used several times in one forward pass costs more only if it is a convolution.

    Args:
        model: the model with the parameters.
        example: an input of the model; required if it has convolutions.

    Returns:
        the cost function.

    Raises:
        ValueError: the model has convolutions, and `example` is None.
    """
    costs: dict[nn.Parameter, int] = {}
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    convolutions: dict[nn.Module, int] = {module: 0 for module in model.modules() if isinstance(module, kinds)}
    if convolutions and example is None:
        raise ValueError(
            "example must be an input of the model when the model has convolutions, got None. "
            "Give multiply_adds an example."
        )
    if convolutions:
        _count_positions(model, convolutions, example)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            cost = convolutions.get(module, 0 if isinstance(module, nn.Embedding | nn.EmbeddingBag) else 1)
            costs[parameter] = costs.get(parameter, 0) + cost
    return lambda name, parameter: costs.get(parameter, 1) if parameter.ndim >= 2 else 0


def _count_positions(model: nn.Module, positions: dict[nn.Module, int], example: Any) -> None:
    """Count the output positions of each convolution in a forward pass of the example."""

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        positions[module] += math.prod(output.shape[-len(module.kernel_size) :])  # type: ignore[arg-type]

    hooks = [module.register_forward_hook(count) for module in positions]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
