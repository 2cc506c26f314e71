"""Prunable parameters, as the functions of a pruning method get them."""

import torch
from torch import nn

from hyperpruning.sparsity.parameter import PrunableParameter


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def prunable_parameter(weight, mask=None, *, gradient=None, name="w", **others):
    """One parameter; by default its nonzero weights are active."""
    parameter = nn.Parameter(torch.as_tensor(weight, dtype=torch.float32))
    if gradient is not None:
        parameter.grad = torch.as_tensor(gradient, dtype=torch.float32)
    mask = parameter.detach() != 0 if mask is None else torch.as_tensor(mask, dtype=torch.bool)
    usual = {"ever_active": mask.clone(), "block_shape": (1, 1), "row_groups": 1, "optimizer": {}, "average": None}
    return PrunableParameter(name=name, tensor=parameter, mask=mask, generator=generator(), **(usual | others))


def prunable_parameters(**weights):
    return {name: prunable_parameter(weight, name=name) for name, weight in weights.items()}
