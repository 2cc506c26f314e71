"""What a budget counts.

A cost is a function `(name, parameter) -> whole number`: of one weight of a parameter; parameters that cost nothing are
not pruned.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Cost = Callable[[str, nn.Parameter], int]


def weights(name: str, parameter: nn.Parameter) -> int:
    """Count every weight of a matrix as one; a bias, and any other vector, is not pruned."""
    return int(parameter.ndim >= 2)


def multiply_adds(model: nn.Module, example: Any = None) -> Cost:
    """Count the multiply-adds of each weight for one token (one position of a sequence, one image).

    A weight of a linear or recurrent layer costs one, of a convolution one for each position of its output. Looking up
    an embedding costs nothing, so embeddings stay dense, unless they are tied to a decoder, which costs its product.
    A module that is used several times counts each time only where it is a convolution.

    Args:
        model: whose parameters are to be counted.
        example: an input of the model, needed for convolutions.

    Raises:
        ValueError: the model has convolutions, and there is no example.
    """
    costs: dict[nn.Parameter, int] = {}
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    convolutions: dict[nn.Module, int] = {module: 0 for module in model.modules() if isinstance(module, kinds)}
    if convolutions and example is None:
        raise ValueError(
            "a convolution costs its weights times the positions of its output, and these depend on the input; "
            "give multiply_adds an example"
        )
    if convolutions:
        _count_positions(model, convolutions, example)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            cost = convolutions.get(module, 0 if isinstance(module, nn.Embedding | nn.EmbeddingBag) else 1)
            costs[parameter] = costs.get(parameter, 0) + cost
    return lambda name, parameter: costs.get(parameter, 1) if parameter.ndim >= 2 else 0


def _count_positions(model: nn.Module, positions: dict[nn.Module, int], example: Any) -> None:
    """Run the example through the model and count the positions of each convolution's output."""

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
