"""Hidden units of recurrent layers, pruned whole: Intrinsic Sparse Structures (Wen et al. 2018, arXiv 1709.05027).

A hidden unit consists of all weights that belong to one entry of a layer's state: its rows in every gate of W_ih and
W_hh, its biases, its column of W_hh, and its columns of all parameters that read the layer. If all of them are zero,
`shrink` can remove them.

A `UnitGroup` describes where the units of a layer are. `recurrent_units` creates it for torch's recurrent modules; for
another cell it takes a few lines. A layer with w (G H, I), r (depth, G H, H), b (depth, G H) that a decoder reads has

    UnitGroup(H, (Axis("w", 0, G), Axis("r", 1, G), Axis("b", 1, G), Axis("r", 2), Axis("decoder.weight", 1)))

Unit groups, usually one for each layer, are in dicts by a name of your choice, and so are the kept units, bool (H,).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Axis:
    """Where the units are in a parameter: unit k at the indices k, H + k, 2 H + k ... of one dimension.

    Attributes:
        parameter: the name of the parameter.
        dim: the dimension, from 0.
        repeats: how many times the H units are repeated: 4 for the stacked gates of an LSTM, 3 for a GRU.
    """

    parameter: str
    dim: int
    repeats: int = 1


@dataclass(frozen=True)
class UnitGroup:
    """The H hidden units of a layer, and where their weights are. An entry on two axes (diagonal of W_hh) counts once.

    Attributes:
        size: the number of units H.
        axes: the axes of all parameters that compute the units and of all that read them.
    """

    size: int
    axes: tuple[Axis, ...]


def recurrent_units(model: nn.Module, rnn: str, *, readers: Iterable[str]) -> dict[str, UnitGroup]:
    """Describe the units of each layer of an `nn.LSTM`, `nn.GRU` or `nn.RNN` inside a model.

    Args:
        model: the axes use the names of its `named_parameters()`; tied parameters have the first of their names.
        rnn: the name of the recurrent module in the model; "" if the model is that module.
        readers: the names of the parameters whose columns (dim 1) read the top layer, e.g. "decoder.weight"; empty if
            no parameter reads it. **With a tied decoder**, unit k of the top layer and column k of the embedding are
            pruned together, and the parameter that reads the embedding is a second reader ("rnn.weight_ih_l0"). Untie
            them to prune the layer without the embedding.

    Returns:
        unit groups by layer: "rnn.l0", "rnn.l1" ..., from the bottom up.

    Raises:
        ValueError: the module is not of that kind, is bidirectional or has projections; or a reader does not exist.

    >>> recurrent_units(nn.GRU(3, 5), "", readers=[])["l0"].axes[0]
    Axis(parameter='weight_ih_l0', dim=0, repeats=3)
    """
    prefix = f"{rnn}." if rnn else ""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    layers = [name for name in shapes if name.startswith(f"{prefix}weight_hh_l")]
    if not layers or any(f"{prefix}weight_{kind}" in shapes for kind in ("hh_l0_reverse", "hr_l0")):
        raise ValueError(
            "rnn must be the name of an nn.LSTM, nn.GRU or nn.RNN of one direction without projection, "
            f"got {rnn!r}. Name such a module, or describe the units as UnitGroup(size, axes)."
        )
    above = _resolve_readers(model, list(readers))
    groups: dict[str, UnitGroup] = {}
    for layer, weight in reversed(list(enumerate(layers))):
        size = shapes[weight][1]
        kinds = [f"{prefix}{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        rows = [Axis(name, 0, shapes[weight][0] // size) for name in kinds if name in shapes]
        groups[f"{prefix}l{layer}"] = UnitGroup(size, (*rows, Axis(weight, 1), *(Axis(name, 1) for name in above)))
        above = [f"{prefix}weight_ih_l{layer}"]
    return dict(reversed(groups.items()))


def _resolve_readers(model: nn.Module, readers: list[str]) -> list[str]:
    """Return the names of the readers in `named_parameters()`, and check that a tied embedding has its reader."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    every = dict(model.named_parameters(remove_duplicate=False))
    for reader in readers:
        if reader not in every:
            raise ValueError(f"readers must be parameters of the model ({', '.join(every)}), got {reader!r}.")
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    if len(readers) == 1 and id(every[readers[0]]) in embeddings:
        raise ValueError(
            f"readers must include the reader of the embedding when the decoder is tied, got {readers[0]!r} alone. "
            'Add it ("rnn.weight_ih_l0"), or untie them.'
        )
    return [names[id(every[reader])] for reader in readers]


def group_norms(parameters: Mapping[str, Tensor], units: UnitGroup, *, epsilon: float = 0.0) -> Tensor:
    """Return the norm of each unit, sqrt(sum of squares + epsilon), (H,); differentiable if it is not zero."""
    _check_axes(parameters, {"units": units})
    squares = {name: parameters[name].square() for name in dict.fromkeys(axis.parameter for axis in units.axes)}
    return (_sum_by_unit(squares, units) + epsilon).sqrt()


def group_lasso(parameters: Mapping[str, Tensor], groups: Mapping[str, UnitGroup], *, epsilon: float = 1e-8) -> Tensor:
    """Return the group-lasso penalty, which drives whole units to zero: the sum of the norms of all units, a scalar.

    Wen et al. multiply the penalty by 0.003 for 2 x 1500 units, and set weights below 1e-4 to zero after each step.

    Args:
        parameters: by name, dict(model.named_parameters()).
        groups: the unit groups by name.
        epsilon: added under the root, so that the gradient exists at zero.
    """
    return torch.stack([group_norms(parameters, units, epsilon=epsilon).sum() for units in groups.values()]).sum()


def _sum_by_unit(values: Mapping[str, Tensor], units: UnitGroup) -> Tensor:
    """Return the sum of the entries of each unit, each entry once, (H,)."""
    total = torch.zeros(())
    for index, axis in enumerate(units.axes):
        value = values[axis.parameter]
        for before in units.axes[:index]:
            if before.parameter == axis.parameter:
                twice = _unit_indices(before, units.size, value) == _unit_indices(axis, units.size, value)
                value = value.masked_fill(twice, 0)
        others = [dim for dim in range(value.ndim) if dim != axis.dim]
        value = value.sum(others) if others else value  # (repeats H,)
        total = total.to(value) + value.view(axis.repeats, units.size).sum(0)
    return total


def _unit_indices(axis: Axis, size: int, like: Tensor) -> Tensor:
    """Return the index of the unit at each index of an axis, shaped to broadcast over the parameter."""
    shape = [1] * like.ndim
    shape[axis.dim] = -1
    return torch.arange(size, device=like.device).repeat(axis.repeats).view(shape)


def unit_masks(
    parameters: Mapping[str, Tensor], groups: Mapping[str, UnitGroup], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return masks of each parameter's shape, biases included: bool, False for the weights of pruned units.

    Args:
        parameters: by name, dict(model.named_parameters()).
        groups: the unit groups by name.
        kept: bool (H,) by group, True for the units that are kept.

    Raises:
        ValueError: `kept`, the groups and the parameters do not fit each other.
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
    parameters: Mapping[str, Tensor], groups: Mapping[str, UnitGroup], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Remove the pruned units: return the weights of a smaller dense network with the same outputs.

    All weights of a pruned unit must be zero. No parameter then reads it, so the outputs are the same from every
    initial state, of which the smaller network gets state[..., kept]. A removed unit is zero at all times if it starts
    at zero (otherwise LSTM, GRU and RHN halve it in each step).

    Args:
        parameters: by name; all parameters of the network, or only those in the groups.
        groups: the unit groups by name.
        kept: bool (H,) by group, True for the units that are kept.

    Returns:
        the tensors by name; parameters outside the groups are copied.

    Raises:
        ValueError: a removed unit is not zero, or `kept`, the groups and the parameters do not fit each other.
    """
    _check_axes(parameters, groups)
    _check_kept(groups, kept)
    small = {name: value.detach().clone() for name, value in parameters.items()}
    for group, units in groups.items():
        nonzero = (
            _sum_by_unit({axis.parameter: (parameters[axis.parameter] != 0).double() for axis in units.axes}, units) > 0
        )
        nonzero_units = (nonzero.cpu() & ~kept[group].cpu()).nonzero().flatten().tolist()
        if nonzero_units:
            raise ValueError(
                f"All weights of a removed unit must be zero, got others in unit {nonzero_units[0]} of {group!r} "
                f"({len(nonzero_units)} units in all). Multiply the parameters by unit_masks(...) before."
            )
        for axis in units.axes:
            index = kept[group].repeat(axis.repeats).nonzero().squeeze(1)
            value = small[axis.parameter]
            small[axis.parameter] = value.index_select(axis.dim, index.to(value.device))
    return small


def _check_axes(parameters: Mapping[str, Tensor], groups: Mapping[str, UnitGroup]) -> None:
    """Check that each axis exists and belongs to one group only."""
    owner: dict[tuple[str, int], str] = {}
    for group, units in groups.items():
        for axis in units.axes:
            shape = tuple(parameters[axis.parameter].shape) if axis.parameter in parameters else None
            if shape is None or not 0 <= axis.dim < len(shape) or shape[axis.dim] != axis.repeats * units.size:
                raise ValueError(
                    f"{axis.parameter!r} must have {axis.repeats} x {units.size} entries along dim {axis.dim} for the "
                    f"units of {group!r}, got {f'shape {shape}' if shape else 'no such parameter'}. Correct the Axis."
                )
            if owner.setdefault((axis.parameter, axis.dim), group) != group:
                raise ValueError(
                    f"A dimension must belong to one unit group, got dim {axis.dim} of {axis.parameter!r} in "
                    f"{owner[axis.parameter, axis.dim]!r} and {group!r}. Join the two groups."
                )


def _check_kept(groups: Mapping[str, UnitGroup], kept: Mapping[str, Tensor]) -> None:
    """Check that `kept` has a bool for each unit, and keeps at least one unit of each group."""
    for group, units in groups.items():
        choice = kept.get(group)
        if choice is None or choice.dtype != torch.bool or choice.shape != (units.size,) or not choice.any():
            raise ValueError(
                f"kept must be bool ({units.size},) for group {group!r} with at least one True, got {choice}. "
                "Create it with strongest_units."
            )
