"""From what a user has - an `nn.LSTM`, a cell of his own, a plain step - to layers with start states, all checked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
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


def driven(network: Any, inputs: Tensor, start: Any, dtype: torch.dtype | None, full: bool = False) -> Driven:
    """Return the network as a driven map in `dtype`; by default its own, but float64 where `full` adds a second state.

    Raises: TypeError or ValueError for what has no spectrum, or has it only after a change that the message names.
    """
    _check_inputs(inputs)
    if isinstance(network, nn.Module):
        _check_module(network, inputs)
    if isinstance(network, nn.RNNBase):
        return _from_module(network, inputs, start, dtype, full)
    if isinstance(network, list | tuple):
        return _from_layers(network, inputs, start, dtype, full)
    if hasattr(network, "driven_layers"):
        return _from_layers(network.driven_layers(), inputs, start, dtype, full)
    if callable(network):
        return _from_step(network, inputs, start, dtype)
    raise TypeError(
        "a network is an nn.LSTM, nn.GRU or nn.RNN, an object with driven_layers() or a list of such layers, or a "
        f"function step(state, input), but this is a {type(network).__name__}: wrap it as lambda state, input: ..."
    )


def _check_inputs(inputs: Tensor) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"inputs are a floating point tensor (T, B, I), but these are {kind}: embed token ids first")
    if inputs.dim() != 3 or 0 in inputs.shape[:2]:
        raise ValueError(f"inputs have the shape (T, B, I), none empty, but these have {tuple(inputs.shape)}")
    _check_finite("inputs", inputs)


def finite(tensor: Tensor) -> bool:
    """Tell whether all entries are finite, reading them once: both extremes show NaN and infinity."""
    return tensor.numel() == 0 or all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor.detach()))


def _check_finite(name: str, tensor: Tensor) -> None:
    if not finite(tensor):
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


def _check_module(network: nn.Module, inputs: Tensor) -> None:
    for part in network.modules():
        dropout = part.p if isinstance(part, nn.Dropout) else getattr(part, "dropout", 0.0)
        if part.training and isinstance(dropout, float) and dropout:
            raise ValueError(
                f"a spectrum is that of a deterministic map, but the network trains with dropout {dropout}: "
                "call network.eval() first"
            )
    for name, weight in network.named_parameters():
        _check_alike(f"parameter {name}", weight, "inputs", inputs)
        _check_finite(f"parameter {name}: its values", weight)


def _prepared(
    layers: Sequence[DrivenLayer], states: Sequence[Tensor], inputs: Tensor, dtype: torch.dtype | None, full: bool
) -> Driven:
    """Convert everything to `dtype`; by default its own, but float64 beyond the hidden state, where float32 is lost."""
    beyond = full and any(layer.state_size > layer.hidden_size for layer in layers)
    dtype = dtype or (torch.float64 if beyond or inputs.dtype == torch.float64 else torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a spectrum is computed in torch.float32 or torch.float64, but dtype is {dtype}")
    for index, (layer, state) in enumerate(zip(layers, states, strict=True)):
        name = f"start of layer {index}"
        _check_shape(name, state, (inputs.shape[1], layer.state_size))
        _check_alike(name, state, "inputs", inputs)
        _check_finite(name, state)
    return Driven([_converted(layer, dtype) for layer in layers], [s.to(dtype) for s in states], inputs.to(dtype))


def _converted(part: Any, dtype: torch.dtype) -> Any:
    """Return a layer with its tensors in `dtype`: those of a dataclass, or of a copy of a module."""
    if isinstance(part, Tensor):
        return part.to(dtype) if part.is_floating_point() else part
    if isinstance(part, nn.Module) and any(parameter.dtype != dtype for parameter in part.parameters()):
        if torch.is_grad_enabled():
            raise ValueError(f"a copy in {dtype} would lose its gradients: convert the network with .to({dtype}) first")
        return copy.deepcopy(part).to(dtype)
    if is_dataclass(part) and not isinstance(part, type | nn.Module | StepLayer):
        return replace(part, **{field.name: _converted(getattr(part, field.name), dtype) for field in fields(part)})
    return part


def _from_module(network: nn.RNNBase, inputs: Tensor, start: Any, dtype: torch.dtype | None, full: bool) -> Driven:
    layers = _module_layers(network)
    if network.batch_first:
        inputs = inputs.transpose(0, 1)
    _check_shape("one time step of inputs", inputs[0], (inputs.shape[1], network.input_size))
    parts = _module_start(network, inputs, start)
    states = [torch.cat([part[layer] for part in parts], -1) for layer in range(network.num_layers)]
    return _prepared(layers, states, inputs, dtype, full)


def _module_layers(network: nn.RNNBase) -> list[DrivenLayer]:
    if network.bidirectional:
        raise ValueError("a spectrum needs one direction of time, but this is bidirectional: take each direction alone")
    if network.proj_size:
        raise ValueError(f"a projected LSTM is not supported, but proj_size is {network.proj_size}: use proj_size=0")
    return [_MODULES[network.mode](_weights(network, layer)) for layer in range(network.num_layers)]


def _module_start(network: nn.RNNBase, inputs: Tensor, start: Any) -> tuple[Tensor, ...]:
    """Return the parts of the start state, h or (h, c), each (L, B, H)."""
    names = ("h", "c") if network.mode == "LSTM" else ("h",)
    shape = (network.num_layers, inputs.shape[1], network.hidden_size)
    if start is None:
        return tuple(inputs.new_zeros(shape) for _ in names)
    parts = (start,) if isinstance(start, Tensor) else tuple(start)
    if len(parts) != len(names):
        raise ValueError(f"an {network.mode} starts from ({', '.join(names)}), but start has {len(parts)} part(s)")
    for name, part in zip(names, parts, strict=True):
        _check_shape(f"start {name}", part, shape)
    return parts


def _weights(network: nn.RNNBase, layer: int) -> Weights:
    w_ih, w_hh = (getattr(network, f"weight_{name}_l{layer}") for name in ("ih", "hh"))
    if not network.bias:
        return Weights(w_ih, w_hh, w_hh.new_zeros(len(w_hh)), w_hh.new_zeros(len(w_hh)))
    return Weights(w_ih, w_hh, *(getattr(network, f"bias_{name}_l{layer}") for name in ("ih", "hh")))


_MODULES: dict[str, Callable[[Weights], DrivenLayer]] = {
    "LSTM": LSTMLayer,
    "GRU": GRULayer,
    "RNN_TANH": RNNLayer,
    "RNN_RELU": lambda weights: RNNLayer(weights, relu=True),
}


def _from_layers(
    parts: Sequence[DrivenLayer | nn.RNNBase], inputs: Tensor, start: Any, dtype: torch.dtype | None, full: bool
) -> Driven:
    layers: list[DrivenLayer] = []
    for part in parts:
        layers += _module_layers(part) if isinstance(part, nn.RNNBase) else [part]
    states = [inputs.new_zeros(inputs.shape[1], layer.state_size) for layer in layers] if start is None else list(start)
    if not layers or len(states) != len(layers):
        raise ValueError(f"start has one state (B, D) per layer, {len(layers)} in all, but {len(states)} were given")
    return _prepared(layers, states, inputs, dtype, full)


def _from_step(step: Any, inputs: Tensor, start: Any, dtype: torch.dtype | None) -> Driven:
    if not isinstance(start, Tensor) or start.dim() != 2 or start.shape[0] != inputs.shape[1]:
        shape = tuple(start.shape) if isinstance(start, Tensor) else start
        raise ValueError(
            f"a plain step needs start=(B, D) with B = {inputs.shape[1]}, to know its state, but start is {shape}: "
            "pass for example torch.zeros(B, D)"
        )
    return _prepared([StepLayer(step, start.shape[1])], [start], inputs, dtype, full=False)
