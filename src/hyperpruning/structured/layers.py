"""The hidden units of the recurrent layers `rnn` of a network of this package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.stack import CELLS, GATES, Stack
from hyperpruning.structured.units import Axis, UnitGroup, recurrent_units


def layer_inputs(model: nn.Module, cell: str) -> list[str]:
    """The names of the matrices that read the input of each recurrent module of `model.rnn`, from the bottom up."""
    return [f"{part}.w" if cell not in CELLS else f"{part}.weight_ih_l0" for part in _modules(model)]


def layer_units(model: nn.Module, cell: str, *, readers: Iterable[str]) -> dict[str, UnitGroup]:
    """The unit groups of the recurrent layers `model.rnn`, from the bottom up.

    Args:
        model: the network; tied parameters have the first of their names.
        cell: a key of `models.stack.LAYERS`.
        readers: as of `recurrent_units`.
    """
    units, groups = recurrent_units if cell in CELLS else _highway_units, dict[str, UnitGroup]()
    above = [[name] for name in layer_inputs(model, cell)[1:]]
    for part, read_by in zip(_modules(model), [*above, list(readers)], strict=True):
        groups |= units(model, part, readers=read_by)
    return groups


def in_a_stack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of one module of torch with several layers under the names that they have in a `Stack`."""
    return {re.sub(r"^rnn\.(\w+)_l(\d+)$", r"rnn.\2.\1_l0", name): value for name, value in weights.items()}


def _modules(model: nn.Module) -> list[str]:
    rnn = model.get_submodule("rnn")
    return [f"rnn.{layer}" for layer in range(len(rnn))] if isinstance(rnn, Stack) else ["rnn"]


def _highway_units(model: nn.Module, part: str, *, readers: Iterable[str]) -> dict[str, UnitGroup]:
    """The unit group of a recurrent highway layer, as `recurrent_units` describes torch's layers."""
    layer = model.get_submodule(part)
    assert isinstance(layer, RHNLayer)
    gates = GATES["rhn" if layer.coupled else "uncoupled_rhn"]
    matrices = [f"{part}.r.{depth}" for depth in range(len(layer.r))]
    biases = [f"{part}.b.{depth}" for depth in range(len(layer.b))]
    rows = [Axis(name, 0, gates) for name in (f"{part}.w", *matrices, *biases)]
    names = {id(weight): name for name, weight in model.named_parameters()}
    every = dict(model.named_parameters(remove_duplicate=False))
    columns = [Axis(names[id(every[name])], 1) for name in (*matrices, *readers)]
    return {f"{part}.l0": UnitGroup(layer.hidden_size, (*rows, *columns))}
