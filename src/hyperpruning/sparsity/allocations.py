"""How many weights each tensor gets at the start.

An allocation is a function `(shapes, budget) -> counts`: shapes by parameter name, the number of weights that stay, and
back the number for each tensor, with sum(counts) == budget and 0 <= counts[name] <= shapes[name].numel().
To add one, write the function and its line in ALLOCATIONS.
"""

import math
from collections.abc import Callable, Mapping

import torch

from hyperpruning.sparsity.exact import apportion

Allocation = Callable[[Mapping[str, torch.Size], int], dict[str, int]]


def uniform(shapes: Mapping[str, torch.Size], budget: int) -> dict[str, int]:
    """Give every tensor the same density: a_l = D N_l."""
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    return apportion(budget, sizes, dict.fromkeys(sizes, 0), sizes)


def er(shapes: Mapping[str, torch.Size], budget: int) -> dict[str, int]:
    """Give the tensors the densities of an Erdos-Renyi graph: p_l = min(1, eps (n_in + n_out) / (n_in n_out)).

    eps is the one number that meets the budget, with tensors whose p_l would pass 1 dense (the dense-layer iteration
    of RigL, solved directly). In a convolution every position of the kernel has the density of its (n_out, n_in).
    Source: Mocanu et al. 2018 (SET), section on sparse initialisation.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    shares = {name: float(sum(shape[:2]) * math.prod(shape[2:])) for name, shape in shapes.items()}
    return apportion(budget, shares, dict.fromkeys(sizes, 0), sizes)


ALLOCATIONS: dict[str, Allocation] = {"uniform": uniform, "er": er}
