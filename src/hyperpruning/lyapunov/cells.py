"""The layers of `nn.RNN`, `nn.GRU` and `nn.LSTM` as driven layers; their Jacobians are weights with scaled rows.

Gate derivatives are computed as products, sigma'(x) = sigma(x) sigma(-x) and tanh'(x) = 4 sigma(2x) sigma(-2x). The
usual form `s * (1 - s)` cancels where the gate saturates and loses all digits there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperpruning.kernels import run_fused_rnn


def sigmoid_derivative(x: Tensor) -> Tensor:
    """Return sigma'(x) without cancellation."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def tanh_derivative(x: Tensor) -> Tensor:
    """Return tanh'(x) without cancellation."""
    return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)


def scaled_gate_sum(scales: Tensor, gates: Tensor) -> Tensor:
    """Return the sum over the gates of diag(scales) U, (N, G, H), (G, H, H) -> (N, H, H)."""
    by_row = scales.permute(2, 0, 1).contiguous()  # (H, N, G); five times faster than bmm on the original strides
    return torch.bmm(by_row, gates.transpose(0, 1)).transpose(0, 1)  # a (N, G) x (G, H) product for each row


@dataclass(frozen=True)
class Weights:
    """One layer's parameters in torch's layout, with G gates stacked by rows; missing biases are zeros."""

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

    def input_projection(self, input: Tensor) -> Tensor:
        """Return W x + b, (..., G H)."""
        return torch.nn.functional.linear(input, self.w_ih, self.b_ih)

    def recurrent_projection(self, hidden: Tensor) -> Tensor:
        """Return U h + b, (..., G H)."""
        return torch.nn.functional.linear(hidden, self.w_hh, self.b_hh)

    def hidden_states(self, loop: Callable[..., Any], start: tuple[Tensor, ...], inputs: Tensor) -> Tensor:
        """Return h after every step, (S, N, H), by torch's fused loop.

        loop: `torch.lstm`, `torch.gru`, `torch.rnn_tanh` or `torch.rnn_relu`.
        start: (h,), or (h, c) for an LSTM, each (N, H).
        inputs: (S, N, I).
        """
        state = tuple(part[None].contiguous() for part in start)  # cuDNN requires contiguous states
        weights = [self.w_ih, self.w_hh, self.b_ih, self.b_hh]
        train = torch.is_grad_enabled()
        outputs: Tensor = run_fused_rnn(loop, inputs, state if len(state) > 1 else state[0], weights, train=train)[0]
        return outputs


@dataclass(frozen=True)
class HiddenStateLayer:
    """Base of the layers whose only state is h."""

    weights: Weights

    @property
    def hidden_size(self) -> int:
        """Width H."""
        return self.weights.hidden_size

    @property
    def state_size(self) -> int:
        """Entries of the state h."""
        return self.hidden_size


@dataclass(frozen=True)
class RNNLayer(HiddenStateLayer):
    """h' = phi(W x + U h + b), phi = tanh or relu."""

    relu: bool = False

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return h'."""
        pre_activation = self.weights.input_projection(input) + self.weights.recurrent_projection(state)
        return torch.relu(pre_activation) if self.relu else torch.tanh(pre_activation)

    def unroll(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return h before the first step and after each step, by torch's fused loop."""
        loop = torch.rnn_relu if self.relu else torch.rnn_tanh
        return torch.cat([state[None], self.weights.hidden_states(loop, (state,), inputs)])

    def jacobian_terms(self, state: Tensor, input: Tensor) -> Tensor:
        """Return phi', (N, 1, H)."""
        pre_activation = self.weights.input_projection(input) + self.weights.recurrent_projection(state)
        if self.relu:
            return (pre_activation > 0).to(pre_activation.dtype)[:, None]
        return tanh_derivative(pre_activation)[:, None]

    def jacobian(self, terms: Tensor, size: int) -> Tensor:
        """Return diag(phi') U, (N, H, H)."""
        return scaled_gate_sum(terms, self.weights.gates)


@dataclass(frozen=True)
class GRULayer(HiddenStateLayer):
    """h' = (1 - z) n + z h with n = tanh(W x + b + r (U h + b_h))."""

    def _gates(self, state: Tensor, input: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        xr, xz, xn = self.weights.input_projection(input).chunk(3, -1)  # each (N, H)
        hr, hz, hn = self.weights.recurrent_projection(state).chunk(3, -1)
        return xr + hr, xz + hz, xn + torch.sigmoid(xr + hr) * hn, hn

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return h'."""
        _, z, n, _ = self._gates(state, input)
        return torch.sigmoid(-z) * torch.tanh(n) + torch.sigmoid(z) * state

    def unroll(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return h before the first step and after each step, by torch's fused loop."""
        return torch.cat([state[None], self.weights.hidden_states(torch.gru, (state,), inputs)])

    def jacobian_terms(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the factors of the rows of the gates r, z, n, and of the state itself, (N, 4, H)."""
        r, z, n, hn = self._gates(state, input)
        carry, by_n = torch.sigmoid(z), torch.sigmoid(-z) * tanh_derivative(n)
        by_r, by_z = by_n * hn * sigmoid_derivative(r), (state - torch.tanh(n)) * sigmoid_derivative(z)
        return torch.stack([by_r, by_z, by_n * torch.sigmoid(r), carry], 1)

    def jacobian(self, terms: Tensor, size: int) -> Tensor:
        """Return diag(z) + the sum over the three gates of diag(factor) U, (N, H, H)."""
        return scaled_gate_sum(terms[:, :3], self.weights.gates) + torch.diag_embed(terms[:, 3])


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
        """Entries of the state [h, c]."""
        return 2 * self.hidden_size

    def _gates(self, hidden: Tensor, input: Tensor) -> tuple[Tensor, ...]:
        """Return the pre-activations of i, f, g, o, each (..., H)."""
        return (self.weights.input_projection(input) + self.weights.recurrent_projection(hidden)).chunk(4, -1)

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return [h', c']."""
        h, c = state.chunk(2, -1)
        i, f, g, o = self._gates(h, input)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], -1)

    def unroll(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return [h, c] before the first step and after each step.

        h comes from torch's fused loop, which does not return c; c is recomputed from the gates that h gives.
        """
        h, c = state.chunk(2, -1)
        hidden = torch.cat([h[None], self.weights.hidden_states(torch.lstm, (h, c), inputs)])  # (S + 1, N, H)
        i, f, g, _ = self._gates(hidden[:-1], inputs)
        cells = [c]
        for forget, new in zip(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(g), strict=True):
            cells.append(forget * cells[-1] + new)
        return torch.cat([hidden, torch.stack(cells)], -1)

    def jacobian_terms(self, state: Tensor, input: Tensor) -> Tensor:
        """Return dc' by the pre-activations of i, f, g, dh' by that of o, dh' / dc' and dc' / dc, (N, 6, H)."""
        h, c = state.chunk(2, -1)
        i, f, g, o = self._gates(h, input)
        forget = torch.sigmoid(f)
        cell = forget * c + torch.sigmoid(i) * torch.tanh(g)
        c_by_gates = [
            sigmoid_derivative(i) * torch.tanh(g),
            sigmoid_derivative(f) * c,
            torch.sigmoid(i) * tanh_derivative(g),
        ]
        h_by_o, h_by_c = sigmoid_derivative(o) * torch.tanh(cell), torch.sigmoid(o) * tanh_derivative(cell)
        return torch.stack([*c_by_gates, h_by_o, h_by_c, forget], 1)

    def jacobian(self, terms: Tensor, size: int) -> Tensor:
        """Return dh'/dh with c fixed (size H), or the whole d[h', c']/d[h, c] (size 2 H)."""
        c_by_gates, h_by_o, h_by_c, forget = terms[:, :3], terms[:, 3:4], terms[:, 4:5], terms[:, 5]
        gates = self.weights.gates  # (4, H, H)
        h_by_h = scaled_gate_sum(torch.cat([h_by_c * c_by_gates, h_by_o], 1), gates)
        if size == self.hidden_size:
            return h_by_h
        next_h = torch.cat([h_by_h, torch.diag_embed(h_by_c[:, 0] * forget)], -1)  # (N, H, 2 H)
        next_c = torch.cat([scaled_gate_sum(c_by_gates, gates[:3]), torch.diag_embed(forget)], -1)
        return torch.cat([next_h, next_c], -2)
