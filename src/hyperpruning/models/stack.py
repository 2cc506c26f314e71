"""Recurrent layers, by name, and stacks of them: of unequal widths, of any cell, with any dropout between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.models.rhn import RHNLayer

# The fused layers of torch, which also come as several in one module.
CELLS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
# Everything that makes one layer of (input_size, hidden_size), ...
LAYERS: dict[str, Callable[..., nn.Module]] = {
    **CELLS,
    "rhn": RHNLayer,
    "uncoupled_rhn": partial(RHNLayer, coupled=False),
}
# ... and how many gates stand stacked in the rows of its weights.
GATES: dict[str, int] = {"lstm": 4, "gru": 3, "rnn": 1, "rhn": 2, "uncoupled_rhn": 3}

Dropout = Callable[[Tensor, float, bool], Tensor]


def chain(layer: Callable[[int, int], nn.Module], input_size: int, widths: Sequence[int]) -> list[nn.Module]:
    """Return layers that fit on top of each other: the first reads `input_size`, each other what is below it.

    >>> [one.input_size for one in chain(nn.GRU, 3, (5, 4))]
    [3, 5]
    """
    return [layer(below, width) for below, width in pairwise([input_size, *widths])]


class Stack(nn.ModuleList):
    """Single layers on top of each other; computes what one `nn.LSTM`, `nn.GRU` or `nn.RNN` does where all are equal.

    Args:
        layers: from the bottom up, all of one cell; each is called as one-layer modules of torch are, and has a
            `hidden_size`.
        dropout: probability between the layers.
        dropout_function: the kind of that dropout, `functional.dropout` or `locked_dropout`.
    """

    def __init__(
        self, layers: Iterable[nn.Module], *, dropout: float = 0.0, dropout_function: Dropout = functional.dropout
    ) -> None:
        super().__init__(layers)
        self.dropout, self.dropout_function = dropout, dropout_function

    @property
    def widths(self) -> tuple[int, ...]:
        """Units H_l of each layer."""
        return tuple(int(layer.hidden_size) for layer in self)  # type: ignore[arg-type]

    def forward(self, input: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run all layers.

        Args:
            input: (T, B, I).
            state: what was returned before, h or for an LSTM (h, c), each (1, B, sum of widths); None starts at zero.

        Returns:
            the top layer's h (T, B, H_L), and the state after the last step.
        """
        pair = isinstance(self[0], nn.LSTM)
        if state is None:
            zeros = input.new_zeros(1, input.shape[1], sum(self.widths))
            state = (zeros, zeros) if pair else zeros
        parts = state if pair else (state,)
        starts = zip(*(part.split(self.widths, -1) for part in parts), strict=True)
        ends = []
        for number, (layer, start) in enumerate(zip(self, starts, strict=True)):
            if number:
                input = self.dropout_function(input, self.dropout, self.training)
            start = tuple(part.contiguous() for part in start)
            input, end = layer(input, start if pair else start[0])
            ends.append(end if pair else (end,))
        after = tuple(torch.cat(part, -1) for part in zip(*ends, strict=True))
        return input, after if pair else after[0]

    def driven_layers(self) -> list[nn.Module]:
        """Return the layers as the Lyapunov spectrum takes them, from the bottom up."""
        return list(self)
