"""Token numbers as batches for truncated back-propagation through time (BPTT)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor


def columns(tokens: Tensor, batch: int) -> Tensor:
    """Cut a text into `batch` columns of equal length, read side by side; the remainder is dropped.

    Args:
        tokens: (N,) token numbers.
        batch: number of columns.

    Returns:
        (N // batch, batch), time first.

    Raises:
        ValueError: the text is too short for two tokens a column.
    """
    length = len(tokens) // batch
    if length < 2:
        raise ValueError(
            f"A column needs two tokens or more, and {len(tokens)} tokens in {batch} columns have {length}: "
            "lower the batch size or give more text."
        )
    return tokens[: length * batch].view(batch, length).t().contiguous()


def windows(stream: Tensor, bptt: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Read columns in windows: what the network sees, and what it is to predict (the next token).

    Args:
        stream: (N, B) from `columns`.
        bptt: window length in tokens; the last window may be shorter.

    Yields:
        inputs (T, B) and targets (T, B), T <= bptt.
    """
    for start in range(0, len(stream) - 1, bptt):
        end = min(start + bptt, len(stream) - 1)
        yield stream[start:end], stream[start + 1 : end + 1]


def random_windows(
    stream: Tensor, bptt: int, *, generator: Generator, longest: int | None = None
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Read columns in windows of random length, so that they are not cut at the same places in every epoch.

    A length is max(5, int(N(base, 5^2))), where base is `bptt` with probability 0.95 and else half of it. A step on a
    window takes the learning rate times its drawn length / bptt, or words of short windows would count more (Merity et
    al. 2018, arXiv 1708.02182, section 4.1).

    Args:
        stream: (N, B) from `columns`.
        bptt: usual window length in tokens (70 in the published settings).
        generator: of the lengths, on the CPU.
        longest: bound on the length (bptt + 40 or + 20 in the published settings of mixtures of softmaxes).

    Yields:
        inputs (T, B), targets (T, B), and the factor on the learning rate. The last window may be cut by the end of the
        text; its factor is that of the length that was drawn.
    """
    start = 0
    while start < len(stream) - 1:
        base = bptt if float(torch.rand((), generator=generator)) < 0.95 else bptt / 2
        length = max(5, int(base + 5 * float(torch.randn((), generator=generator))))
        if longest is not None:
            length = min(length, longest)
        end = min(start + length, len(stream) - 1)
        yield stream[start:end], stream[start + 1 : end + 1], length / bptt
        start = end


def window_count(stream: Tensor, bptt: int) -> int:
    """How many windows `windows` yields."""
    return -(-(len(stream) - 1) // bptt)
