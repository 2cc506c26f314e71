"""The layers of `nn.RNN`, `nn.GRU` and `nn.LSTM` modules: a whole stack, or one direction of a bidirectional one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyperpruning.lyapunov.cells import GRULayer, LSTMLayer, RNNLayer, Weights
from hyperpruning.lyapunov.layers import DrivenLayer, unroll
from hyperpruning.lyapunov.preparation import DrivenMap, check_module, check_shape, computing_dtype, prepared


@dataclass(frozen=True)
class Direction:
    """One direction of one layer of a bidirectional module, which `lyapunov_spectrum` takes as a network.

    A layer's direction is a driven map of its own: its inputs are the outputs of both directions of the layer below,
    which are computed here from the module's inputs. "backward" reads them from the last step to the first, so that
    the warm-up is at the end of the sequence. As part of a list of layers, only "forward" of layer 0 is possible.

    module: an `nn.LSTM`, `nn.GRU` or `nn.RNN` with bidirectional=True.
    which: "forward" or "backward".
    layer: from 0, the lowest; default 0.

    Raises: ValueError for another module or a layer that it does not have.

    >>> from hyperpruning import lyapunov_spectrum
    >>> module = nn.GRU(3, 4, num_layers=2, bidirectional=True)
    >>> lyapunov_spectrum(Direction(module, "backward", layer=1), torch.randn(30, 2, 3)).sizes
    (4,)
    """

    module: nn.RNNBase
    which: Literal["forward", "backward"]
    layer: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.RNNBase) or not self.module.bidirectional:
            raise ValueError(
                "module must be an nn.LSTM, nn.GRU or nn.RNN with bidirectional=True, got "
                f"{type(self.module).__name__}. Give lyapunov_spectrum another module itself."
            )
        if self.which not in ("forward", "backward"):
            raise ValueError(f"which must be 'forward' or 'backward', got {self.which!r}. Choose one of these.")
        if self.layer not in range(self.module.num_layers):
            raise ValueError(
                f"layer must be from 0 to {self.module.num_layers - 1}, got {self.layer}. Choose a layer of the module."
            )


def from_module(network: nn.RNNBase, inputs: Tensor, start: Any, dtype: torch.dtype | None, full: bool) -> DrivenMap:
    """Return a module as a driven map; see `driven_map`."""
    if network.bidirectional:
        raise ValueError(
            "bidirectional must be False, got True. Name one direction: hp.Direction(module, 'forward') or "
            "hp.Direction(module, 'backward')."
        )
    inputs = _time_first(network, inputs)
    layers = [module_layer(network, layer) for layer in range(network.num_layers)]
    return prepared(layers, _module_start(network, inputs, start), inputs, dtype, full)


def from_direction(network: Direction, inputs: Tensor, start: Any, dtype: torch.dtype | None, full: bool) -> DrivenMap:
    """Return one direction of a module as a driven map; see `Direction`."""
    module, backward = network.module, network.which == "backward"
    check_module(module, inputs)
    dtype = computing_dtype(dtype, inputs, second_state=full and module.mode == "LSTM")
    inputs = _time_first(module, inputs)
    states = _module_start(module, inputs, start)

    def one(layer: int, backward: bool, read: Tensor) -> DrivenMap:
        part, state = module_layer(module, layer, backward), states[2 * layer + backward]
        checked = prepared([part], [state], inputs, dtype, full)
        return replace(checked, inputs=read.flip(0) if backward else read)

    read = inputs.to(dtype)
    for layer in range(network.layer):
        hidden = []
        for reverse in (False, True):
            part = one(layer, reverse, read)
            visited = unroll(part.layers[0], part.start[0], part.inputs)[1:, :, : module.hidden_size]
            hidden.append(visited.flip(0) if reverse else visited)
        read = torch.cat(hidden, -1)  # (T, B, 2 H)
    return one(network.layer, backward, read)


def _time_first(network: nn.RNNBase, inputs: Tensor) -> Tensor:
    """Return a module's inputs as (T, B, I)."""
    if network.batch_first:
        inputs = inputs.transpose(0, 1)
    check_shape("one time step of inputs", inputs[0], (inputs.shape[1], network.input_size))
    return inputs


def module_layer(network: nn.RNNBase, layer: int, backward: bool = False) -> DrivenLayer:
    """Return one layer of a module, in one direction."""
    if network.proj_size:
        raise ValueError(f"proj_size must be 0, got {network.proj_size}. Use an LSTM without projection.")
    return _MODULES[network.mode](_weights(network, f"l{layer}{'_reverse' if backward else ''}"))


def _module_start(network: nn.RNNBase, inputs: Tensor, start: Any) -> list[Tensor]:
    """Return the start state, h or [h, c], of each layer and direction in torch's order, each (B, D)."""
    names = ("h", "c") if network.mode == "LSTM" else ("h",)
    shape = (network.num_layers * (2 if network.bidirectional else 1), inputs.shape[1], network.hidden_size)
    zeros = inputs.new_zeros(shape)
    parts = (zeros,) * len(names) if start is None else (start,) if isinstance(start, Tensor) else tuple(start)
    if len(parts) != len(names):
        raise ValueError(
            f"start of an {network.mode} must be ({', '.join(names)}), got {len(parts)} part(s). Pass {len(names)}."
        )
    for name, part in zip(names, parts, strict=True):
        check_shape(f"start {name}", part, shape)
    return [torch.cat(states, -1) for states in zip(*parts, strict=True)]


def _weights(network: nn.RNNBase, suffix: str) -> Weights:
    w_ih, w_hh = (getattr(network, f"weight_{name}_{suffix}") for name in ("ih", "hh"))
    if not network.bias:
        return Weights(w_ih, w_hh, w_hh.new_zeros(len(w_hh)), w_hh.new_zeros(len(w_hh)))
    return Weights(w_ih, w_hh, *(getattr(network, f"bias_{name}_{suffix}") for name in ("ih", "hh")))


_MODULES: dict[str, Callable[[Weights], DrivenLayer]] = {
    "LSTM": LSTMLayer,
    "GRU": GRULayer,
    "RNN_TANH": RNNLayer,
    "RNN_RELU": lambda weights: RNNLayer(weights, relu=True),
}
