"""A decoder where a network is evaluated: over a text, or over sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.deploy.decoder import Decoder

STEPS = 64  # whose logits are kept until their loss is computed


def text_loss(decoder: Decoder, columns: Tensor) -> float:
    """Mean cross-entropy in nats of a language model over parallel streams, from a state of zeros.

    Args:
        decoder: of a language model.
        columns: tokens (N, B); all but the first of each stream are predicted.
    """
    decoder.reset(columns.shape[1])
    total = 0.0
    for start in range(0, len(columns) - 1, STEPS):
        targets = columns[start + 1 : start + STEPS + 1]
        logits = torch.stack([decoder.step(tokens) for tokens in columns[start : start + len(targets)]])
        total += float(functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").double())
    return total / columns[1:].numel()


class SequenceDecoder(nn.Module):
    """A decoder of a classifier or forecaster with the forward pass of its network.

    Args:
        decoder: of a `SequenceClassifier` or `Forecaster`.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.place = nn.Parameter(torch.zeros(0))  # says that the network is on the CPU

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The answers (B, ...) for sequences (B, T, I) with lengths (B,), default T."""
        self.decoder.reset(len(inputs))
        steps = inputs.float().unbind(1)
        answer = self.decoder.step(steps[0])
        for number, step in enumerate(steps[1:], 2):
            now = self.decoder.step(step)
            answer = (
                now
                if lengths is None
                else torch.where((lengths >= number).view(-1, *[1] * (now.ndim - 1)), now, answer)
            )
        return answer
