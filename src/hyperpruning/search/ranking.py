"""Ranks and rank correlation, for criteria and reports alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


def ranks(values: Sequence[float]) -> Vector:
    """Ranks from 1, (N,); equal values share their mean rank.

    >>> ranks([3.0, 1.0, 3.0]).tolist()
    [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    found: Vector = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # the mean rank of each group of ties
    return found


def spearman(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None for fewer than 4 pairs or a constant side.

    >>> spearman([1, 2, 3, 4], [10, 20, 30, 25])
    0.8
    """
    if len(one) < 4:
        return None
    a, b = (found - found.mean() for found in map(ranks, (one, two)))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / norm, 12) if norm > 0 else None
