"""From what a user has - an `nn.LSTM`, a cell of his own, a plain step - to layers with start states, all checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.lyapunov.cells import GRULayer, LSTMLayer, RNNLayer, Weights
from hyperpruning.lyapunov.layers import DrivenLayer, StepLayer


@dataclass(frozen=True)
class Driven:
    """A stack of layers, the state each starts from (B, D_l), and the inputs (T, B, I) of the lowest."""

    layers: Sequence[DrivenLayer]
    start: Sequence[Tensor]
    inputs: Tensor

    def after(self, steps: int) -> Driven:
        """Return the map that first runs over so many inputs, and then over all of them."""
        return replace(self, inputs=torch.cat([self.inputs[:steps], self.inputs]))


def driven(network: Any, inputs: Tensor, start: Any, dtype: torch.dtype | None) -> Driven:
    """Return the network as a driven map in `dtype` (None: its own, at least float32).

    Raises: TypeError or ValueError for what has no spectrum, or has it only after a change that the message names.
    """
    _check_inputs(inputs)
    if isinstance(network, nn.RNNBase):
        return _from_module(network, inputs, start, dtype)
    if hasattr(network, "driven_layers"):
        return _from_layers(network.driven_layers(), network, inputs, start, dtype)
    if callable(network):
        return _from_step(network, inputs, start, dtype)
    raise TypeError(
        "a network is an nn.LSTM, nn.GRU or nn.RNN, an object with driven_layers(), or a function step(state, input), "
        f"but this is a {type(network).__name__}: wrap it as lambda state, input: ..."
    )


def _check_inputs(inputs: Tensor) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"inputs are a floating point tensor (T, B, I), but these are {kind}: embed token ids first")
    if inputs.dim() != 3 or 0 in inputs.shape[:2]:
        raise ValueError(f"inputs have the shape (T, B, I), none empty, but these have {tuple(inputs.shape)}")
    _check_finite("inputs", inputs)


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} are to be finite, but hold NaN or infinity: a diverged network has no spectrum")


def _check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    for what, one, two in (("dtype", tensor.dtype, other.dtype), ("device", tensor.device, other.device)):
        if one != two:
            raise ValueError(
                f"{name} and {other_name} share one {what}, but have {one} and {two}: convert one with .to(...)"
            )


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has the shape {shape}, but this one has {tuple(tensor.shape)}")


def _check_evaluating(network: Any, dropout: float) -> None:
    if dropout and network.training:
        raise ValueError(
            f"a spectrum is that of a deterministic map, but the network trains with dropout {dropout}: "
            "call network.eval() first"
        )


def _check_parameters(network: Any, inputs: Tensor) -> None:
    if isinstance(network, nn.Module):
        for name, weight in network.named_parameters():
            _check_alike(f"parameter {name}", weight, "inputs", inputs)
            _check_finite(f"parameter {name}: its values", weight)


def _working(dtype: torch.dtype | None, own: torch.dtype) -> torch.dtype:
    """Return the requested dtype, or the network's own where LAPACK knows it, else float32."""
    dtype = dtype or (own if own == torch.float64 else torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a spectrum is computed in torch.float32 or torch.float64, but dtype is {dtype}")
    return dtype


def _from_module(network: nn.RNNBase, inputs: Tensor, start: Any, dtype: torch.dtype | None) -> Driven:
    if network.bidirectional:
        raise ValueError("a spectrum needs one direction of time, but this is bidirectional: take each direction alone")
    if network.proj_size:
        raise ValueError(f"a projected LSTM is not supported, but proj_size is {network.proj_size}: use proj_size=0")
    _check_evaluating(network, network.dropout)
    _check_parameters(network, inputs)
    if network.batch_first:
        inputs = inputs.transpose(0, 1)
    _check_shape("one time step of inputs", inputs[0], (inputs.shape[1], network.input_size))
    dtype = _working(dtype, inputs.dtype)
    make = _MODULES[network.mode]
    layers = [make(_weights(network, layer, dtype)) for layer in range(network.num_layers)]
    shape = (network.num_layers, inputs.shape[1], network.hidden_size)
    parts = _module_start(network, inputs, start, shape)
    states = [torch.cat([part[layer] for part in parts], -1).to(dtype) for layer in range(network.num_layers)]
    return Driven(layers, states, inputs.to(dtype))


def _module_start(network: nn.RNNBase, inputs: Tensor, start: Any, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return the parts of the start state, h or (h, c), each (L, B, H)."""
    names = ("h", "c") if network.mode == "LSTM" else ("h",)
    if start is None:
        return tuple(inputs.new_zeros(shape) for _ in names)
    parts = (start,) if isinstance(start, Tensor) else tuple(start)
    if len(parts) != len(names):
        raise ValueError(f"an {network.mode} starts from ({', '.join(names)}), but start has {len(parts)} part(s)")
    for name, part in zip(names, parts, strict=True):
        _check_shape(f"start {name}", part, shape)
        _check_alike(f"start {name}", part, "inputs", inputs)
        _check_finite(f"start {name}: its values", part)
    return parts


def _weights(network: nn.RNNBase, layer: int, dtype: torch.dtype) -> Weights:
    w_ih, w_hh = (getattr(network, f"weight_{name}_l{layer}").to(dtype) for name in ("ih", "hh"))
    if not network.bias:
        return Weights(w_ih, w_hh, w_hh.new_zeros(len(w_hh)), w_hh.new_zeros(len(w_hh)))
    return Weights(w_ih, w_hh, *(getattr(network, f"bias_{name}_l{layer}").to(dtype) for name in ("ih", "hh")))


_MODULES: dict[str, Callable[[Weights], DrivenLayer]] = {
    "LSTM": LSTMLayer,
    "GRU": GRULayer,
    "RNN_TANH": RNNLayer,
    "RNN_RELU": lambda weights: RNNLayer(weights, relu=True),
}


def _from_layers(
    layers: Sequence[DrivenLayer], network: Any, inputs: Tensor, start: Any, dtype: torch.dtype | None
) -> Driven:
    """Take a network that describes itself; its tensors stay as they are, so that `dtype` must be theirs."""
    _check_evaluating(network, getattr(network, "dropout", 0.0))
    _check_parameters(network, inputs)
    dtype = _working(dtype, inputs.dtype)
    shapes = [(inputs.shape[1], layer.state_size) for layer in layers]
    states = [inputs.new_zeros(shape) for shape in shapes] if start is None else list(start)
    if len(states) != len(layers):
        raise ValueError(f"start has one state per layer, {len(layers)} in all, but {len(states)} were given")
    for index, (state, shape) in enumerate(zip(states, shapes, strict=True)):
        _check_shape(f"start of layer {index}", state, shape)
        _check_alike(f"start of layer {index}", state, "inputs", inputs)
        _check_finite(f"start of layer {index}: its values", state)
    return Driven(layers, [state.to(dtype) for state in states], inputs.to(dtype))


def _from_step(step: Any, inputs: Tensor, start: Any, dtype: torch.dtype | None) -> Driven:
    if not isinstance(start, Tensor) or start.dim() != 2 or start.shape[0] != inputs.shape[1]:
        shape = tuple(start.shape) if isinstance(start, Tensor) else start
        raise ValueError(
            f"a plain step needs start=(B, D) with B = {inputs.shape[1]}, to know its state, but start is {shape}: "
            "pass for example torch.zeros(B, D)"
        )
    _check_alike("start", start, "inputs", inputs)
    _check_finite("start: its values", start)
    _check_parameters(step, inputs)
    dtype = _working(dtype, inputs.dtype)
    return Driven([StepLayer(step, start.shape[1])], [start.to(dtype)], inputs.to(dtype))
