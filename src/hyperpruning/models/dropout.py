"""Dropouts of recurrent language models: locked (variational) dropout, embedding dropout, weight drop.

Every mask is drawn from torch's global generator, which the training seeds for each epoch. Kept entries are scaled by
1 / (1 - p), so that the mean does not change. In evaluation mode nothing is dropped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.kernels import run_fused_rnn


def locked_dropout(values: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Drop the same units at every time step (variational dropout; Gal & Ghahramani 2016, arXiv 1512.05287).

    Called LockedDropout in awd-lstm-lm.

    Args:
        values: (T, B, H).
        p: probability that a unit is dropped.
        training: False returns the values unchanged.

    Returns:
        values * mask / (1 - p), with one mask (1, B, H) for all steps.
    """
    if not training or not p:
        return values
    return values * functional.dropout(torch.ones_like(values[:1]), p)


class LockedDropout(nn.Dropout):
    """`locked_dropout` as a module; p is the probability that a unit is dropped."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the values (T, B, H) with the same units dropped at every step."""
        return locked_dropout(input, self.p, self.training)


class WordDropEmbedding(nn.Embedding):
    """An embedding with dropout of whole words (Merity et al. 2018, section 4.3; dropoute in awd-lstm-lm).

    A dropped word is zero at all its occurrences in a batch, in all E entries.

    Args:
        vocabulary: number of tokens V.
        size: width E of the embedding.
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
        return super().forward(input) * functional.embedding(input, words)  # avoids a copy of the (V, E) matrix


class WeightDropLSTM(nn.LSTM):
    """One LSTM layer with DropConnect on W_hh (Merity et al. 2018, section 2; wdrop in awd-lstm-lm).

    One mask holds for all steps of a batch. The parameter keeps all its weights, and masks, optimizers and the Lyapunov
    spectrum see these; in training mode the forward pass uses a copy with dropped weights.

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
        output, h, c = run_fused_rnn(torch.lstm, input, state, weights, train=self.training)
        return output, (h, c)
