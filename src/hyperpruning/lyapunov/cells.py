"""The layers of `nn.RNN`, `nn.GRU` and `nn.LSTM` as driven maps, their Jacobians formed by scaling the weights' rows.

Gate derivatives are written as products that do not cancel in the saturated tails, where `s * (1 - s)` loses every
digit: sigma'(x) = sigma(x) sigma(-x) and tanh'(x) = 4 sigma(2x) sigma(-2x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperpruning.kernels import run_fused_rnn


def sigmoid_slope(x: Tensor) -> Tensor:
    """Return sigma'(x) without cancellation."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def tanh_slope(x: Tensor) -> Tensor:
    """Return tanh'(x) without cancellation."""
    return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)


def scale_rows(scales: Tensor, gates: Tensor) -> Tensor:
    """Return the sum over the gates of diag(scales) U, (N, G, H), (G, H, H) -> (N, H, H)."""
    by_row = scales.permute(2, 0, 1).contiguous()  # (H, N, G); five times faster than bmm on the strides as they were
    return torch.bmm(by_row, gates.transpose(0, 1)).transpose(0, 1)  # a (N, G) x (G, H) product for each row


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

    def from_below(self, input: Tensor) -> Tensor:
        """Return W x + b, (..., G H)."""
        return torch.nn.functional.linear(input, self.w_ih, self.b_ih)

    def from_before(self, hidden: Tensor) -> Tensor:
        """Return U h + b, (..., G H)."""
        return torch.nn.functional.linear(hidden, self.w_hh, self.b_hh)

    def outputs(self, loop: Callable[..., tuple[Tensor, ...]], start: tuple[Tensor, ...], inputs: Tensor) -> Tensor:
        """Return h after every step, (S, N, H), by torch's fused loop from h, or h and c, each (N, H)."""
        state = tuple(part[None].contiguous() for part in start)  # cuDNN takes no other
        weights = [self.w_ih, self.w_hh, self.b_ih, self.b_hh]
        traced = torch.is_grad_enabled()
        outputs: Tensor = run_fused_rnn(loop, inputs, state if len(state) > 1 else state[0], weights, train=traced)[0]
        return outputs


@dataclass(frozen=True)
class Hidden:
    """What layers have in common whose state is h alone."""

    weights: Weights

    @property
    def hidden_size(self) -> int:
        """Width H."""
        return self.weights.hidden_size

    @property
    def state_size(self) -> int:
        """The state is h."""
        return self.hidden_size


@dataclass(frozen=True)
class RNNLayer(Hidden):
    """h' = phi(W x + U h + b), phi = tanh or relu."""

    relu: bool = False

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return h'."""
        drive = self.weights.from_below(input) + self.weights.from_before(state)
        return torch.relu(drive) if self.relu else torch.tanh(drive)

    def unroll(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return every h, by torch's fused loop."""
        loop = torch.rnn_relu if self.relu else torch.rnn_tanh
        return torch.cat([state[None], self.weights.outputs(loop, (state,), inputs)])

    def jacobian_terms(self, state: Tensor, input: Tensor) -> Tensor:
        """Return phi', (N, 1, H)."""
        drive = self.weights.from_below(input) + self.weights.from_before(state)
        slope = (drive > 0).to(drive.dtype) if self.relu else tanh_slope(drive)
        return slope[:, None]

    def jacobian(self, terms: Tensor, size: int) -> Tensor:
        """Return diag(phi') U, (N, H, H)."""
        return scale_rows(terms, self.weights.gates)


@dataclass(frozen=True)
class GRULayer(Hidden):
    """h' = (1 - z) n + z h with n = tanh(W x + b + r (U h + b_h))."""

    def _gates(self, state: Tensor, input: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        xr, xz, xn = self.weights.from_below(input).chunk(3, -1)  # each (N, H)
        hr, hz, hn = self.weights.from_before(state).chunk(3, -1)
        return xr + hr, xz + hz, xn + torch.sigmoid(xr + hr) * hn, hn

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return h'."""
        _, z, n, _ = self._gates(state, input)
        return torch.sigmoid(-z) * torch.tanh(n) + torch.sigmoid(z) * state

    def unroll(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return every h, by torch's fused loop."""
        return torch.cat([state[None], self.weights.outputs(torch.gru, (state,), inputs)])

    def jacobian_terms(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the scales of the rows of the gates r, z, n, and of the state itself, (N, 4, H)."""
        r, z, n, hn = self._gates(state, input)
        keep, through_n = torch.sigmoid(z), torch.sigmoid(-z) * tanh_slope(n)
        to_r, to_z = through_n * hn * sigmoid_slope(r), (state - torch.tanh(n)) * sigmoid_slope(z)
        return torch.stack([to_r, to_z, through_n * torch.sigmoid(r), keep], 1)

    def jacobian(self, terms: Tensor, size: int) -> Tensor:
        """Return diag(z) + the three gates' rows, (N, H, H)."""
        return scale_rows(terms[:, :3], self.weights.gates) + torch.diag_embed(terms[:, 3])


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

    def _gates(self, hidden: Tensor, input: Tensor) -> tuple[Tensor, ...]:
        return (self.weights.from_below(input) + self.weights.from_before(hidden)).chunk(4, -1)  # i, f, g, o

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return [h', c']."""
        h, c = state.chunk(2, -1)
        i, f, g, o = self._gates(h, input)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], -1)

    def unroll(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return every [h, c]: h by torch's fused loop, which keeps c to itself; c from the gates that h implies."""
        h, c = state.chunk(2, -1)
        hidden = torch.cat([h[None], self.weights.outputs(torch.lstm, (h, c), inputs)])  # (S + 1, N, H)
        i, f, g, _ = self._gates(hidden[:-1], inputs)
        cells = [c]
        for keep, new in zip(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(g), strict=True):
            cells.append(keep * cells[-1] + new)
        return torch.cat([hidden, torch.stack(cells)], -1)

    def jacobian_terms(self, state: Tensor, input: Tensor) -> Tensor:
        """Return dc' / d(what enters i, f, g), dh' / d(what enters o), dh' / dc' and dc' / dc, (N, 6, H)."""
        h, c = state.chunk(2, -1)
        i, f, g, o = self._gates(h, input)
        keep = torch.sigmoid(f)
        cell = keep * c + torch.sigmoid(i) * torch.tanh(g)
        to_c = [sigmoid_slope(i) * torch.tanh(g), sigmoid_slope(f) * c, torch.sigmoid(i) * tanh_slope(g)]
        return torch.stack([*to_c, sigmoid_slope(o) * torch.tanh(cell), torch.sigmoid(o) * tanh_slope(cell), keep], 1)

    def jacobian(self, terms: Tensor, size: int) -> Tensor:
        """Return dh'/dh with c held (size H), or the whole d[h', c']/d[h, c] (size 2 H)."""
        to_c, through_o, c_to_h, keep = terms[:, :3], terms[:, 3:4], terms[:, 4:5], terms[:, 5]
        gates = self.weights.gates  # (4, H, H)
        h_h = scale_rows(torch.cat([c_to_h * to_c, through_o], 1), gates)
        if size == self.hidden_size:
            return h_h
        to_next_h = torch.cat([h_h, torch.diag_embed(c_to_h[:, 0] * keep)], -1)  # (N, H, 2 H)
        to_next_c = torch.cat([scale_rows(to_c, gates[:3]), torch.diag_embed(keep)], -1)
        return torch.cat([to_next_h, to_next_c], -2)
