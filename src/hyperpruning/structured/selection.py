"""Which units stay: exactly so many, or as many as a number of weights allows.

Norms (H,) by group come from `units.group_norms`; answers, bool (H,) by group, go to `units.unit_masks` and `shrink`.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyperpruning.sparsity.selection import largest
from hyperpruning.structured.units import Units


def strongest_units(norms: Mapping[str, Tensor], count: int | Mapping[str, int]) -> dict[str, Tensor]:
    """Choose exactly so many units, those with the largest norms; of equal ones the first, groups in their order.

    Args:
        norms: (H,) by group.
        count: of all groups together, each of which keeps at least its strongest; or one count for each group.

    Returns:
        bool (H,) by group, True for what is kept.

    Raises:
        ValueError: a group would keep no unit or more than it has; a norm is not finite.

    >>> norms = {"l0": torch.tensor([3.0, 1.0, 2.0]), "l1": torch.tensor([0.1, 0.2])}
    >>> strongest_units(norms, 3)
    {'l0': tensor([ True, False,  True]), 'l1': tensor([False,  True])}
    """
    sizes = {name: len(norm) for name, norm in norms.items()}
    for name, norm in norms.items():
        if not norm.isfinite().all():
            raise ValueError(f"norms must be finite to be ranked, and group {name!r} has others: train it more gently")
    if isinstance(count, int):
        if not len(sizes) <= count <= sum(sizes.values()):
            raise ValueError(
                f"every group keeps a unit, so {len(sizes)} to {sum(sizes.values())} of {sizes} can stay, not {count}"
            )
        first = [norm.masked_fill(_largest([norm], 1)[0], math.inf) for norm in norms.values()]
        return dict(zip(norms, _largest(first, count), strict=True))
    for name, size in sizes.items():
        if not 1 <= count.get(name, 0) <= size:
            raise ValueError(f"group {name!r} can keep 1 to {size} units, not {count.get(name)}: give it such a count")
    return {name: _largest([norm], count[name])[0] for name, norm in norms.items()}


def _largest(norms: Sequence[Tensor], count: int) -> list[Tensor]:
    return largest(norms, [torch.ones_like(norm, dtype=torch.bool) for norm in norms], count)


def units_within(
    norms: Mapping[str, Tensor], groups: Mapping[str, Units], shapes: Mapping[str, torch.Size], budget: int
) -> dict[str, Tensor]:
    """Choose units for a number of weights: strongest first, each that still fits, until no other does.

    Units cost hundreds of weights, so a budget is met from below; `weights_left` says what is reached.

    Args:
        norms: (H,) by group.
        groups: the units.
        shapes: of the tensors that count, as for `weights_left`.
        budget: the most weights that may be left.

    Returns:
        bool (H,) by group; each keeps at least its strongest unit.

    Raises:
        ValueError: not even one unit of each group fits.
    """
    kept = strongest_units(norms, dict.fromkeys(groups, 1))
    counts = dict.fromkeys(groups, 1)
    least = weights_left(shapes, groups, counts)
    if budget < least:
        raise ValueError(
            f"a budget must hold one unit of each of {list(groups)}, {least} weights with what they leave untouched, "
            f"and {budget} does not: raise it"
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
    """Count the weights that are left when so many units are; which ones makes no difference.

    Args:
        shapes: of the tensors that count, by parameter name: without the biases, the weights of this project's
            sparsity; without the embedding as well, the multiply-adds of one token.
        groups: the units; what they do not touch stays whole.
        counts: units that stay in each group, or bool (H,).

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
