"""Whole units of a recurrent layer: Intrinsic Sparse Structures (Wen et al. 2018, arXiv 1709.05027).

A unit is all parameters of one entry of a layer's state: its rows in every gate of W_ih and W_hh, its biases, its
column of W_hh, and its columns of every matrix that reads the layer. If all of them are zero, `shrink` removes them.

`Units` describes where these entries are. `recurrent_units` creates it for torch's recurrent modules; for your own cell
write it by hand. A layer of w (G H, I), r (depth, G H, H), b (depth, G H) that a decoder reads has

    Units(H, (Axis("w", 0, G), Axis("r", 1, G), Axis("b", 1, G), Axis("r", 2), Axis("decoder.weight", 1)))

Groups of units (for example one for each layer) are mappings from a name of your choice to `Units`. A selection of
units is a mapping from the same names to bool (H,), True for the units that are kept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Axis:
    """The entries of units in a parameter: unit k is at k, H + k, 2 H + k ... along one dimension.

    Attributes:
        parameter: its name.
        dim: the dimension, from 0.
        blocks: how many times the H units are repeated: 4 in the stacked gates of an LSTM, 3 in those of a GRU.
    """

    parameter: str
    dim: int
    blocks: int = 1


@dataclass(frozen=True)
class Units:
    """H units, and all their entries. An entry that belongs to two axes (the diagonal of W_hh) counts once.

    Attributes:
        size: the number H.
        axes: of all parameters that compute the units or read them.
    """

    size: int
    axes: tuple[Axis, ...]


def recurrent_units(model: nn.Module, rnn: str, *, readers: Iterable[str]) -> dict[str, Units]:
    """Describe the units of each layer of an `nn.LSTM`, `nn.GRU` or `nn.RNN` inside a model.

    Args:
        model: the axes use the names of its `named_parameters()`; a tied parameter has the first of its names.
        rnn: name of the recurrent module in the model; "" if the model is that module.
        readers: names of the parameters whose columns (dim 1) read the top layer, e.g. "decoder.weight"; empty if no
            parameter reads it. **With a tied decoder** unit k of the top layer and column k of the embedding are the
            same weights: both are pruned, and the parameter that reads the embedding is a second reader
            ("rnn.weight_ih_l0"). To prune the layer but not the embedding, untie them first.

    Returns:
        units by layer: "rnn.l0", "rnn.l1" ..., from the bottom up.

    Raises:
        ValueError: `rnn` is not such a module, or is bidirectional, or has a projection; or a reader does not exist.

    >>> recurrent_units(nn.GRU(3, 5), "", readers=[])["l0"].axes[0]
    Axis(parameter='weight_ih_l0', dim=0, blocks=3)
    """
    prefix = f"{rnn}." if rnn else ""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    layers = [name for name in shapes if name.startswith(f"{prefix}weight_hh_l")]
    if not layers or any(f"{prefix}weight_{kind}" in shapes for kind in ("hh_l0_reverse", "hr_l0")):
        raise ValueError(
            f"rnn must be an nn.LSTM, nn.GRU or nn.RNN of one direction without projection, got {rnn!r}. "
            "Name such a module, or create Units(size, axes) yourself."
        )
    above = _reader_names(model, list(readers))
    groups: dict[str, Units] = {}
    for layer, weight in reversed(list(enumerate(layers))):
        size = shapes[weight][1]
        kinds = [f"{prefix}{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        rows = [Axis(name, 0, shapes[weight][0] // size) for name in kinds if name in shapes]
        groups[f"{prefix}l{layer}"] = Units(size, (*rows, Axis(weight, 1), *(Axis(name, 1) for name in above)))
        above = [f"{prefix}weight_ih_l{layer}"]
    return dict(reversed(groups.items()))


def _reader_names(model: nn.Module, readers: list[str]) -> list[str]:
    """Return the readers by their names in `named_parameters`; with tied weights all readers must be given."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    every = dict(model.named_parameters(remove_duplicate=False))
    for reader in readers:
        if reader not in every:
            raise ValueError(
                f"readers must be parameters of the model, got {reader!r}. Choose from {', '.join(every)}."
            )
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    if len(readers) == 1 and id(every[readers[0]]) in embeddings:
        raise ValueError(
            f"With tied weights, readers must also have the parameter that reads the embedding, got {readers[0]!r} "
            'only. Add it (e.g. "rnn.weight_ih_l0"), or untie the weights.'
        )
    return [names[id(every[reader])] for reader in readers]


def group_norms(parameters: Mapping[str, Tensor], units: Units, *, epsilon: float = 0.0) -> Tensor:
    """Return the norm of each unit, sqrt(sum of squares + epsilon), (H,); differentiable if it is not zero."""
    _check_axes(parameters, {"units": units})
    squares = {name: parameters[name].square() for name in dict.fromkeys(axis.parameter for axis in units.axes)}
    return (_unit_sums(squares, units) + epsilon).sqrt()


def group_lasso(parameters: Mapping[str, Tensor], groups: Mapping[str, Units], *, epsilon: float = 1e-8) -> Tensor:
    """Return the penalty that drives whole units to zero: the sum of the norms of all units, a differentiable scalar.

    Args:
        parameters: by name, dict(model.named_parameters()).
        groups: the units of each layer.
        epsilon: under the root, so that the gradient exists at zero. Wen et al. weight the penalty by 0.003 for 2 x
            1500 units, and after each step set weights below 1e-4 to zero.
    """
    return torch.stack([group_norms(parameters, units, epsilon=epsilon).sum() for units in groups.values()]).sum()


def _unit_sums(values: Mapping[str, Tensor], units: Units) -> Tensor:
    """Return the sum of the entries of each unit, (H,); an entry of two axes counts once."""
    total = torch.zeros(())
    for index, axis in enumerate(units.axes):
        value = values[axis.parameter]
        for before in units.axes[:index]:
            if before.parameter == axis.parameter:
                twice = _unit_indices(before, units.size, value) == _unit_indices(axis, units.size, value)
                value = value.masked_fill(twice, 0)
        others = [dim for dim in range(value.ndim) if dim != axis.dim]
        value = value.sum(others) if others else value  # (blocks H,)
        total = total.to(value) + value.view(axis.blocks, units.size).sum(0)
    return total


def _unit_indices(axis: Axis, size: int, like: Tensor) -> Tensor:
    """Return the index of the unit at each position of an axis, in a shape that broadcasts over the parameter."""
    shape = [1] * like.ndim
    shape[axis.dim] = -1
    return torch.arange(size, device=like.device).repeat(axis.blocks).view(shape)


def unit_masks(
    parameters: Mapping[str, Tensor], groups: Mapping[str, Units], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the masks of a selection: bool of each parameter's shape, also of biases; False for pruned units.

    Raises:
        ValueError: the selection, the groups and the parameters do not match.
    """
    _check_axes(parameters, groups)
    _check_kept(groups, kept)
    masks: dict[str, Tensor] = {}
    for group, units in groups.items():
        for axis in units.axes:
            value = parameters[axis.parameter]
            mask = masks.setdefault(axis.parameter, torch.ones_like(value, dtype=torch.bool))
            mask &= kept[group].to(value.device)[_unit_indices(axis, units.size, value)]
    return masks


@torch.no_grad()
def shrink(
    parameters: Mapping[str, Tensor], groups: Mapping[str, Units], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Remove the pruned units: return the weights of a smaller dense network with the same outputs.

    Every entry of a pruned unit must be zero. Then no parameter reads the unit, and the outputs are the same for any
    start state, of which the small network takes the kept entries: state[..., kept]. The state of a pruned unit stays
    zero if it starts at zero (otherwise LSTM, GRU and RHN halve it in each step).

    Args:
        parameters: by name, either all of the network or at least those of the groups.
        groups: the units.
        kept: bool (H,) by group.

    Returns:
        the tensors by name; a parameter of no group is unchanged.

    Raises:
        ValueError: a pruned unit is not zero, or the selection, the groups and the parameters do not match.
    """
    _check_axes(parameters, groups)
    _check_kept(groups, kept)
    small = {name: value.detach().clone() for name, value in parameters.items()}
    for group, units in groups.items():
        nonzero = (
            _unit_sums({axis.parameter: (parameters[axis.parameter] != 0).double() for axis in units.axes}, units) > 0
        )
        nonzero_units = (nonzero.cpu() & ~kept[group].cpu()).nonzero().flatten().tolist()
        if nonzero_units:
            raise ValueError(
                f"A pruned unit must have only zero weights, got nonzero ones in unit {nonzero_units[0]} of {group!r} "
                f"({len(nonzero_units)} such units). Multiply the parameters by unit_masks(...) first."
            )
        for axis in units.axes:
            index = kept[group].repeat(axis.blocks).nonzero().squeeze(1)
            value = small[axis.parameter]
            small[axis.parameter] = value.index_select(axis.dim, index.to(value.device))
    return small


def _check_axes(parameters: Mapping[str, Tensor], groups: Mapping[str, Units]) -> None:
    """Check that every axis matches the shape of its parameter, and that each dimension has one group of units."""
    owner: dict[tuple[str, int], str] = {}
    for group, units in groups.items():
        for axis in units.axes:
            shape = tuple(parameters[axis.parameter].shape) if axis.parameter in parameters else None
            if shape is None or not 0 <= axis.dim < len(shape) or shape[axis.dim] != axis.blocks * units.size:
                raise ValueError(
                    f"{axis.parameter!r} must have {axis.blocks} x {units.size} entries along dim {axis.dim} for the "
                    f"units of {group!r}, got {'no such parameter' if shape is None else f'shape {shape}'}. "
                    "Correct the Axis."
                )
            if owner.setdefault((axis.parameter, axis.dim), group) != group:
                raise ValueError(
                    f"A dimension must belong to one group of units, got {owner[axis.parameter, axis.dim]!r} and "
                    f"{group!r} for dim {axis.dim} of {axis.parameter!r}. Make them one group."
                )


def _check_kept(groups: Mapping[str, Units], kept: Mapping[str, Tensor]) -> None:
    """Check that a selection is bool (H,) for each group and keeps at least one unit."""
    for group, units in groups.items():
        choice = kept.get(group)
        if choice is None or choice.dtype != torch.bool or choice.shape != (units.size,) or not choice.any():
            raise ValueError(
                f"kept must be bool ({units.size},) with at least one True for group {group!r}, got {choice}. "
                "Create it with strongest_units."
            )
