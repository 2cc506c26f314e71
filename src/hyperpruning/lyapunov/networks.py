"""Conversion of a network (a module of torch, a custom cell or a plain step) to a checked `DrivenMap`."""

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
class DrivenMap:
    """A stack of driven layers with the start state of each, (B, D_l), and the inputs of the first, (T, B, I)."""

    layers: Sequence[DrivenLayer]
    start: Sequence[Tensor]
    inputs: Tensor

    def with_repeated_start(self, steps: int) -> DrivenMap:
        """Return the map whose inputs are the first `steps` inputs followed by all inputs."""
        return replace(self, inputs=torch.cat([self.inputs[:steps], self.inputs]))


def driven_map(network: Any, inputs: Tensor, start: Any, dtype: torch.dtype | None, full: bool = False) -> DrivenMap:
    """Return the network as a driven map in `dtype`.

    dtype: default float64 if `full` adds a second state (as for an LSTM), otherwise the network's own.
    Raises: TypeError or ValueError if the network or the inputs have no spectrum; the message says what to change.
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
        "network must be an nn.LSTM, nn.GRU or nn.RNN, an object with driven_layers(), a list of such layers, or a "
        f"function step(state, input), got a {type(network).__name__}. Wrap it as lambda state, input: ..."
    )


def _check_inputs(inputs: Tensor) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"inputs must be a floating point tensor (T, B, I), got {kind}. Embed token ids first.")
    if inputs.dim() != 3 or 0 in inputs.shape[:2]:
        raise ValueError(
            f"inputs must have the shape (T, B, I) with T, B >= 1, got {tuple(inputs.shape)}. Reshape them."
        )
    _check_finite("inputs", inputs)


def all_finite(tensor: Tensor) -> bool:
    """Tell whether all entries are finite, in one pass: NaN and infinity show in the minimum and the maximum."""
    return tensor.numel() == 0 or all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor.detach()))


def _check_finite(name: str, tensor: Tensor) -> None:
    if not all_finite(tensor):
        raise ValueError(f"{name} must be finite, got NaN or infinity. Use a network that has not diverged.")


def _check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    for what, one, two in (("dtype", tensor.dtype, other.dtype), ("device", tensor.device, other.device)):
        if one != two:
            raise ValueError(
                f"{name} and {other_name} must have the same {what}, got {one} and {two}. Convert one with .to(...)."
            )


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {tuple(tensor.shape)}. Reshape it.")


def _check_module(network: nn.Module, inputs: Tensor) -> None:
    for part in network.modules():
        dropout = part.p if isinstance(part, nn.Dropout) else getattr(part, "dropout", 0.0)
        if part.training and isinstance(dropout, float) and dropout:
            raise ValueError(
                f"The network must be deterministic, got training mode with dropout {dropout}. Call "
                "network.eval() first."
            )
    for name, weight in network.named_parameters():
        _check_alike(f"parameter {name}", weight, "inputs", inputs)
        _check_finite(f"parameter {name}: its values", weight)


def _prepared(
    layers: Sequence[DrivenLayer], states: Sequence[Tensor], inputs: Tensor, dtype: torch.dtype | None, full: bool
) -> DrivenMap:
    """Convert everything to `dtype`; the default is float64 for a second state, where float32 is too inaccurate."""
    second_state = full and any(layer.state_size > layer.hidden_size for layer in layers)
    dtype = dtype or (torch.float64 if second_state or inputs.dtype == torch.float64 else torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}. Choose one of these.")
    for index, (layer, state) in enumerate(zip(layers, states, strict=True)):
        name = f"start of layer {index}"
        _check_shape(name, state, (inputs.shape[1], layer.state_size))
        _check_alike(name, state, "inputs", inputs)
        _check_finite(name, state)
    return DrivenMap([_converted(layer, dtype) for layer in layers], [s.to(dtype) for s in states], inputs.to(dtype))


def _converted(part: Any, dtype: torch.dtype) -> Any:
    """Return a layer with its tensors in `dtype`; a module is copied, a dataclass is replaced."""
    if isinstance(part, Tensor):
        return part.to(dtype) if part.is_floating_point() else part
    others = [p.dtype for p in part.parameters() if p.dtype != dtype] if isinstance(part, nn.Module) else []
    if others:
        if torch.is_grad_enabled():
            raise ValueError(
                f"With differentiable=True a module must have the dtype {dtype}, got {others[0]}. Convert it "
                f"with .to({dtype})."
            )
        return copy.deepcopy(part).to(dtype)
    if is_dataclass(part) and not isinstance(part, type | nn.Module | StepLayer):
        return replace(part, **{field.name: _converted(getattr(part, field.name), dtype) for field in fields(part)})
    return part


def _from_module(network: nn.RNNBase, inputs: Tensor, start: Any, dtype: torch.dtype | None, full: bool) -> DrivenMap:
    layers = _module_layers(network)
    if network.batch_first:
        inputs = inputs.transpose(0, 1)
    _check_shape("one time step of inputs", inputs[0], (inputs.shape[1], network.input_size))
    parts = _module_start(network, inputs, start)
    states = [torch.cat([part[layer] for part in parts], -1) for layer in range(network.num_layers)]
    return _prepared(layers, states, inputs, dtype, full)


def _module_layers(network: nn.RNNBase) -> list[DrivenLayer]:
    if network.bidirectional:
        raise ValueError("bidirectional must be False, got True. Compute the spectrum of each direction separately.")
    if network.proj_size:
        raise ValueError(f"proj_size must be 0, got {network.proj_size}. Use an LSTM without projection.")
    return [_MODULES[network.mode](_weights(network, layer)) for layer in range(network.num_layers)]


def _module_start(network: nn.RNNBase, inputs: Tensor, start: Any) -> tuple[Tensor, ...]:
    """Return the parts of the start state, h or (h, c), each (L, B, H)."""
    names = ("h", "c") if network.mode == "LSTM" else ("h",)
    shape = (network.num_layers, inputs.shape[1], network.hidden_size)
    if start is None:
        return tuple(inputs.new_zeros(shape) for _ in names)
    parts = (start,) if isinstance(start, Tensor) else tuple(start)
    if len(parts) != len(names):
        raise ValueError(
            f"start of an {network.mode} must be ({', '.join(names)}), got {len(parts)} part(s). Pass {len(names)}."
        )
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
) -> DrivenMap:
    layers: list[DrivenLayer] = []
    for part in parts:
        layers += _module_layers(part) if isinstance(part, nn.RNNBase) else [part]
    states = [inputs.new_zeros(inputs.shape[1], layer.state_size) for layer in layers] if start is None else list(start)
    if not layers or len(states) != len(layers):
        raise ValueError(
            "A list of layers must have at least one layer and one start state (B, D) for each, got "
            f"{len(layers)} layers and {len(states)} states. Pass as many states as layers."
        )
    return _prepared(layers, states, inputs, dtype, full)


def _from_step(step: Any, inputs: Tensor, start: Any, dtype: torch.dtype | None) -> DrivenMap:
    if not isinstance(start, Tensor) or start.dim() != 2 or start.shape[0] != inputs.shape[1]:
        shape = tuple(start.shape) if isinstance(start, Tensor) else start
        raise ValueError(
            f"With a plain step, start must be a tensor (B, D) with B = {inputs.shape[1]}, got {shape}. Pass for "
            "example torch.zeros(B, D)."
        )
    return _prepared([StepLayer(step, start.shape[1])], [start], inputs, dtype, full=False)
