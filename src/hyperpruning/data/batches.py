"""Token numbers as batches for truncated back-propagation through time (BPTT)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor


def batchify(tokens: Tensor, batch: int) -> Tensor:
    """Cut a text into `batch` columns of equal length, read side by side; the remainder is dropped.

    Args:
        tokens: (N,) token numbers.
        batch: number of columns.

    Returns:
        (N // batch, batch), time first.

    Raises:
        ValueError: the text is too short for two tokens a column.
    """
    length = batched_length(len(tokens), batch)
    return tokens[: length * batch].view(batch, length).t().contiguous()


def batched_length(tokens: int, batch: int) -> int:
    """Tokens in each of `batch` columns of a text.

    Raises:
        ValueError: fewer than two.
    """
    length = tokens // batch
    if length < 2:
        raise ValueError(
            f"A column needs two tokens or more, and {tokens} tokens in {batch} columns have {length}: "
            "lower the batch size or give more text."
        )
    return length


def bptt_windows(stream: Tensor, bptt: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Read columns in windows: what the network sees, and what it is to predict (the next token).

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
    """Draw lengths of windows, so that a text is not cut at the same places in every epoch.

    A length is max(5, int(N(base, deviation^2))), where base is `bptt` with probability 0.95 and else half of it. A
    step on a window takes the learning rate times its length / bptt, or words of short windows would count more
    (Merity et al. 2018, arXiv 1708.02182, section 4.1).

    Args:
        tokens: to be predicted in each column; the lengths drawn add up to this or, by the last one, to more.
        bptt: usual length (70 in the published settings).
        generator: on the CPU.
        std: standard deviation, in tokens (5 in the published settings).
        max_length: bound on a length (bptt + 40 or + 20 in the published settings of mixtures of softmaxes); 0: none.

    Returns:
        (n,) int64.
    """
    enough = tokens // 5 + 1
    base = torch.where(torch.rand(enough, generator=generator) < 0.95, float(bptt), bptt / 2)
    drawn = (base + std * torch.randn(enough, generator=generator)).long().clamp(min=5, max=max_length or None)
    return drawn[: int(torch.searchsorted(drawn.cumsum(0), tokens)) + 1]


def random_bptt_windows(stream: Tensor, bptt: int, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Read columns in windows of given lengths.

    Args:
        stream: (N, B) from `batchify`.
        bptt: usual window length in tokens.
        lengths: of `random_bptt_lengths`, for N - 1 tokens.

    Yields:
        inputs (T, B), targets (T, B), and the factor on the learning rate. The last window may be cut by the end of the
        text; its factor is that of the length that was drawn.
    """
    start = 0
    for length in lengths.tolist():
        end = min(start + length, len(stream) - 1)
        yield stream[start:end], stream[start + 1 : end + 1], length / bptt
        start = end
