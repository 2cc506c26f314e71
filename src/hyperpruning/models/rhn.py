"""A recurrent highway layer (Zilly et al. 2017, arXiv 1607.03474, equations 6 to 9), with its Jacobian."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.models.rhn_function import HighwayFunction, micro_steps


class RHNLayer(nn.Module):
    """s' = h t + s c, `depth` times within one time step: h = tanh, t = sigmoid, c = sigmoid of W x + R s + b.

    The carry gate c is 1 - t if coupled, otherwise a gate with its own weights. Only the first micro-step reads the
    input. The parameters are `w` (G H, I) and, for each micro-step, `r[d]` (G H, H) and `b[d]` (G H,), with the
    G = 2 or 3 gates h, t, c stacked by rows. Each micro-step has its own matrix, so that masks and densities refer to
    matrices. The initial values are uniform in +-1 / sqrt(H), as in torch's layers.

    `step`, `unroll`, `jacobian_terms` and `jacobian` make it a driven layer for `lyapunov_spectrum`; they apply no
    dropout.

    Args:
        input_size: I.
        hidden_size: H.
        depth: micro-steps per time step.
        coupled: whether c = 1 - t.
        dropout: probability that a unit of the state is zero for the gates (the carry s c is not dropped), with one
            mask (B, H) for all steps and micro-steps of a batch.

    Raises:
        ValueError: a depth below 1.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, depth: int = 1, coupled: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}. Raise it.")
        self.input_size, self.hidden_size, self.coupled, self.dropout = input_size, hidden_size, coupled, dropout
        rows = self.row_groups * hidden_size
        self.w = nn.Parameter(torch.empty(rows, input_size))
        self.r = nn.ParameterList(torch.empty(rows, hidden_size) for _ in range(depth))
        self.b = nn.ParameterList(torch.empty(rows) for _ in range(depth))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    recurrent_weights = ("r",)

    @property
    def row_groups(self) -> int:
        """Gates G that are stacked in the rows of each matrix."""
        return 2 if self.coupled else 3

    @property
    def state_size(self) -> int:
        """Entries of the state s."""
        return self.hidden_size

    def forward(self, input: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the layer, with the signature of `nn.GRU`.

        Args:
            input: (T, B, I).
            state: s (1, B, H); None starts from zeros.

        Returns:
            s after every step (T, B, H), and after the last step (1, B, H).
        """
        start = input.new_zeros(input.shape[1], self.hidden_size) if state is None else state[0]
        mask = functional.dropout(torch.ones_like(start), self.dropout) if self.training and self.dropout else None
        projection = self._input_projection(input).to(start.dtype)
        output: Tensor = HighwayFunction.apply(start, projection, mask, len(self.r), *self.r, *list(self.b)[1:])  # type: ignore[no-untyped-call]
        return output, output[-1:]

    def _input_projection(self, input: Tensor) -> Tensor:
        """Return W x + b of the first micro-step for all steps, (T, B, I) -> (T, B, G H)."""
        return functional.linear(input, self.w, self.b[0])

    def _micro_steps(self, state: Tensor, input: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the `micro_steps` from a state (N, H) and inputs (S, N, I)."""
        return micro_steps(state, self._input_projection(input), None, list(self.r), list(self.b)[1:])

    def _gate_derivatives(self, state: Tensor, gates: Tensor) -> Tensor:
        """Return ds' / d(pre-activation) of each gate, and the carry c, of one micro-step.

        Args:
            state: (N, H).
            gates: pre-activations, (N, G H).

        Returns:
            (N, G + 1, H).
        """
        h, t, *others = gates.chunk(self.row_groups, -1)
        c = others[0] if others else -t  # 1 - sigmoid(t) = sigmoid(-t)
        # products, which unlike 1 - tanh(h)^2 and t (1 - t) do not cancel in the saturated tails
        by_h = torch.sigmoid(t) * 4 * torch.sigmoid(2 * h) * torch.sigmoid(-2 * h)
        by_t = torch.tanh(h) * torch.sigmoid(t) * torch.sigmoid(-t)
        by_c = state * torch.sigmoid(c) * torch.sigmoid(-c)
        rows = [by_h, by_t - by_c] if self.coupled else [by_h, by_t, by_c]
        return torch.stack([*rows, torch.sigmoid(c)], 1)

    def unroll(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return the state before the first step and after each step, (N, H), (S, N, I) -> (S + 1, N, H)."""
        states = [after for _, _, after in self._micro_steps(state, inputs)]
        return torch.stack([state, *states[len(self.r) - 1 :: len(self.r)]])

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the state after all micro-steps, (N, H), (N, I) -> (N, H)."""
        return self.unroll(state, input[None])[1]

    def jacobian_terms(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the factors of the gates' rows and of the state for each micro-step, (N, depth, G + 1, H)."""
        micro_steps = self._micro_steps(state, input[None])
        return torch.stack([self._gate_derivatives(before, gates) for before, gates, _ in micro_steps], 1)

    def jacobian(self, terms: Tensor, size: int) -> Tensor:
        """Return the product of the micro-steps' Jacobians, diag(c) + sum over gates of diag(factor) R, (N, H, H)."""
        product: Tensor | None = None
        for r, step in zip(self.r, terms.unbind(1), strict=True):
            scales = step[:, :-1].permute(2, 0, 1).contiguous()  # (H, N, G)
            rows = torch.bmm(scales, r.view(-1, size, size).transpose(0, 1)).transpose(0, 1)  # (N, H, H)
            factor = rows + torch.diag_embed(step[:, -1])
            product = factor if product is None else factor @ product
        assert product is not None  # the depth is at least 1
        return product
