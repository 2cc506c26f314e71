"""What a method remembers between updates, by name in one dict of tensors that is saved with the masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperpruning.sparsity.parameter import optimizer_state

FACTOR = 0.9  # of the running mean of the gradient, a step


@torch.no_grad()
def average(memory: dict[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    """Keep the running mean of the gradient, of pruned weights too."""
    for name, parameter in parameters.items():
        mean = memory.setdefault(f"average {name}", torch.zeros_like(parameter))
        if parameter.grad is not None:
            mean.lerp_(parameter.grad.to_dense(), 1 - FACTOR)


def remember(memory: dict[str, Tensor], model: nn.Module) -> None:
    """Keep the weights to which each round returns, those that are not pruned among them."""
    for name, parameter in model.named_parameters():
        memory[f"rewind {name}"] = parameter.detach().clone()


def rewind(memory: Mapping[str, Tensor], model: nn.Module, optimizer: Optimizer | None) -> None:
    """Return to the weights that were kept, if they have been, with fresh optimizer state."""
    for name, parameter in model.named_parameters():
        if f"rewind {name}" in memory:
            parameter.data.copy_(memory[f"rewind {name}"])
            for state in optimizer_state(optimizer, parameter).values():
                state.zero_()
