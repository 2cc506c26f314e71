"""The same steps in plain torch, where there is no compiled kernel."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from hyperpruning.deploy.native_network import MIN_ROUNDS, MatrixReport
from hyperpruning.deploy.packing import pack, unpack
from hyperpruning.deploy.parts import Layer, Linear, NetworkParts


class TorchNetwork:
    """A network in torch: each matrix dense or as torch's CSR, by a short timing.

    int8 rounds weights and activations as the kernel does and multiplies the rounded values in float32; its sums agree
    with the kernel's up to the rounding of float32.

    Args:
        parts: of the network.
        precision: "exact" or "int8".
    """

    def __init__(self, parts: NetworkParts, precision: str) -> None:
        self.parts, self.int8 = parts, precision == "int8"
        self.reports, self.matrices = list[MatrixReport](), dict[str, Tensor]()
        for linear in parts.linears():
            self.matrices[linear.name], report = _choose(linear, self.int8)
            self.reports.append(report)
        head = parts.head
        self.head = head if isinstance(head, Linear) and not parts.pooled else None
        self.direct = self.head is not None
        self.outputs = len(self.head.bias) if self.head else parts.hidden

    def bound(self, state: Tensor) -> Callable[[Tensor], Tensor]:
        """A step that advances a state (B, S) in place: inputs (B,) or (B, I) -> (B, `outputs`).

        It raises IndexError for a token outside the vocabulary.
        """
        return partial(self._step, state)

    @torch.no_grad()
    def _step(self, state: Tensor, x: Tensor) -> Tensor:
        if self.parts.embedding is not None:
            size = len(self.parts.embedding)
            if not bool(((x >= 0) & (x < size)).all()):
                raise IndexError(
                    f"Tokens must be 0 to {size - 1}, got {x.tolist()}. Use the vocabulary of the network."
                )
            x = self.parts.embedding[x]
        if self.parts.mean is not None and self.parts.deviation is not None:
            x = (x - self.parts.mean) / self.parts.deviation
        ends, sizes = [], [layer.state_size for layer in self.parts.layers]
        for layer, part in zip(self.parts.layers, torch.split(state, sizes, -1), strict=True):
            ends.append(self._layer_step(layer, x, part))
            x = ends[-1][:, : layer.hidden]
        state.copy_(torch.cat(ends, -1))
        return self.product(self.head, x) if self.head else x

    def product(self, linear: Linear, x: Tensor) -> Tensor:
        """W x + b for each of N vectors, (N, C) -> (N, R)."""
        if self.int8:
            scales = x.abs().amax(-1, keepdim=True) / 127
            x = torch.where(scales < 1e-32, 0.0, torch.round(x / scales) * scales)
        return (self.matrices[linear.name] @ x.T).T + linear.bias

    def _layer_step(self, layer: Layer, x: Tensor, state: Tensor) -> Tensor:
        """The state of one layer (B, H), or h and c (B, 2 H), after a step."""
        h = state[:, : layer.hidden]
        a, b = self.product(layer.input, x), self.product(layer.recurrent[0], h)
        if layer.cell == "lstm":
            i, f, g, o = (a + b).chunk(4, -1)
            c = torch.sigmoid(f) * state[:, layer.hidden :] + torch.sigmoid(i) * torch.tanh(g)
            return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], -1)
        if layer.cell == "gru":
            (r, z, n), (hr, hz, hn) = a.chunk(3, -1), b.chunk(3, -1)
            fresh = torch.tanh(n + torch.sigmoid(r + hr) * hn)
            return torch.lerp(fresh, h, torch.sigmoid(z + hz))
        if layer.cell.startswith("rnn"):
            return torch.tanh(a + b) if layer.cell == "rnn_tanh" else functional.relu(a + b)
        return self._highway(layer, a + b, h)

    def _highway(self, layer: Layer, gates: Tensor, s: Tensor) -> Tensor:
        for depth in range(len(layer.recurrent)):
            if depth:
                gates = self.product(layer.recurrent[depth], s)
            h, t, *others = gates.chunk(2 if layer.cell == "rhn" else 3, -1)
            transform = torch.sigmoid(t)
            carry = torch.sigmoid(others[0]) if others else 1 - transform
            s = torch.tanh(h) * transform + s * carry
        return s


def _choose(linear: Linear, int8: bool) -> tuple[Tensor, MatrixReport]:
    weight = unpack(pack(linear.weight, "dense_int8")) if int8 else linear.weight
    with warnings.catch_warnings():  # torch calls CSR beta
        warnings.simplefilter("ignore")
        matrices = {"torch dense": weight, "torch CSR": weight.to_sparse_csr()}
    x = torch.linspace(-1, 1, weight.shape[1])[:, None]
    times = dict.fromkeys(matrices, math.inf)
    for _ in range(MIN_ROUNDS + 1):
        for name, matrix in matrices.items():
            start = time.perf_counter()
            matrix @ x
            times[name] = min(times[name], time.perf_counter() - start)
    best = min(times, key=times.__getitem__)
    sparsity = float((weight == 0).double().mean())
    read = int(torch.count_nonzero(weight)) * 12 if best == "torch CSR" else weight.numel() * 4
    microseconds = {name: seconds * 1e6 for name, seconds in times.items()}
    return matrices[best], MatrixReport(
        linear.name, weight.shape[0], weight.shape[1], sparsity, best, read, microseconds
    )
