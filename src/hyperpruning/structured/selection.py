"""Which hidden units are kept: a given number, or as many as a weight budget allows.

The norms, (H,) by group, come from `units.group_norms`. The result, bool (H,) by group, is the argument `kept` of
`units.unit_masks` and `units.shrink`.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyperpruning.sparsity.selection import largest
from hyperpruning.structured.units import UnitGroup


def strongest_units(norms: Mapping[str, Tensor], count: int | Mapping[str, int]) -> dict[str, Tensor]:
    """Choose exactly `count` units, those with the largest norms; of equal norms the first.

    Args:
        norms: (H,) by group.
        count: the total number of units (every group keeps at least its strongest one), or the number by group.

    Returns:
        bool (H,) by group, True for the units that are kept.

    Raises:
        ValueError: a group would keep no unit or more than it has, or a norm is not finite.

    >>> norms = {"l0": torch.tensor([3.0, 1.0, 2.0]), "l1": torch.tensor([0.1, 0.2])}
    >>> strongest_units(norms, 3)
    {'l0': tensor([ True, False,  True]), 'l1': tensor([False,  True])}
    """
    sizes = {name: len(norm) for name, norm in norms.items()}
    for name, norm in norms.items():
        if not norm.isfinite().all():
            raise ValueError(
                f"All norms must be finite, got NaN or infinity in group {name!r}. Lower the learning rate."
            )
    if isinstance(count, int):
        if not len(sizes) <= count <= sum(sizes.values()):
            raise ValueError(
                f"count must be {len(sizes)} to {sum(sizes.values())}, at least one unit for each group of {sizes}, "
                f"got {count}."
            )
        first = [norm.masked_fill(_largest([norm], 1)[0], math.inf) for norm in norms.values()]
        return dict(zip(norms, _largest(first, count), strict=True))
    for name, size in sizes.items():
        if not 1 <= count.get(name, 0) <= size:
            raise ValueError(f"count of group {name!r} must be 1 to {size}, got {count.get(name)}.")
    return {name: _largest([norm], count[name])[0] for name, norm in norms.items()}


def _largest(norms: Sequence[Tensor], count: int) -> list[Tensor]:
    return largest(norms, [torch.ones_like(norm, dtype=torch.bool) for norm in norms], count)


def units_within_budget(
    norms: Mapping[str, Tensor], groups: Mapping[str, UnitGroup], shapes: Mapping[str, torch.Size], budget: int
) -> dict[str, Tensor]:
    """Choose units within a weight budget: in the order of their norms, every unit that still fits.

    A unit has hundreds of weights, so the remaining weights are slightly below the budget; `remaining_weights` returns
    their number.

    Args:
        norms: (H,) by group.
        groups: the unit groups by name.
        shapes: the shapes of the tensors whose weights count, as for `remaining_weights`.
        budget: the largest number of remaining weights.

    Returns:
        bool (H,) by group; each group keeps at least its strongest unit.

    Raises:
        ValueError: the budget is too small for one unit of each group.
    """
    kept = strongest_units(norms, dict.fromkeys(groups, 1))
    counts = dict.fromkeys(groups, 1)
    least = remaining_weights(shapes, groups, counts)
    if budget < least:
        raise ValueError(
            f"budget must be at least {least} weights, for one unit of each of {list(groups)} and the weights outside "
            f"the groups, got {budget}. Raise it."
        )
    places = [(name, unit) for name, norm in norms.items() for unit in range(len(norm))]
    for place in torch.cat(list(norms.values())).argsort(descending=True, stable=True).tolist():
        name, unit = places[place]
        more = counts | {name: counts[name] + 1}
        if not kept[name][unit] and remaining_weights(shapes, groups, more) <= budget:
            kept[name][unit], counts = True, more
    return kept


def remaining_weights(
    shapes: Mapping[str, torch.Size], groups: Mapping[str, UnitGroup], counts: Mapping[str, int | Tensor]
) -> int:
    """Return the number of remaining weights if the given number of units is kept.

    Args:
        shapes: the shapes of the tensors whose weights count, by parameter name. Leave out the biases to count what
            `sparsity` counts; leave out the embedding too to count the multiply-adds per token.
        groups: the unit groups by name; parameters outside them are counted whole.
        counts: the number of kept units by group, or bool (H,) by group.

    >>> from hyperpruning.structured.units import recurrent_units
    >>> layer = torch.nn.LSTM(10, 20)
    >>> shapes = {name: p.shape for name, p in layer.named_parameters()}
    >>> remaining_weights(shapes, recurrent_units(layer, "", readers=[]), {"l0": 5})  # 4 gates (10 + 5 + 2 biases) 5
    340
    """
    left = {name: list(shape) for name, shape in shapes.items()}
    for group, units in groups.items():
        for axis in units.axes:
            if axis.parameter in left:
                left[axis.parameter][axis.dim] = axis.repeats * int(torch.as_tensor(counts[group]).sum())
    return sum(math.prod(shape) for shape in left.values())
