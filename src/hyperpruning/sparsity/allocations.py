"""Allocations: how many active weights each tensor gets.

An allocation is a function `(shapes, budget) -> counts`. `shapes` are the tensors' shapes by parameter name, `budget`
is the total number of active weights. It returns the number of active weights of each tensor, with
sum(counts) == budget and 0 <= counts[name] <= shapes[name].numel().

To add one, write the function and add a line to ALLOCATIONS. Set the options of a function by functools.partial.
"""

import math
from collections.abc import Callable, Collection, Mapping

import torch

from hyperpruning.sparsity.selection import apportion

Allocation = Callable[[Mapping[str, torch.Size], int], dict[str, int]]


def uniform(shapes: Mapping[str, torch.Size], budget: int) -> dict[str, int]:
    """Give every tensor the same density: a_l = D N_l."""
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    return apportion(budget, sizes, dict.fromkeys(sizes, 0), sizes)


def uniform_except(
    shapes: Mapping[str, torch.Size], budget: int, *, dense: Collection[str] | None = None
) -> dict[str, int]:
    """Keep some tensors dense and give the others one density; `uniform` if the dense ones exceed the budget.

    Args:
        shapes: the tensors' shapes by parameter name.
        budget: the total number of active weights.
        dense: the names of the dense tensors; default the first tensor, as in RigL's "uniform".
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    whole = {next(iter(sizes))} if dense is None else set(dense)
    sparse = {name: 0 if name in whole else size for name, size in sizes.items()}
    left = budget - (sum(sizes.values()) - sum(sparse.values()))  # for the tensors that are not dense
    if left < len(sizes):  # too few for the other tensors
        return uniform(shapes, budget)
    counts = apportion(left, sparse, dict.fromkeys(sizes, 0), sparse)
    return {name: size if name in whole else counts[name] for name, size in sizes.items()}


def er(shapes: Mapping[str, torch.Size], budget: int) -> dict[str, int]:
    """Give the tensors the densities of an Erdos-Renyi graph: p_l = min(1, eps (n_in + n_out) / (n_in n_out)).

    eps is the number for which the densities meet the budget. Tensors with p_l = 1 are dense (RigL finds them by
    iteration, this function directly). Every position of a convolution's kernel has the density of its (n_out, n_in).
    Source: Mocanu et al. 2018 (SET), section on sparse initialisation.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    shares = {name: float(sum(shape[:2]) * math.prod(shape[2:])) for name, shape in shapes.items()}
    return apportion(budget, shares, dict.fromkeys(sizes, 0), sizes)


def erk(shapes: Mapping[str, torch.Size], budget: int, *, power: float = 1.0) -> dict[str, int]:
    """Give the tensors the densities p_l = min(1, eps (sum(shape) / prod(shape))^power), kernel dimensions included.

    For matrices and power 1 it equals `er`. Source: Evci et al. 2020 (RigL), section 3, and the power in its code.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    shares = {name: sizes[name] * (sum(shape) / sizes[name]) ** power for name, shape in shapes.items()}
    return apportion(budget, shares, dict.fromkeys(sizes, 0), sizes)


def table(shapes: Mapping[str, torch.Size], budget: int, *, counts: Mapping[str, int]) -> dict[str, int]:
    """Give each tensor the number of weights in a table; use it as `functools.partial(table, counts=...)`.

    If the table's sum is not the budget, the budget is split in proportion to the table.

    Raises:
        ValueError: a tensor is missing in the table.
    """
    missing = [name for name in shapes if name not in counts]
    if missing:
        raise ValueError(f"counts must have every tensor, got {', '.join(counts)} without {missing[0]!r}.")
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    return apportion(budget, {name: counts[name] for name in shapes}, dict.fromkeys(sizes, 0), sizes)


ALLOCATIONS: dict[str, Allocation] = {"uniform": uniform, "er": er, "erk": erk, "uniform_except": uniform_except}
