"""Recurrent layers of unequal widths, which torch's modules do not offer: what is left of a network pruned by units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.models.language_model import CELLS


class Stack(nn.ModuleList):
    """Single layers on top of each other; computes what one `nn.LSTM`, `nn.GRU` or `nn.RNN` does where all are equal.

    Args:
        cell: a key of `CELLS`.
        input_size: I of the lowest.
        widths: units H_l of each, from the bottom up.
        dropout: probability between the layers.
    """

    def __init__(self, cell: str, input_size: int, widths: Sequence[int], *, dropout: float = 0.0) -> None:
        super().__init__(CELLS[cell](below, width) for below, width in pairwise([input_size, *widths]))
        self.cell, self.widths, self.dropout = cell, tuple(widths), dropout

    def forward(self, input: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run all layers.

        Args:
            input: (T, B, I).
            state: what was returned before, h or for an LSTM (h, c), each (1, B, sum of widths); None starts at zero.

        Returns:
            the top layer's h (T, B, H_L), and the state after the last step.
        """
        if state is None:
            zeros = input.new_zeros(1, input.shape[1], sum(self.widths))
            state = (zeros, zeros) if self.cell == "lstm" else zeros
        parts = state if isinstance(state, tuple) else (state,)
        starts = zip(*(part.split(self.widths, -1) for part in parts), strict=True)
        ends = []
        for number, (layer, start) in enumerate(zip(self, starts, strict=True)):
            if number:
                input = functional.dropout(input, self.dropout, self.training)
            start = tuple(part.contiguous() for part in start)
            input, end = layer(input, start if self.cell == "lstm" else start[0])
            ends.append(end if self.cell == "lstm" else (end,))
        after = tuple(torch.cat(part, -1) for part in zip(*ends, strict=True))
        return input, after if self.cell == "lstm" else after[0]

    def driven_layers(self) -> list[nn.Module]:
        """Return the layers as the Lyapunov spectrum takes them, from the bottom up."""
        return list(self)
