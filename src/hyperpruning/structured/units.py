"""Whole units of a recurrent layer: Intrinsic Sparse Structures (Wen et al. 2018, arXiv 1709.05027).

A unit is everything that goes with one entry of a layer's state: its rows in every gate of W_ih and W_hh, its biases,
its column of W_hh, and its columns of whatever reads the layer. Zero together, they can be cut away: `shrink`.

Which entries these are is data, `Units`; `recurrent_units` writes it down for torch's recurrent modules, and a cell of
one's own needs a few lines. A layer of w (G H, I), r (depth, G H, H), b (depth, G H) that a decoder reads has

    Units(H, (Axis("w", 0, G), Axis("r", 1, G), Axis("b", 1, G), Axis("r", 2), Axis("decoder.weight", 1)))

Groups of units (one for each layer, say) are mappings by a name of one's choice; so is what is kept of them, bool (H,).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Axis:
    """Where units stand in a parameter: unit k at k, H + k, 2 H + k ... along one dimension.

    Attributes:
        parameter: its name.
        dim: the dimension, from 0.
        blocks: how many times the H units follow each other: 4 in the stacked gates of an LSTM, 3 of a GRU.
    """

    parameter: str
    dim: int
    blocks: int = 1


@dataclass(frozen=True)
class Units:
    """H units, and everywhere they stand. An entry of two axes (the diagonal of W_hh) counts once.

    Attributes:
        size: the number H.
        axes: of all parameters that write the units and that read them.
    """

    size: int
    axes: tuple[Axis, ...]


def recurrent_units(model: nn.Module, rnn: str, *, readers: Iterable[str]) -> dict[str, Units]:
    """Describe the units of each layer of an `nn.LSTM`, `nn.GRU` or `nn.RNN` inside a model.

    Args:
        model: whose `named_parameters()` the axes name; tied parameters have their first name.
        rnn: name of the recurrent module in it; "" where the model is that module.
        readers: names of the parameters whose columns (dim 1) read the top layer, "decoder.weight"; none where nothing
            but the caller reads it. **A tied decoder** makes unit k of the top layer and column k of the embedding
            one: they are pruned and cut together, and what reads the embedding is a second reader ("rnn.weight_ih_l0").
            To prune the layer and not the embedding, untie them first.

    Returns:
        units by layer: "rnn.l0", "rnn.l1" ..., from the bottom up.

    Raises:
        ValueError: no such layers (both directions and projections included) or readers.

    >>> recurrent_units(nn.GRU(3, 5), "", readers=[])["l0"].axes[0]
    Axis(parameter='weight_ih_l0', dim=0, blocks=3)
    """
    prefix = f"{rnn}." if rnn else ""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    layers = [name for name in shapes if name.startswith(f"{prefix}weight_hh_l")]
    if not layers or any(f"{prefix}weight_{kind}" in shapes for kind in ("hh_l0_reverse", "hr_l0")):
        raise ValueError(
            f"units are those of an nn.LSTM, nn.GRU or nn.RNN of one direction without projection, and {rnn!r} is "
            "none: name such a module, or describe the units as Units(size, axes)"
        )
    above = _once(model, list(readers))
    groups: dict[str, Units] = {}
    for layer, weight in reversed(list(enumerate(layers))):
        size = shapes[weight][1]
        kinds = [f"{prefix}{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        rows = [Axis(name, 0, shapes[weight][0] // size) for name in kinds if name in shapes]
        groups[f"{prefix}l{layer}"] = Units(size, (*rows, Axis(weight, 1), *(Axis(name, 1) for name in above)))
        above = [f"{prefix}weight_ih_l{layer}"]
    return dict(reversed(groups.items()))


def _once(model: nn.Module, readers: list[str]) -> list[str]:
    """Return the readers by the name under which `named_parameters` lists them, and refuse a half-told tie."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    every = dict(model.named_parameters(remove_duplicate=False))
    for reader in readers:
        if reader not in every:
            raise ValueError(
                f"a reader must be a parameter of the model, and {reader!r} is none; there are {', '.join(every)}"
            )
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    if len(readers) == 1 and id(every[readers[0]]) in embeddings:
        raise ValueError(
            f"units tied to an embedding need the reader of that embedding too, and {readers[0]!r} came alone: "
            'add it ("rnn.weight_ih_l0"), or untie the two'
        )
    return [names[id(every[reader])] for reader in readers]


def group_norms(parameters: Mapping[str, Tensor], units: Units, *, epsilon: float = 0.0) -> Tensor:
    """Return each unit's norm sqrt(sum of squares + epsilon), (H,); differentiable where it is not zero."""
    _check_axes(parameters, {"units": units})
    squares = {name: parameters[name].square() for name in dict.fromkeys(axis.parameter for axis in units.axes)}
    return (_sums(squares, units) + epsilon).sqrt()


def group_lasso(parameters: Mapping[str, Tensor], groups: Mapping[str, Units], *, epsilon: float = 1e-8) -> Tensor:
    """Return the penalty that drives whole units to zero: the sum of all units' norms, a scalar with a gradient.

    Args:
        parameters: by name, dict(model.named_parameters()).
        groups: the units of each layer.
        epsilon: under the root, so that the gradient exists at zero. Wen et al. weight the penalty by 0.003 for 2 x
            1500 units, and after each step set weights below 1e-4 to zero.
    """
    return torch.stack([group_norms(parameters, units, epsilon=epsilon).sum() for units in groups.values()]).sum()


def _sums(values: Mapping[str, Tensor], units: Units) -> Tensor:
    """Return the sum of each unit's entries, each of them once, (H,)."""
    total = torch.zeros(())
    for index, axis in enumerate(units.axes):
        value = values[axis.parameter]
        for before in units.axes[:index]:
            if before.parameter == axis.parameter:
                twice = _numbers(before, units.size, value) == _numbers(axis, units.size, value)
                value = value.masked_fill(twice, 0)
        others = [dim for dim in range(value.ndim) if dim != axis.dim]
        value = value.sum(others) if others else value  # (blocks H,)
        total = total.to(value) + value.view(axis.blocks, units.size).sum(0)
    return total


def _numbers(axis: Axis, size: int, like: Tensor) -> Tensor:
    """Return the number of the unit at each place of an axis, shaped to broadcast over the parameter."""
    shape = [1] * like.ndim
    shape[axis.dim] = -1
    return torch.arange(size, device=like.device).repeat(axis.blocks).view(shape)


def unit_masks(
    parameters: Mapping[str, Tensor], groups: Mapping[str, Units], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the masks of a choice: bool of each parameter's shape, biases included, False where a pruned unit stands.

    Raises:
        ValueError: the choice, the groups and the parameters do not fit each other.
    """
    _check_axes(parameters, groups)
    _check_choice(groups, kept)
    masks: dict[str, Tensor] = {}
    for group, units in groups.items():
        for axis in units.axes:
            value = parameters[axis.parameter]
            mask = masks.setdefault(axis.parameter, torch.ones_like(value, dtype=torch.bool))
            mask &= kept[group].to(value.device)[_numbers(axis, units.size, value)]
    return masks


@torch.no_grad()
def shrink(
    parameters: Mapping[str, Tensor], groups: Mapping[str, Units], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Cut away the pruned units: the weights of a smaller dense network that computes the same.

    Every entry of a pruned unit must be zero. Nothing then reads it, so that the outputs are the same from any start
    state: give the kept entries of it, state[..., kept]. What is cut was zero all the time if it was zero at the start
    (without drive, LSTM, GRU and RHN halve a state in each step, and the GRU's and RHN's never quite ends).

    Args:
        parameters: by name, all of the network's or those that the groups name.
        groups: the units.
        kept: bool (H,) by group.

    Returns:
        the tensors by name; what no group names as it was.

    Raises:
        ValueError: a unit to be cut is not zero, or the choice, the groups and the parameters do not fit each other.
    """
    _check_axes(parameters, groups)
    _check_choice(groups, kept)
    small = {name: value.detach().clone() for name, value in parameters.items()}
    for group, units in groups.items():
        nonzero = _sums({axis.parameter: (parameters[axis.parameter] != 0).double() for axis in units.axes}, units) > 0
        alive = (nonzero.cpu() & ~kept[group].cpu()).nonzero().flatten().tolist()
        if alive:
            raise ValueError(
                f"a unit must be zero to be cut, and unit {alive[0]} of {group!r} is not ({len(alive)} in all): "
                "multiply the parameters by unit_masks(...), and train the rest on, before"
            )
        for axis in units.axes:
            index = kept[group].repeat(axis.blocks).nonzero().squeeze(1)
            value = small[axis.parameter]
            small[axis.parameter] = value.index_select(axis.dim, index.to(value.device))
    return small


def _check_axes(parameters: Mapping[str, Tensor], groups: Mapping[str, Units]) -> None:
    """Refuse units that do not stand where they are said to."""
    owner: dict[tuple[str, int], str] = {}
    for group, units in groups.items():
        for axis in units.axes:
            shape = tuple(parameters[axis.parameter].shape) if axis.parameter in parameters else None
            if shape is None or not 0 <= axis.dim < len(shape) or shape[axis.dim] != axis.blocks * units.size:
                raise ValueError(
                    f"the units of {group!r} need {axis.blocks} x {units.size} entries along dim {axis.dim} of "
                    f"{axis.parameter!r}, and its shape is {shape or 'not given'}: correct the Axis"
                )
            if owner.setdefault((axis.parameter, axis.dim), group) != group:
                raise ValueError(
                    f"a dimension belongs to one group of units, and dim {axis.dim} of {axis.parameter!r} to "
                    f"{owner[axis.parameter, axis.dim]!r} and {group!r}: join the two"
                )


def _check_choice(groups: Mapping[str, Units], kept: Mapping[str, Tensor]) -> None:
    """Refuse a choice that is not one of these units, or keeps none."""
    for group, units in groups.items():
        choice = kept.get(group)
        if choice is None or choice.dtype != torch.bool or choice.shape != (units.size,) or not choice.any():
            raise ValueError(
                f"a choice is bool ({units.size},) for group {group!r}, one at least True, and this is {choice}: "
                "make it with strongest_units"
            )
