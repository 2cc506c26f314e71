"""How many weights each tensor gets.

An allocation is a function `(shapes, budget) -> counts`: shapes by parameter name, the number of weights that stay, and
back the number for each tensor, with sum(counts) == budget and 0 <= counts[name] <= shapes[name].numel().
To add one, write the function and its line in ALLOCATIONS; functools.partial gives those with options their options.
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
    """Keep some tensors dense and give the others one density; where the dense ones do not fit, be uniform.

    Args:
        shapes, budget: as of every allocation.
        dense: names of those that stay dense; default the first, as in RigL's "uniform".
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    whole = {next(iter(sizes))} if dense is None else set(dense)
    sparse = {name: 0 if name in whole else size for name, size in sizes.items()}
    left = budget - (sum(sizes.values()) - sum(sparse.values()))  # for those that are not dense
    if left < len(sizes):  # the dense ones do not fit: nothing for it but the same density for all
        return uniform(shapes, budget)
    counts = apportion(left, sparse, dict.fromkeys(sizes, 0), sparse)
    return {name: size if name in whole else counts[name] for name, size in sizes.items()}


def er(shapes: Mapping[str, torch.Size], budget: int) -> dict[str, int]:
    """Give the tensors the densities of an Erdos-Renyi graph: p_l = min(1, eps (n_in + n_out) / (n_in n_out)).

    eps is the one number that meets the budget, with tensors whose p_l would pass 1 dense (the dense-layer iteration
    of RigL, solved directly). In a convolution every position of the kernel has the density of its (n_out, n_in).
    Source: Mocanu et al. 2018 (SET), section on sparse initialisation.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    shares = {name: float(sum(shape[:2]) * math.prod(shape[2:])) for name, shape in shapes.items()}
    return apportion(budget, shares, dict.fromkeys(sizes, 0), sizes)


def erk(shapes: Mapping[str, torch.Size], budget: int, *, power: float = 1.0) -> dict[str, int]:
    """Give p_l = min(1, eps (sum of the dimensions / product of the dimensions)^power), kernels included.

    For matrices and power 1 it is `er`. Source: Evci et al. 2020 (RigL), section 3; power as in its code.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    shares = {name: sizes[name] * (sum(shape) / sizes[name]) ** power for name, shape in shapes.items()}
    return apportion(budget, shares, dict.fromkeys(sizes, 0), sizes)


def table(shapes: Mapping[str, torch.Size], budget: int, *, counts: Mapping[str, int]) -> dict[str, int]:
    """Give each tensor what a table says, e.g. one that was searched; `functools.partial(table, counts=...)`.

    Another budget than the table's is split in its proportions.

    Raises:
        ValueError: a tensor is missing.
    """
    missing = [name for name in shapes if name not in counts]
    if missing:
        raise ValueError(f"a table must hold every tensor, and {missing[0]!r} is missing; it has {', '.join(counts)}")
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    return apportion(budget, {name: counts[name] for name in shapes}, dict.fromkeys(sizes, 0), sizes)


ALLOCATIONS: dict[str, Allocation] = {"uniform": uniform, "er": er, "erk": erk, "uniform_except": uniform_except}
