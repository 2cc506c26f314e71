"""The gates of recurrent layers: into how many equal groups the rows of each of their matrices divide."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from hyperpruning.settings import did_you_mean

# the gates that torch stacks in the rows of a recurrent layer or cell
GATES: dict[type[nn.Module], int] = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3, nn.RNN: 1, nn.RNNCell: 1}


def row_groups(model: nn.Module) -> dict[str, int]:
    """Return the number of gates that are stacked in the rows of each recurrent matrix.

    The matrices of `nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells are known: 4, 3 and 1, for `weight_ih` and
    `weight_hh` in every layer and direction, also where they are parametrized; a projection has 1. A layer of your own
    says it by an attribute `row_groups`, the number of gates in the rows of each matrix of the layer and of the
    modules in it; where modules are nested, the innermost decides.

    Args:
        model: its modules are read.

    Returns:
        the number of groups by parameter name, for all recurrent matrices and no other parameter. A tied parameter has
        the name that `named_parameters()` gives it.

    Raises:
        ValueError: the rows of a matrix do not divide into the groups that its layer says.

    >>> row_groups(nn.ModuleDict({"rnn": nn.GRU(2, 3), "head": nn.Linear(3, 1)}))
    {'rnn.weight_ih_l0': 3, 'rnn.weight_hh_l0': 3}
    """
    groups: dict[nn.Parameter, int] = {}
    for _, module in model.named_modules():  # a module comes before those in it
        if (gates := _gates(module)) is not None:
            for name, parameter in module.named_parameters():
                if parameter.ndim >= 2:  # an LSTM's projection has no gates
                    groups[parameter] = 1 if isinstance(module, nn.LSTM) and "weight_hr" in name else gates
    found = {
        name: (parameter, groups[parameter]) for name, parameter in model.named_parameters() if parameter in groups
    }
    for name, (parameter, count) in found.items():
        if len(parameter) % count:
            raise ValueError(
                f"The rows of {name!r} must divide into the row_groups of its layer, {count}, got {len(parameter)} "
                "rows. Set row_groups = 1 on the module that holds it."
            )
    return {name: count for name, (_, count) in found.items()}


def recurrent_matrices(model: nn.Module) -> set[str]:
    """Return the names of the matrices that multiply the state of a recurrent layer.

    They are `weight_hh` of torch's layers and cells. A layer of your own names its own in an attribute
    `recurrent_weights`, a tuple of names of parameters or of lists of parameters.

    >>> sorted(recurrent_matrices(nn.LSTM(2, 3, 2)))
    ['weight_hh_l0', 'weight_hh_l1']
    """
    found: set[nn.Parameter] = set()
    for module in model.modules():
        own = getattr(module, "recurrent_weights", ())
        known = isinstance(module, tuple(GATES))
        for name, parameter in module.named_parameters():
            if (known and "weight_hh" in name) or any(name == one or name.startswith(f"{one}.") for one in own):
                found.add(parameter)
    return {name for name, parameter in model.named_parameters() if parameter in found}


def with_row_groups(model: nn.Module, given: Mapping[str, int] | None) -> dict[str, int]:
    """Return `row_groups(model)`, with the numbers that a user gives in place of those found.

    Args:
        model: its modules and the names of its parameters are read.
        given: the number of groups by parameter name; a tied parameter may have any of its names.

    Raises:
        ValueError: a name is not that of a parameter, or a number is not a whole number of at least 1.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = row_groups(model)
    if not (given is None or isinstance(given, Mapping)):
        raise ValueError(f"row_groups must be a dict of numbers by parameter name, got {given!r}. Leave it out.")
    for name, count in (given or {}).items():
        if name not in parameters:
            raise ValueError(
                f"row_groups must name parameters of the model, got {name!r}.{did_you_mean(name, parameters)} "
                "Use the names of named_parameters()."
            )
        if type(count) is not int or count < 1:
            raise ValueError(
                f"row_groups must be whole numbers of at least 1, got {count!r} for {name!r}. Use 1 for none."
            )
        groups[names[parameters[name]]] = count
    return groups


def _gates(module: nn.Module) -> int | None:
    """Return the number of gates of a recurrent layer or cell; None for any other module."""
    own = getattr(module, "row_groups", None)
    if type(own) is int and own >= 1:
        return own
    return next((count for kind, count in GATES.items() if isinstance(module, kind)), None)
