"""A recurrent language model: embedding, stacked recurrent layers, softmax over the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# The fused layers of torch, and how many gates stand stacked in the rows of their weights.
CELLS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
GATES: dict[str, int] = {"lstm": 4, "gru": 3, "rnn": 1}


class LanguageModel(nn.Module):
    """Predicts the next token; dropout on the embedding, between the layers and on the output (Zaremba et al. 2014).

    Args:
        vocabulary: number of tokens V.
        cell: a key of `CELLS`.
        embedding: size E of the embedding.
        hidden: units H of each layer.
        layers: number of recurrent layers.
        dropout: probability, at the three places above.
        tied: the decoder's weight is the embedding's (needs E == H).
        embedding_std: the embedding starts as N(0, embedding_std^2); 1 suits characters, 0.06 words (U(-0.1, 0.1)).
        seed: of the initial weights; the global generator is left as it was.

    Raises:
        ValueError: tied weights of unequal sizes.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        cell: str = "lstm",
        embedding: int = 64,
        hidden: int = 64,
        layers: int = 2,
        dropout: float = 0.0,
        tied: bool = False,
        embedding_std: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if tied and embedding != hidden:
            raise ValueError(
                f"Tied weights need an embedding as wide as the last layer, and {embedding} is not {hidden}: "
                "make them equal or set tied = false."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cell = cell
            self.encoder = nn.Embedding(vocabulary, embedding)
            nn.init.normal_(self.encoder.weight, std=embedding_std)
            self.rnn = CELLS[cell](embedding, hidden, layers, dropout=dropout if layers > 1 else 0.0)
            self.decoder = nn.Linear(hidden, vocabulary)
            nn.init.zeros_(self.decoder.bias)
        self.dropout = nn.Dropout(dropout)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits of the next token.

        Args:
            tokens: (T, B) token numbers.
            state: what the recurrent layer returned before, or None to start at zero.

        Returns:
            logits (T, B, V), and the state after the last token.
        """
        embedded = self.dropout(self.encoder(tokens))  # (T, B, E)
        hidden, state = self.rnn(embedded, state)  # (T, B, H)
        return self.decoder(self.dropout(hidden)), state

    @property
    def row_groups(self) -> dict[str, int]:
        """Gates stacked in the rows of each recurrent weight, by parameter name."""
        return {f"rnn.{name}": GATES[self.cell] for name, _ in self.rnn.named_parameters() if name.startswith("weight")}


def detached(state: Any) -> Any:
    """The same state, cut from the graph: truncated BPTT carries values, not gradients."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
