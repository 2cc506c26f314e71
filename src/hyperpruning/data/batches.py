"""Token ids as batches for truncated back-propagation through time (BPTT)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor


def batchify(tokens: Tensor, batch: int) -> Tensor:
    """Cut a text into `batch` contiguous columns of equal length; drop the remainder (as in awd-lstm-lm).

    Args:
        tokens: (N,) token ids.
        batch: number of columns, which are read in parallel.

    Returns:
        (N // batch, batch), time first.

    Raises:
        ValueError: the text has fewer than two tokens per column.
    """
    length = batched_length(len(tokens), batch)
    return tokens[: length * batch].view(batch, length).t().contiguous()


def batched_length(tokens: int, batch: int) -> int:
    """Return the number of tokens per column, N // batch, that `batchify` gives for a text of `tokens` tokens.

    Raises:
        ValueError: fewer than two tokens per column.
    """
    length = tokens // batch
    if length < 2:
        raise ValueError(
            f"Each column of a batch must have at least two tokens, got {tokens} tokens for {batch} columns. "
            "Lower the batch size or give more text."
        )
    return length


def bptt_windows(stream: Tensor, bptt: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the columns in consecutive windows: the inputs and the targets (the next token of each input).

    Args:
        stream: (N, B) from `batchify`.
        bptt: window length in tokens; the last window may be shorter.

    Yields:
        inputs (T, B) and targets (T, B), T <= bptt.
    """
    for start in range(0, len(stream) - 1, bptt):
        end = min(start + bptt, len(stream) - 1)
        yield stream[start:end], stream[start + 1 : end + 1]


def random_bptt_lengths(
    tokens: int, bptt: int, *, generator: Generator, std: float = 5.0, max_length: int = 0
) -> Tensor:
    """Draw random window lengths, so that each epoch cuts the text at other places.

    A length is max(5, int(N(base, std^2))). The base is `bptt` with probability 0.95 and bptt / 2 otherwise. The
    learning rate of a window is multiplied by length / bptt; without this factor, words in short windows would have a
    larger weight (Merity et al. 2018, arXiv 1708.02182, section 4.1).

    Args:
        tokens: number of tokens to predict per column; the lengths add up to at least this number.
        bptt: usual length (70 in the published settings).
        generator: on the CPU.
        std: standard deviation in tokens (5 in the published settings).
        max_length: upper bound (bptt + 40 or + 20 in the published settings of mixtures of softmaxes); 0: no bound.

    Returns:
        (n,) int64.
    """
    enough = tokens // 5 + 1
    base = torch.where(torch.rand(enough, generator=generator) < 0.95, float(bptt), bptt / 2)
    drawn = (base + std * torch.randn(enough, generator=generator)).long().clamp(min=5, max=max_length or None)
    return drawn[: int(torch.searchsorted(drawn.cumsum(0), tokens)) + 1]


def random_bptt_windows(stream: Tensor, bptt: int, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield the columns in consecutive windows of the given lengths.

    Args:
        stream: (N, B) from `batchify`.
        bptt: usual window length in tokens.
        lengths: from `random_bptt_lengths` for N - 1 tokens.

    Yields:
        inputs (T, B), targets (T, B), and the factor on the learning rate. The end of the text may cut the last window;
        its factor still uses the length that was drawn.
    """
    start = 0
    for length in lengths.tolist():
        end = min(start + length, len(stream) - 1)
        yield stream[start:end], stream[start + 1 : end + 1], length / bptt
        start = end
