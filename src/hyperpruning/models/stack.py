"""Recurrent layers by name, and stacks of single layers with any widths, any cell and any dropout between layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.models.rhn import RHNLayer

# torch's fused layers; one module can hold several layers.
CELLS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
# Constructors of a single layer from (input_size, hidden_size).
LAYERS: dict[str, Callable[..., nn.Module]] = {
    **CELLS,
    "rhn": RHNLayer,
    "uncoupled_rhn": partial(RHNLayer, coupled=False),
}
# Number of gates stacked in the rows of each cell's weights.
GATES: dict[str, int] = {"lstm": 4, "gru": 3, "rnn": 1, "rhn": 2, "uncoupled_rhn": 3}
MAX_WIDTH, MAX_LAYERS = 1_000_000, 1_000  # far above what is trained: a typing error is a sentence, not a full memory

Dropout = Callable[[Tensor, float, bool], Tensor]


def stacked_layers(layer: Callable[[int, int], nn.Module], input_size: int, widths: Sequence[int]) -> list[nn.Module]:
    """Return one layer per width; the first has the input size `input_size`, every other the width below it.

    >>> [layer.input_size for layer in stacked_layers(nn.GRU, 3, (5, 4))]
    [3, 5]
    """
    return [layer(below, width) for below, width in pairwise([input_size, *widths])]


def without_autocast(device: str, cell: str) -> AbstractContextManager[None]:
    """Disable autocast for torch's cells: it runs cuDNN's layers in float16, where their gradients underflow."""
    affected = cell in CELLS and torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if affected else nullcontext()


class Stack(nn.ModuleList):
    """A stack of single layers; layers of equal width compute the same as one `nn.LSTM`, `nn.GRU` or `nn.RNN`.

    Args:
        layers: from the bottom up, all of the same cell; each has a `hidden_size` and the call signature of a one-layer
            module of torch.
        dropout: probability of dropout between the layers.
        dropout_function: `functional.dropout` or `locked_dropout`.
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
            state: h, or (h, c) for an LSTM, each (1, B, sum of widths); None starts from zeros.

        Returns:
            the top layer's h (T, B, H_L), and the state after the last step in the same form.
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
        """Return the layers from the bottom up, in the form that `lyapunov_spectrum` takes."""
        return list(self)
