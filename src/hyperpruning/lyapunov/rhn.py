"""A recurrent highway layer as a driven map, its Jacobian by scaling rows (Zilly et al. 2017, equations 6 to 9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperpruning.lyapunov.cells import scale_rows, sigmoid_slope, tanh_slope


@dataclass(frozen=True)
class RHNLayer:
    """s' = h t + s c, `depth` times within one time step: h = tanh, t = sigmoid, c = sigmoid of W x + R s + b.

    With two gates (h, t) the carry is coupled, c = 1 - t; with three (h, t, c) it is a gate of its own. The input is
    read in the first of the micro-steps alone. A network of several such layers is given as their list.
    """

    w: Tensor  # (G H, I)
    r: Tensor  # (depth, G H, H)
    b: Tensor  # (depth, G H)

    @property
    def hidden_size(self) -> int:
        """Width H."""
        return self.r.shape[-1]

    @property
    def state_size(self) -> int:
        """The state is s."""
        return self.hidden_size

    def _drives(self, input: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each micro-step's weights (G H, H) and what drives it beside the state, (N, G H)."""
        for depth, (r, b) in enumerate(zip(self.r, self.b, strict=True)):
            yield r, b + input @ self.w.T if depth == 0 else b

    def _gates(self, drive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, t, *c = drive.chunk(len(self.w) // self.hidden_size, -1)
        return h, t, c[0] if c else -t  # 1 - sigmoid(t) = sigmoid(-t)

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the state after all micro-steps."""
        for r, drive in self._drives(input):
            h, t, c = self._gates(drive + state @ r.T)
            state = torch.tanh(h) * torch.sigmoid(t) + state * torch.sigmoid(c)
        return state

    def slopes(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the scales of the gates' rows and of the state, for each micro-step, (N, depth, G + 1, H)."""
        slopes = []
        for r, drive in self._drives(input):
            h, t, c = self._gates(drive + state @ r.T)
            keep, to_h = torch.sigmoid(c), torch.sigmoid(t) * tanh_slope(h)
            to_t, to_c = torch.tanh(h) * sigmoid_slope(t), state * sigmoid_slope(c)
            coupled = 2 * self.hidden_size == len(r)
            slopes.append(torch.stack([to_h, to_t - to_c, keep] if coupled else [to_h, to_t, to_c, keep], 1))
            state = torch.tanh(h) * torch.sigmoid(t) + state * keep
        return torch.stack(slopes, 1)

    def assembled(self, slopes: Tensor, size: int) -> Tensor:
        """Return the product of the micro-steps' Jacobians diag(c) + the gates' rows, (N, H, H)."""
        product: Tensor | None = None
        for r, step in zip(self.r, slopes.unbind(1), strict=True):
            factor = scale_rows(step[:, :-1], r.reshape(-1, size, size)) + torch.diag_embed(step[:, -1])
            product = factor if product is None else factor @ product
        if product is None:
            raise ValueError("a recurrent highway layer has a depth of at least 1, but its r is empty")
        return product
