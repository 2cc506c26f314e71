"""Dropout as recurrent language models use it: one mask for all time steps, whole words, recurrent weights.

Every mask is drawn from torch's global generator, which the training seeds for each epoch. What stays is scaled by
1 / (1 - p), so that nothing changes in the mean; outside of training nothing changes at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.kernels import fused


def locked_dropout(values: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Drop the same units at every time step (variational dropout; Gal & Ghahramani 2016, arXiv 1512.05287).

    Args:
        values: (T, B, H).
        p: probability of a zero.
        training: False returns the values as they are.

    Returns:
        values * mask / (1 - p), with one mask (1, B, H) for all steps.
    """
    if not training or not p:
        return values
    return values * functional.dropout(torch.ones_like(values[:1]), p)


class LockedDropout(nn.Dropout):
    """`locked_dropout` as a module; p is the probability of a zero."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the values (T, B, H), the same units dropped at every step."""
        return locked_dropout(input, self.p, self.training)


class WordDropEmbedding(nn.Embedding):
    """An embedding that drops whole words: all occurrences in a batch, and all E entries (Merity et al. 2018, 4.3).

    Args:
        vocabulary: number of tokens V.
        size: E.
        dropout: probability that a word is dropped.
    """

    def __init__(self, vocabulary: int, size: int, *, dropout: float) -> None:
        super().__init__(vocabulary, size)
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:
        """Return the embedding (..., E) of the tokens (...)."""
        if not self.training or not self.dropout:
            return super().forward(input)
        words = functional.dropout(self.weight.new_ones(self.num_embeddings, 1), self.dropout)
        return super().forward(input) * functional.embedding(input, words)  # V x E is never copied


class WeightDropLSTM(nn.LSTM):
    """One LSTM layer with DropConnect on W_hh: one mask for all steps of a batch (Merity et al. 2018, section 2).

    The parameter stays the whole matrix, which is what masks, optimizers and the Lyapunov spectrum see; training runs
    on a copy with weights dropped.

    Args:
        input_size: I.
        hidden_size: H.
        weight_drop: probability that an entry of W_hh is dropped.
    """

    def __init__(self, input_size: int, hidden_size: int, *, weight_drop: float) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_drop = weight_drop

    def forward(  # type: ignore[override]  # torch declares packed sequences too
        self, input: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer: input (T, B, I), state (h, c) each (1, B, H) -> output (T, B, H), state."""
        if state is None:
            zeros = input.new_zeros(1, input.shape[1], self.hidden_size)
            state = (zeros, zeros)
        w_ih, w_hh, b_ih, b_hh = self.all_weights[0]
        weights: Any = [w_ih, functional.dropout(w_hh, self.weight_drop, self.training), b_ih, b_hh]
        output, h, c = fused(torch.lstm, input, state, weights, train=self.training)
        return output, (h, c)
