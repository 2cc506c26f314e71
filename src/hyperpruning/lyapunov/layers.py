"""The protocols of a driven layer, and the defaults for layers without `unroll` or a hand-written Jacobian.

A network provides `driven_layers() -> Sequence[DrivenLayer]`, from the bottom up. Any object with the attributes of
`DrivenLayer` is a driven layer; it needs no base class and no import.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]


class DrivenLayer(Protocol):
    """One recurrent layer: `step(state (N, D), input (N, I)) -> state (N, D)`, where the N rows are independent.

    The leading `hidden_size` entries of the state are the layer's output, which the layer above reads and `state="h"`
    follows. Optional, for speed: `unroll(state, inputs (S, N, I)) -> (S + 1, N, D)`, the state before the first step
    and after each step, and the methods of `LayerWithJacobian`.
    """

    @property
    def state_size(self) -> int:
        """Number of entries D of the state."""

    @property
    def hidden_size(self) -> int:
        """Number of leading entries of the state that the layer above reads."""

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the next state (N, D)."""


@runtime_checkable
class LayerWithJacobian(DrivenLayer, Protocol):
    """A layer with a hand-written Jacobian: faster than forward-mode AD, and it shows dead units in advance.

    The Jacobian is computed in two parts, so that it can be evaluated for a few steps at a time.
    """

    def jacobian_terms(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the terms of the Jacobian that vary along the sequence, such as gate derivatives, (N, ...)."""

    def jacobian(self, terms: Tensor, size: int) -> Tensor:
        """Return the Jacobian d next[:size] / d state[:size], (N, size, size), from the terms (N, ...).

        With random terms, it must be non-zero at every entry that can be non-zero and have the highest possible rank.
        """


def unroll(layer: DrivenLayer, state: Tensor, inputs: Tensor) -> Tensor:
    """Return the state before the first step and after each step, (S + 1, N, D)."""
    if hasattr(layer, "unroll"):
        states: Tensor = layer.unroll(state, inputs)
        return states
    visited = [state]
    for input in inputs:
        visited.append(layer.step(visited[-1], input))
    return torch.stack(visited)


def forward_mode_jacobian(step: Step, state: Tensor, input: Tensor, size: int) -> Tensor:
    """Return d step(state)[:, :size] / d state[:, :size] by forward-mode AD, (N, size, size).

    The rows of the batch are independent, so that one unit tangent serves all rows: `size` vectorised JVPs.
    """

    def column(unit: Tensor) -> Tensor:
        tangent: Tensor = torch.func.jvp(lambda s: step(s, input), (state,), (unit.expand_as(state),))[1]
        return tangent[:, :size]

    units = torch.eye(size, state.shape[1], dtype=state.dtype, device=state.device)
    with warnings.catch_warnings():  # at its first use, forward-mode AD warns that torch.jit.script is deprecated
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        columns: Tensor = torch.func.vmap(column)(units)  # (size, N, size)
    return columns.permute(1, 2, 0)
