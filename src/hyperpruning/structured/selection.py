"""Selection of units by norm: a given number of units, or as many as fit into a number of weights.

The norms (H,) by group are from `units.group_norms`; the selection, bool (H,) by group, is for `units.unit_masks` and
`units.shrink`.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyperpruning.sparsity.selection import largest
from hyperpruning.structured.units import Units


def strongest_units(norms: Mapping[str, Tensor], count: int | Mapping[str, int]) -> dict[str, Tensor]:
    """Select the units with the largest norms; of equal norms the first, in the order of the groups.

    Args:
        norms: (H,) by group.
        count: number of units over all groups (each group keeps at least one), or a number for each group.

    Returns:
        bool (H,) by group, True for the units that are kept.

    Raises:
        ValueError: a group would keep no unit or more than it has; a norm is not finite.

    >>> norms = {"l0": torch.tensor([3.0, 1.0, 2.0]), "l1": torch.tensor([0.1, 0.2])}
    >>> strongest_units(norms, 3)
    {'l0': tensor([ True, False,  True]), 'l1': tensor([False,  True])}
    """
    sizes = {name: len(norm) for name, norm in norms.items()}
    for name, norm in norms.items():
        if not norm.isfinite().all():
            raise ValueError(f"norms must be finite, got others in group {name!r}. Lower the learning rate.")
    if isinstance(count, int):
        if not len(sizes) <= count <= sum(sizes.values()):
            raise ValueError(
                f"count must be {len(sizes)} to {sum(sizes.values())}, so that each group of {sizes} keeps a unit, "
                f"got {count}."
            )
        first = [norm.masked_fill(_largest([norm], 1)[0], math.inf) for norm in norms.values()]
        return dict(zip(norms, _largest(first, count), strict=True))
    for name, size in sizes.items():
        if not 1 <= count.get(name, 0) <= size:
            raise ValueError(f"count must be 1 to {size} for group {name!r}, got {count.get(name)}.")
    return {name: _largest([norm], count[name])[0] for name, norm in norms.items()}


def _largest(norms: Sequence[Tensor], count: int) -> list[Tensor]:
    return largest(norms, [torch.ones_like(norm, dtype=torch.bool) for norm in norms], count)


def units_within(
    norms: Mapping[str, Tensor], groups: Mapping[str, Units], shapes: Mapping[str, torch.Size], budget: int
) -> dict[str, Tensor]:
    """Select the strongest units whose weights fit into a budget.

    The units are tried in the order of their norms; a unit that no longer fits is skipped. A unit has hundreds of
    weights, so the result has at most `budget` weights and usually fewer; `weights_left` counts them.

    Args:
        norms: (H,) by group.
        groups: the units.
        shapes: of the tensors that count, as for `weights_left`.
        budget: largest number of weights.

    Returns:
        bool (H,) by group; each keeps at least its strongest unit.

    Raises:
        ValueError: one unit of each group does not fit.
    """
    kept = strongest_units(norms, dict.fromkeys(groups, 1))
    counts = dict.fromkeys(groups, 1)
    least = weights_left(shapes, groups, counts)
    if budget < least:
        raise ValueError(
            f"budget must be at least {least} weights, which one unit of each of {list(groups)} and all weights "
            f"outside the units need, got {budget}. Raise it."
        )
    places = [(name, unit) for name, norm in norms.items() for unit in range(len(norm))]
    for place in torch.cat(list(norms.values())).argsort(descending=True, stable=True).tolist():
        name, unit = places[place]
        more = counts | {name: counts[name] + 1}
        if not kept[name][unit] and weights_left(shapes, groups, more) <= budget:
            kept[name][unit], counts = True, more
    return kept


def weights_left(
    shapes: Mapping[str, torch.Size], groups: Mapping[str, Units], counts: Mapping[str, int | Tensor]
) -> int:
    """Count the weights of a network that keeps a given number of units in each group.

    Args:
        shapes: of the tensors that count, by parameter name. Leave out the biases to count weights as `sparsity` does;
            leave out the embedding too to count the multiply-adds of one token.
        groups: the units; all other weights are kept.
        counts: number of units that are kept in each group, or bool (H,).

    >>> from hyperpruning.structured.units import recurrent_units
    >>> layer = torch.nn.LSTM(10, 20)
    >>> shapes = {name: p.shape for name, p in layer.named_parameters()}
    >>> weights_left(shapes, recurrent_units(layer, "", readers=[]), {"l0": 5})  # 4 gates (10 + 5 + 2 biases) 5
    340
    """
    left = {name: list(shape) for name, shape in shapes.items()}
    for group, units in groups.items():
        for axis in units.axes:
            if axis.parameter in left:
                left[axis.parameter][axis.dim] = axis.blocks * int(torch.as_tensor(counts[group]).sum())
    return sum(math.prod(shape) for shape in left.values())
