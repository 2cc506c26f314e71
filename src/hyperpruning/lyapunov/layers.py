"""Recurrent layers as driven maps: a next state and, by row scaling, its Jacobian.

A layer is anything with the attributes of `DrivenLayer`; a network offers `driven_layers() -> Sequence[DrivenLayer]`.
The followed state comes first in the state vector: an LSTM's is `[h, c]`, its first `hidden_size` entries are `h`.

Gate derivatives are written as products that do not cancel in the saturated tails, where `s * (1 - s)` loses every
digit: sigma'(x) = sigma(x) sigma(-x) and tanh'(x) = 4 sigma(2x) sigma(-2x).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]


class DrivenLayer(Protocol):
    """What the spectrum needs of one layer: `step(state (N, D), input (N, I)) -> state (N, D)`, row by row independent.

    `hidden_size` leading entries of the state are what the layer above reads and what `state="h"` follows.
    Optional, for speed and for dead units:

    - `jacobian(state, input, size) -> (N, size, size)`: d next[:size] / d state[:size]; forward-mode AD otherwise;
    - `support(size) -> (size, size)` bool: the entries of that Jacobian that can differ from zero at all.
    """

    @property
    def state_size(self) -> int:
        """Entries D of the state."""

    @property
    def hidden_size(self) -> int:
        """Leading entries of the state that the layer above reads."""

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the next state (N, D)."""


def sigmoid_slope(x: Tensor) -> Tensor:
    """Return sigma'(x) without cancellation."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def tanh_slope(x: Tensor) -> Tensor:
    """Return tanh'(x) without cancellation."""
    return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)


def scale_rows(scales: Tensor, weights: Tensor) -> Tensor:
    """Return sum_g diag(scales[:, g]) @ weights[g]: (N, G, H), (G, H, K) -> (N, H, K)."""
    rows: Tensor = torch.einsum("ngh,ghk->nhk", scales, weights)
    return rows


@dataclass(frozen=True)
class Weights:
    """One layer's parameters in torch's layout, G gates stacked by rows; biases are zeros where the module has none."""

    w_ih: Tensor  # (G H, I)
    w_hh: Tensor  # (G H, H)
    b_ih: Tensor  # (G H,)
    b_hh: Tensor  # (G H,)

    @property
    def hidden_size(self) -> int:
        """Width H of the layer."""
        return self.w_hh.shape[1]

    @property
    def gates(self) -> Tensor:
        """The recurrent weights by gate, (G, H, H)."""
        return self.w_hh.reshape(-1, self.hidden_size, self.hidden_size)

    def alive(self) -> Tensor:
        """Return which recurrent connections any gate has, (H, H) bool."""
        return (self.gates != 0).any(0)


@dataclass(frozen=True)
class RNNLayer:
    """h' = phi(W x + U h + b), phi = tanh or relu."""

    weights: Weights
    relu: bool = False

    @property
    def hidden_size(self) -> int:
        """Width H."""
        return self.weights.hidden_size

    @property
    def state_size(self) -> int:
        """The state is h."""
        return self.hidden_size

    def _drive(self, state: Tensor, input: Tensor) -> Tensor:
        w = self.weights
        return input @ w.w_ih.T + w.b_ih + state @ w.w_hh.T + w.b_hh

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return h'."""
        drive = self._drive(state, input)
        return torch.relu(drive) if self.relu else torch.tanh(drive)

    def jacobian(self, state: Tensor, input: Tensor, size: int) -> Tensor:
        """Return diag(phi') U, (N, H, H)."""
        drive = self._drive(state, input)
        slope = (drive > 0).to(drive.dtype) if self.relu else tanh_slope(drive)
        return scale_rows(slope[:, None], self.weights.gates)

    def support(self, size: int) -> Tensor:
        """Return the connections that are not zero."""
        return self.weights.alive()


@dataclass(frozen=True)
class GRULayer:
    """h' = (1 - z) n + z h with n = tanh(W x + b + r (U h + b_h))."""

    weights: Weights

    @property
    def hidden_size(self) -> int:
        """Width H."""
        return self.weights.hidden_size

    @property
    def state_size(self) -> int:
        """The state is h."""
        return self.hidden_size

    def _gates(self, state: Tensor, input: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        w = self.weights
        xr, xz, xn = (input @ w.w_ih.T + w.b_ih).chunk(3, -1)  # each (N, H)
        hr, hz, hn = (state @ w.w_hh.T + w.b_hh).chunk(3, -1)
        return xr + hr, xz + hz, xn + torch.sigmoid(xr + hr) * hn, hn

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return h'."""
        _, z, n, _ = self._gates(state, input)
        return torch.sigmoid(-z) * torch.tanh(n) + torch.sigmoid(z) * state

    def jacobian(self, state: Tensor, input: Tensor, size: int) -> Tensor:
        """Return diag(z) + the three gates' rows, (N, H, H)."""
        r, z, n, hn = self._gates(state, input)
        through_n = torch.sigmoid(-z) * tanh_slope(n)
        scales = torch.stack(
            [
                through_n * hn * sigmoid_slope(r),
                (state - torch.tanh(n)) * sigmoid_slope(z),
                through_n * torch.sigmoid(r),
            ],
            1,
        )  # (N, 3, H) in torch's order r, z, n
        return scale_rows(scales, self.weights.gates) + torch.diag_embed(torch.sigmoid(z))

    def support(self, size: int) -> Tensor:
        """Return the connections that are not zero; each unit carries itself."""
        alive = self.weights.alive()
        return alive | torch.eye(size, dtype=torch.bool, device=alive.device)


@dataclass(frozen=True)
class LSTMLayer:
    """c' = f c + i g, h' = o tanh(c'); the state is [h, c]."""

    weights: Weights

    @property
    def hidden_size(self) -> int:
        """Width H."""
        return self.weights.hidden_size

    @property
    def state_size(self) -> int:
        """The state is [h, c]."""
        return 2 * self.hidden_size

    def _gates(self, state: Tensor, input: Tensor) -> tuple[Tensor, ...]:
        w = self.weights
        h, c = state.chunk(2, -1)
        i, f, g, o = (input @ w.w_ih.T + w.b_ih + h @ w.w_hh.T + w.b_hh).chunk(4, -1)  # each (N, H)
        following = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return i, f, g, o, c, following

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return [h', c']."""
        *_, o, _, following = self._gates(state, input)
        return torch.cat([torch.sigmoid(o) * torch.tanh(following), following], -1)

    def jacobian(self, state: Tensor, input: Tensor, size: int) -> Tensor:
        """Return dh'/dh with c held (size H), or the whole d[h', c']/d[h, c] (size 2 H)."""
        i, f, g, o, c, following = self._gates(state, input)
        to_c = torch.stack(
            [
                sigmoid_slope(i) * torch.tanh(g),
                sigmoid_slope(f) * c,
                torch.sigmoid(i) * tanh_slope(g),
                torch.zeros_like(o),
            ],
            1,
        )  # (N, 4, H) in torch's order i, f, g, o: dc'/da
        c_to_h = torch.sigmoid(o) * tanh_slope(following)  # dh'/dc'
        direct = torch.zeros_like(to_c)
        direct[:, 3] = sigmoid_slope(o) * torch.tanh(following)
        gates = self.weights.gates
        h_h = scale_rows(c_to_h[:, None] * to_c + direct, gates)
        if size == self.hidden_size:
            return h_h
        carry = torch.sigmoid(f)
        h_c = torch.diag_embed(c_to_h * carry)
        return torch.cat(
            [torch.cat([h_h, h_c], -1), torch.cat([scale_rows(to_c, gates), torch.diag_embed(carry)], -1)], -2
        )

    def support(self, size: int) -> Tensor:
        """Return the connections that are not zero; in the whole state each cell carries itself."""
        alive = self.weights.alive()
        if size == self.hidden_size:
            return alive
        eye = torch.eye(self.hidden_size, dtype=torch.bool, device=alive.device)
        to_c = (self.weights.gates[:3] != 0).any(0)
        return torch.cat([torch.cat([alive, eye], -1), torch.cat([to_c, eye], -1)], -2)


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
