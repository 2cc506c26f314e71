"""The tensors that a method keeps between updates, by name in one dict that is saved with the masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperpruning.sparsity.parameter import optimizer_state

AVERAGE_DECAY = 0.9  # of the running mean of the gradient, per optimizer step


@torch.no_grad()
def update_gradient_average(buffers: dict[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    """Update the running mean of each parameter's gradient, pruned weights included."""
    for name, parameter in parameters.items():
        mean = buffers.setdefault(f"average {name}", torch.zeros_like(parameter))
        if parameter.grad is not None:
            mean.lerp_(parameter.grad.to_dense(), 1 - AVERAGE_DECAY)


def save_rewind_weights(buffers: dict[str, Tensor], model: nn.Module) -> None:
    """Save a copy of all of the model's parameters, also of those that are not prunable, to rewind to."""
    for name, parameter in model.named_parameters():
        buffers[f"rewind {name}"] = parameter.detach().clone()


def rewind_weights(buffers: Mapping[str, Tensor], model: nn.Module, optimizer: Optimizer | None) -> None:
    """Restore the saved parameters, if there are any, and set the optimizer's state of their shape to zero."""
    for name, parameter in model.named_parameters():
        if f"rewind {name}" in buffers:
            parameter.data.copy_(buffers[f"rewind {name}"])
            for state in optimizer_state(optimizer, parameter).values():
                state.zero_()
