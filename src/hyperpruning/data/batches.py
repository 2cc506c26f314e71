"""Token numbers as batches for truncated back-propagation through time (BPTT)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor


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


def window_count(stream: Tensor, bptt: int) -> int:
    """How many windows `windows` yields."""
    return -(-(len(stream) - 1) // bptt)
