"""A driven map, and the checks and conversions that make one of layers, states and inputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.lyapunov.layers import DrivenLayer
from hyperpruning.lyapunov.steps import StepLayer, check_real


@dataclass(frozen=True)
class DrivenMap:
    """A stack of driven layers with the start state of each, (B, D_l), and the inputs of the first, (T, B, I)."""

    layers: Sequence[DrivenLayer]
    start: Sequence[Tensor]
    inputs: Tensor

    def with_repeated_start(self, steps: int) -> DrivenMap:
        """Return the map whose inputs are the first `steps` inputs followed by all inputs."""
        return replace(self, inputs=torch.cat([self.inputs[:steps], self.inputs]))


def check_inputs(inputs: Tensor) -> None:
    """Raise if the inputs are not finite floating point numbers (T, B, I)."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"inputs must be a floating point tensor (T, B, I), got {kind}. Embed token ids first.")
    if inputs.dim() != 3 or 0 in inputs.shape[:2]:
        raise ValueError(
            f"inputs must have the shape (T, B, I) with T, B >= 1, got {tuple(inputs.shape)}. Reshape them."
        )
    check_finite("inputs", inputs)


def all_finite(tensor: Tensor) -> bool:
    """Tell whether all entries are finite, in one pass: NaN and infinity show in the minimum and the maximum."""
    return tensor.numel() == 0 or all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor.detach()))


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise if a tensor has NaN or infinite entries."""
    if not all_finite(tensor):
        raise ValueError(f"{name} must be finite, got NaN or infinity. Use a network that has not diverged.")


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise if two tensors differ in dtype or device."""
    for what, one, two in (("dtype", tensor.dtype, other.dtype), ("device", tensor.device, other.device)):
        if one != two:
            raise ValueError(
                f"{name} and {other_name} must have the same {what}, got {one} and {two}. Convert one with .to(...)."
            )


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise if a tensor has another shape."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {tuple(tensor.shape)}. Reshape it.")


def check_module(network: nn.Module, inputs: Tensor) -> None:
    """Raise if a module draws dropout, or has parameters that are not like the inputs or not finite."""
    for part in network.modules():
        dropout = part.p if isinstance(part, nn.Dropout) else getattr(part, "dropout", 0.0)
        if part.training and isinstance(dropout, float) and dropout:
            raise ValueError(
                f"The network must be deterministic, got training mode with dropout {dropout}. Call "
                "network.eval() first."
            )
    for name, weight in network.named_parameters():
        check_alike(f"parameter {name}", weight, "inputs", inputs)
        check_finite(f"parameter {name}: its values", weight)


def prepared(
    layers: Sequence[DrivenLayer], states: Sequence[Tensor], inputs: Tensor, dtype: torch.dtype | None, full: bool
) -> DrivenMap:
    """Convert everything to `dtype`; the default is float64 for a second state, where float32 is too inaccurate."""
    second_state = full and any(layer.state_size > layer.hidden_size for layer in layers)
    dtype = computing_dtype(dtype, inputs, second_state)
    for index, (layer, state) in enumerate(zip(layers, states, strict=True)):
        name = f"start of layer {index}"
        check_real(state)
        check_shape(name, state, (inputs.shape[1], layer.state_size))
        check_alike(name, state, "inputs", inputs)
        check_finite(name, state)
    return DrivenMap([_converted(layer, dtype) for layer in layers], [s.to(dtype) for s in states], inputs.to(dtype))


def computing_dtype(dtype: torch.dtype | None, inputs: Tensor, second_state: bool) -> torch.dtype:
    """Return the dtype of the computation: what the user asks for, or the default."""
    dtype = dtype or (torch.float64 if second_state or inputs.dtype == torch.float64 else torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}. Choose one of these.")
    return dtype


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
