"""Penalties on the output of the top recurrent layer: AR and TAR (Merity et al. 2018, 4.6; arXiv 1708.01009)."""

from __future__ import annotations

from torch import Tensor


def activation_penalty(dropped: Tensor) -> Tensor:
    """Return AR without its factor alpha, mean((m h)^2), a scalar; it keeps activations small.

    Args:
        dropped: m h (T, B, H), the output after dropout, which the decoder reads.
    """
    return dropped.square().mean()


def temporal_penalty(hidden: Tensor) -> Tensor:
    """Return TAR without its factor beta, mean((h_{t+1} - h_t)^2), a scalar; it makes activations change slowly.

    Args:
        hidden: h (T, B, H), the output before dropout; for a single step (T = 1) the penalty is 0.
    """
    change = hidden[1:] - hidden[:-1]
    return change.square().sum() / max(1, change.numel())
