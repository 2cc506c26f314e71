"""Penalties on what the top recurrent layer returns (Merity et al. 2018, section 4.6; arXiv 1708.01009)."""

from __future__ import annotations

from torch import Tensor


def activation_penalty(dropped: Tensor) -> Tensor:
    """Return AR without its factor alpha, mean(m h ^ 2), a scalar: activations stay small.

    Args:
        dropped: m h (T, B, H), the output as the decoder reads it, after dropout.
    """
    return dropped.square().mean()


def temporal_penalty(hidden: Tensor) -> Tensor:
    """Return TAR without its factor beta, mean((h_{t+1} - h_t)^2), a scalar: activations change slowly.

    Args:
        hidden: h (T, B, H), the output before dropout; of a single step, which has no change, it is 0.
    """
    change = hidden[1:] - hidden[:-1]
    return change.square().sum() / max(1, change.numel())
