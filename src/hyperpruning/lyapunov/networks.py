"""Conversion of a network (a module of torch, a custom cell or a plain step) to a checked `DrivenMap`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.lyapunov.layers import DrivenLayer
from hyperpruning.lyapunov.modules import Direction, from_direction, from_module, module_layer
from hyperpruning.lyapunov.preparation import DrivenMap, check_inputs, check_module, computing_dtype, prepared
from hyperpruning.lyapunov.steps import DrivenStep, StepLayer, start_vector


def driven_map(network: Any, inputs: Tensor, start: Any, dtype: torch.dtype | None, full: bool = False) -> DrivenMap:
    """Return the network as a driven map in `dtype`.

    dtype: default float64 for a plain step, or if `full` adds a second state, as for an LSTM; else the network's own.
    Raises: TypeError or ValueError if the network or the inputs have no spectrum; the message says what to change.
    """
    check_inputs(inputs)
    if isinstance(network, nn.Module):
        check_module(network, inputs)
    if isinstance(network, nn.RNNCellBase):
        raise TypeError(
            f"A step is called as step(state, input), got a {type(network).__name__}, which is called as cell(input, "
            "state). Write lambda state, input: cell(input, state)."
        )
    if isinstance(network, nn.RNNBase):
        return from_module(network, inputs, start, dtype, full)
    if isinstance(network, Direction):
        return from_direction(network, inputs, start, dtype, full)
    if isinstance(network, list | tuple):
        return _from_layers(network, inputs, start, dtype, full)
    if hasattr(network, "driven_layers"):
        return _from_layers(network.driven_layers(), inputs, start, dtype, full)
    if isinstance(network, DrivenStep):
        if start is not None:
            raise ValueError("start must be None for a DrivenStep, which has its own, got another. Leave it out.")
        return driven_map(network.step, inputs, network.start, dtype, full)
    if callable(network):
        return _from_step(network, inputs, start, dtype)
    raise TypeError(
        "network must be an nn.LSTM, nn.GRU or nn.RNN, an object with driven_layers(), a list of such layers, or a "
        f"function step(state, input), got a {type(network).__name__}. Wrap it as lambda state, input: ..."
    )


def _from_layers(parts: Sequence[Any], inputs: Tensor, start: Any, dtype: torch.dtype | None, full: bool) -> DrivenMap:
    layers = list(chain.from_iterable(_layers_of(part) for part in parts))
    states = [inputs.new_zeros(inputs.shape[1], layer.state_size) for layer in layers] if start is None else list(start)
    if not layers or len(states) != len(layers):
        raise ValueError(
            "A list of layers must have at least one layer and one start state (B, D) for each, got "
            f"{len(layers)} layers and {len(states)} states. Pass as many states as layers."
        )
    return prepared(layers, states, inputs, dtype, full)


def _layers_of(part: Any) -> list[DrivenLayer]:
    """Return the layers of one part of a list."""
    if isinstance(part, Direction):
        if part.which == "backward" or part.layer or part.module.num_layers > 1:
            raise ValueError(
                "In a list of layers a Direction must be 'forward' of a module of one layer, got "
                f"{part.which!r} of layer {part.layer} of {part.module.num_layers}. Give it to lyapunov_spectrum alone."
            )
        return [module_layer(part.module, 0)]
    if isinstance(part, nn.RNNBase) and not part.bidirectional:
        return [module_layer(part, layer) for layer in range(part.num_layers)]
    if not all(hasattr(part, name) for name in ("step", "state_size", "hidden_size")):
        kind = f"a bidirectional {type(part).__name__}" if isinstance(part, nn.RNNBase) else type(part).__name__
        raise TypeError(
            f"A list of layers must consist of driven layers, modules and directions, got {kind}. Give each an "
            "attribute state_size, hidden_size and a method step, or name one hp.Direction."
        )
    layer: DrivenLayer = part
    return [layer]


def _from_step(step: Any, inputs: Tensor, start: Any, dtype: torch.dtype | None) -> DrivenMap:
    owner = getattr(step, "__self__", None)  # of a method
    if isinstance(owner, nn.Module):
        check_module(owner, inputs)
    layout, vector = start_vector(start, inputs)
    dtype = computing_dtype(dtype, inputs, second_state=True)
    plain = isinstance(start, Tensor) and start.dim() == 2
    layer = StepLayer(step, layout.size, None if plain else layout, dtype)
    return prepared([layer], [vector], inputs, dtype, full=False)
