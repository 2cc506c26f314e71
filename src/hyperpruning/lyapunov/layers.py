"""A recurrent layer as a driven map: what the spectrum asks of it, and what it does where a layer offers less.

A network offers `driven_layers() -> Sequence[DrivenLayer]`, from the bottom up; any object with the attributes of
`DrivenLayer` is a layer. Nothing has to be inherited or imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]


class DrivenLayer(Protocol):
    """What the spectrum needs of one layer: `step(state (N, D), input (N, I)) -> state (N, D)`, row by row independent.

    The leading `hidden_size` entries of the state are what the layer above reads and what `state="h"` follows.
    Optional, for speed: `unroll(state, inputs (S, N, I)) -> (S + 1, N, D)`, the state before the first step and after
    each; and the methods of `LinearisedLayer`.
    """

    @property
    def state_size(self) -> int:
        """Entries D of the state."""

    @property
    def hidden_size(self) -> int:
        """Leading entries of the state that the layer above reads."""

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the next state (N, D)."""


@runtime_checkable
class LinearisedLayer(DrivenLayer, Protocol):
    """A layer that knows its Jacobian, which forward-mode AD finds otherwise: faster, and it shows dead units."""

    def jacobian_terms(self, state: Tensor, input: Tensor) -> Tensor:
        """Return whatever in the Jacobian varies along the sequence, such as gate derivatives, (N, ...)."""

    def jacobian(self, terms: Tensor, size: int) -> Tensor:
        """Return the Jacobian d next[:size] / d state[:size] from its terms, (N, size, size).

        At random terms it has every entry that is ever non-zero, and the highest rank that it ever has.
        """


@dataclass(frozen=True)
class StepLayer:
    """A plain function `step(state, input) -> state` as a layer of its own."""

    function: Step
    state_size: int

    @property
    def hidden_size(self) -> int:
        """The whole state is followed."""
        return self.state_size

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the next state, whose shape must not change."""
        following = self.function(state, input)
        if following.shape != state.shape:
            raise ValueError(
                f"a step keeps the shape of its state, but {tuple(state.shape)} became {tuple(following.shape)}: "
                "return the next state alone, as (B, D)"
            )
        return following


def unroll(layer: DrivenLayer, state: Tensor, inputs: Tensor) -> Tensor:
    """Return the state before the first step and after each, (S + 1, N, D)."""
    if hasattr(layer, "unroll"):
        states: Tensor = layer.unroll(state, inputs)
        return states
    visited = [state]
    for input in inputs:
        visited.append(layer.step(visited[-1], input))
    return torch.stack(visited)


def automatic_jacobian(step: Step, state: Tensor, input: Tensor, size: int) -> Tensor:
    """Return d step(state)[:, :size] / d state[:, :size] by forward-mode AD, (N, size, size).

    Rows of the batch are independent, so that one unit tangent serves all of them: `size` pushes, vectorised.
    """

    def push(unit: Tensor) -> Tensor:
        pushed: Tensor = torch.func.jvp(lambda s: step(s, input), (state,), (unit.expand_as(state),))[1]
        return pushed[:, :size]

    units = torch.eye(size, state.shape[1], dtype=state.dtype, device=state.device)
    with warnings.catch_warnings():  # torch's first use of forward-mode AD warns of its own deprecated torch.jit.script
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        columns: Tensor = torch.func.vmap(push)(units)  # (size, N, size)
    return columns.permute(1, 2, 0)
