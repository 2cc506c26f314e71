"""Exact choices: so many, and no other number. Every other file of this folder counts with these four functions."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Generator, Tensor


def apportion(
    total: int, shares: Mapping[str, float], lower: Mapping[str, int], upper: Mapping[str, int]
) -> dict[str, int]:
    """Split `total` in whole numbers proportional to `shares`, each within its own bounds.

    The real-valued quotas are clip(scale * share, lower, upper), with the one `scale` for which they add up to
    `total`; what their whole parts leave goes to the largest remainders, of equal ones to the first name.

    Args:
        total: how many to give out.
        shares: non-negative weights, in any unit; where all that have a share are full, free room is the share.
        lower, upper: least and most for each name, with sum(lower) <= total <= sum(upper).

    Returns:
        a count for each name, with sum(counts) == total.

    Raises:
        ValueError: the bounds cannot hold `total`, or a share is negative or not finite.

    >>> apportion(10, {"a": 5, "b": 3, "c": 1}, dict.fromkeys("abc", 0), {"a": 4, "b": 9, "c": 9})
    {'a': 4, 'b': 5, 'c': 1}
    """
    share, low, high = (np.array([float(of[name]) for name in shares]) for of in (shares, lower, upper))
    if not (low <= high).all() or not low.sum() <= total <= high.sum():
        raise ValueError(f"bounds must hold the total: {total} is to be split between {dict(lower)} and {dict(upper)}")
    if not (np.isfinite(share).all() and (share >= 0).all()):
        raise ValueError(f"shares must be finite and non-negative, not {dict(shares)}")

    share = share / share.max(initial=1e-300)
    share[share < 1e-12] = 0.0  # next to nothing is nothing: keeps the quotients below finite
    some = share > 0
    # The filled total as a function of scale is piecewise linear; its corners are where a bound begins or ends to bind.
    corners = np.unique(np.concatenate([[0.0], low[some] / share[some], high[some] / share[some]]))
    filled = [np.clip(corner * share, low, high).sum() for corner in corners]
    quota = np.clip(np.interp(total, filled, corners) * share, low, high)
    room, missing = high - quota, total - quota.sum()
    if missing > 0.5:  # everybody with a share is full
        quota = quota + missing * room / room.sum()

    count = np.floor(quota).astype(np.int64)
    remainder_order = np.argsort(count - quota, kind="stable")
    count[remainder_order[: total - int(count.sum())]] += 1
    return dict(zip(shares, count.tolist(), strict=True))


def largest(scores: Tensor, count: int) -> Tensor:
    """Choose the `count` largest of `scores` (n,); of equal ones, the first. Returns bool (n,)."""
    if not 0 < count < len(scores):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    threshold = scores.kthvalue(len(scores) - count + 1).values  # linear time, unlike a sort
    chosen = scores > threshold
    ties = (scores == threshold).nonzero().squeeze(1)
    chosen[ties[: count - int(chosen.count_nonzero())]] = True
    return chosen


def sample(size: int, count: int, generator: Generator) -> Tensor:
    """Choose `count` of `size` at random without replacement, every subset as likely. Returns bool (size,) on the CPU.

    Beyond small sizes: a Bernoulli draw, whose surplus or shortfall (of order sqrt(size)) is then sampled away. Given
    its number, a Bernoulli subset is uniform, so the result is too; five times faster than a permutation.
    """
    if size <= 1024:
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[torch.randperm(size, generator=generator)[:count]] = True
        return chosen
    chosen = torch.rand(size, generator=generator) < count / size
    surplus = int(chosen.count_nonzero()) - count
    if surplus:
        pool = (chosen if surplus > 0 else ~chosen).nonzero().squeeze(1)
        chosen[pool[sample(len(pool), abs(surplus), generator)]] = surplus < 0
    return chosen


def within(mask: Tensor, chosen: Tensor) -> Tensor:
    """Place a choice among the true entries of `mask` (any shape): `chosen` (mask.sum(),) -> bool of mask's shape."""
    return torch.zeros_like(mask).masked_scatter_(mask, chosen.to(mask.device))
