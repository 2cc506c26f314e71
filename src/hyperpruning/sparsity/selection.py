"""Exact selection: functions that choose exactly the given number of entries. All counts of this folder use them.

A selection is a flat bool mask. Of equal scores the first entry is chosen; random choices are without replacement.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

SMALL = 1 << 16  # up to this number of entries the simple algorithms are fast enough
SAMPLE = 1 << 16  # the number of scores that are sampled to estimate a threshold
Name = TypeVar("Name", bound=Hashable)
CHUNK = 1 << 17  # entries processed at a time: temporaries of this size stay in the cache


class LazyAbs:
    """The absolute values |x| of a flat tensor, computed on access: a copy would take longer than the choice."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.values[index].abs()

    def part(self, span: slice) -> "LazyAbs":
        """Return the absolute values of a slice."""
        return LazyAbs(self.values[span])


def apportion(
    total: int, shares: Mapping[Name, float], lower: Mapping[Name, int], upper: Mapping[Name, int]
) -> dict[Name, int]:
    """Split `total` into integers in proportion to `shares`, each within its own bounds.

    The real-valued quotas are clip(scale * share, lower, upper), with the `scale` for which their sum is `total`. They
    are rounded down, and the rest goes to the largest remainders, of equal ones to the first name.

    Args:
        total: the sum of the result.
        shares: not negative, in any unit. If all names with a share are at their upper bound, the rest is split in
            proportion to the room below the upper bounds.
        lower: the least count by name, with sum(lower) <= total.
        upper: the largest count by name, with total <= sum(upper).

    Returns:
        a count for each name, with sum(counts) == total.

    Raises:
        ValueError: `total` is not within the bounds, or a share is negative or not finite.

    >>> apportion(10, {"a": 5, "b": 3, "c": 1}, dict.fromkeys("abc", 0), {"a": 4, "b": 9, "c": 9})
    {'a': 4, 'b': 5, 'c': 1}
    """
    share, low, high = (np.array([float(of[name]) for name in shares]) for of in (shares, lower, upper))
    if not (low <= high).all() or not low.sum() <= total <= high.sum():
        raise ValueError(
            f"total must be within the sums of lower and upper, got total={total}, lower={dict(lower)}, "
            f"upper={dict(upper)}."
        )
    if not (np.isfinite(share).all() and (share >= 0).all()):
        raise ValueError(f"shares must be finite and not negative, got {dict(shares)}.")

    share = share / share.max(initial=1e-300)
    share[share < 1e-12] = 0.0  # tiny shares count as zero, so that the quotients below are finite
    some = share > 0
    # The sum of the quotas is a piecewise linear function of scale; its corners are where a quota reaches a bound.
    corners = np.unique(np.concatenate([[0.0], low[some] / share[some], high[some] / share[some]]))
    filled = [np.clip(corner * share, low, high).sum() for corner in corners]
    quota = np.clip(np.interp(total, filled, corners) * share, low, high)
    room, missing = high - quota, total - quota.sum()
    if missing > 0.5:  # all names with a share are at their upper bound
        quota = quota + missing * room / room.sum()

    count = np.floor(quota).astype(np.int64)
    remainder_order = np.argsort(count - quota, kind="stable")
    count[remainder_order[: total - int(count.sum())]] += 1
    return dict(zip(shares, count.tolist(), strict=True))


def largest(scores: Sequence[Tensor | LazyAbs], eligible: Sequence[Tensor], count: int) -> list[Tensor]:
    """Choose the `count` eligible entries with the largest scores among several tensors.

    Args:
        scores: flat, floating point; no NaN.
        eligible: a flat bool tensor for each of them.
        count: at most the number of eligible entries.

    Returns:
        a flat bool tensor for each of them.
    """
    if sum(map(len, scores)) > SMALL and (found := _largest_sampled(scores, eligible, count)) is not None:
        return found
    values = torch.cat([part[allowed] for part, allowed in zip(scores, eligible, strict=True)])
    chosen = torch.split(_top(values, count), [count_true(allowed) for allowed in eligible])
    return [scatter_mask(allowed, part) for allowed, part in zip(eligible, chosen, strict=True)]


def largest_in_each_group(scores: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    """Choose the entries with the largest scores in each group of consecutive entries.

    Args:
        scores: (n,) floating point, n a multiple of the number of groups.
        eligible: (n,) bool.
        counts: (groups,) integer: how many entries to choose in each group, at most the number of eligible ones.

    Returns:
        bool (n,).
    """
    ranked = scores.masked_fill(~eligible, -torch.inf).view(len(counts), -1)
    place = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # (groups, of): rank of each entry
    return (place < counts[:, None]).view(-1)


def sample(eligible: Tensor, count: int, generator: Generator) -> Tensor:
    """Choose `count` of the eligible entries (n,) uniformly at random without replacement.

    For many entries: draw each entry independently (one random byte per entry), then add or remove random entries until
    the count is exact. Given its size, a Bernoulli subset is uniform, and so is the result. This is ten times faster
    than a permutation.
    """
    allowed = eligible.cpu()
    if len(allowed) <= SMALL:
        return _sample_small(allowed, count, generator).to(eligible.device)
    places = count_true(allowed)
    if not 0 < count < places:
        return eligible & (count > 0)
    chosen = torch.empty_like(allowed)
    for _, span in _chunks([allowed]):
        draws = torch.empty(-(-(span.stop - span.start) // 8), dtype=torch.int64)
        draws.random_(-(2**63), None, generator=generator)
        torch.lt(draws.view(torch.uint8)[: span.stop - span.start], 256 * count // places, out=chosen[span])
    chosen &= allowed
    surplus = count_true(chosen) - count
    if surplus > 0:
        chosen ^= _sample_small(chosen, surplus, generator)
    elif surplus < 0:
        _sample_small(allowed, -surplus, generator, into=chosen)
    return chosen.to(eligible.device)


def count_true(mask: Tensor) -> int:
    """Count the True entries; for large masks on the CPU 15 times faster than count_nonzero."""
    flat = mask.reshape(-1)
    lanes = len(flat) // (8 * 255)  # sums of 255 words of 8 bytes: no byte overflows
    if lanes < 32 or mask.device.type != "cpu" or flat.storage_offset() % 8:
        return int(flat.count_nonzero())
    cut = lanes * 8 * 255
    sums = flat[:cut].view(torch.int64).view(lanes, 255).sum(dim=1)
    return int(sums.view(torch.uint8).sum()) + int(flat[cut:].count_nonzero())


def scatter_mask(mask: Tensor, chosen: Tensor) -> Tensor:
    """Write a selection of the True entries of `mask` back: bool (mask.sum(),) -> bool of mask's shape."""
    return torch.zeros_like(mask).masked_scatter_(mask, chosen.to(mask.device))


def _top(scores: Tensor, count: int) -> Tensor:
    """Choose the `count` largest entries of (n,), of equal ones the first."""
    if not 0 < count < len(scores):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    threshold = scores.kthvalue(len(scores) - count + 1).values  # linear time, unlike a sort
    chosen = scores > threshold
    ties = (scores == threshold).nonzero().squeeze(1)
    chosen[ties[: count - int(chosen.count_nonzero())]] = True
    return chosen


def _sample_small(allowed: Tensor, count: int, generator: Generator, into: Tensor | None = None) -> Tensor:
    """Choose `count` True entries of (n,) at random: by a permutation, or for many entries by repeated drawing.

    With `into`, choose among the entries that are False in it, and set them to True.
    """
    chosen = torch.zeros_like(allowed) if into is None else into
    if len(allowed) <= SMALL:
        places = (allowed & ~chosen).nonzero().squeeze(1)
        chosen[places[torch.randperm(len(places), generator=generator)[:count]]] = True
        return chosen
    share = max(count_true(allowed) - count_true(chosen), 1) / len(allowed)
    while count > 0:
        drawn = torch.randint(len(allowed), (int(1.1 * count / share) + 64,), generator=generator)
        fresh = torch.unique(drawn[allowed[drawn] & ~chosen[drawn]])
        # distinct values are a uniform subset of their size, and so is a random part of them
        fresh = fresh[torch.randperm(len(fresh), generator=generator)[:count]]
        chosen[fresh] = True
        count -= len(fresh)
    return chosen


def _largest_sampled(scores: Sequence[Tensor | LazyAbs], eligible: Sequence[Tensor], count: int) -> list[Tensor] | None:
    """Choose the largest entries in one pass: a sample gives two bounds on the threshold; rank only between them.

    Returns:
        None if the threshold is not within the bounds (they are five standard deviations apart).
    """
    stride = sum(map(len, scores)) // SAMPLE | 1
    sampled = torch.cat([one[::stride][allowed[::stride]] for one, allowed in zip(scores, eligible, strict=True)])
    share = count / max(1, sum(count_true(allowed) for allowed in eligible))
    rank, margin = len(sampled) * (1 - share), 5 * math.sqrt(len(sampled) * share * (1 - share)) + 5
    first, last = math.floor(rank - margin), math.ceil(rank + margin)
    low = float(sampled.kthvalue(first).values) if first >= 1 else -math.inf
    high = float(sampled.kthvalue(last).values) if last <= len(sampled) else math.inf

    chosen = [torch.empty_like(allowed) for allowed in eligible]
    places, values = [], []
    for part, span in _chunks(scores):
        above, allowed = chosen[part][span], eligible[part][span]
        found = scores[part][span]
        torch.gt(found, high, out=above)
        above &= allowed
        inside = _true_indices((found >= low).logical_and_(allowed).logical_xor_(above))
        places.append(inside + span.start)
        values.append(found[inside])
    missing, between = count - sum(map(count_true, chosen)), torch.cat(values)
    if not 0 <= missing <= len(between):
        return None
    taken = torch.split(_top(between, missing), [len(one) for one in values])
    for (part, _), where, those in zip(_chunks(scores), places, taken, strict=True):
        chosen[part][where[those]] = True
    return chosen


def _true_indices(mask: Tensor) -> Tensor:
    """Return the indices of the True entries (n,); numpy is five times faster if they are few."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero().squeeze(1)


def positive(scores: Tensor | LazyAbs, eligible: Tensor) -> Tensor:
    """Return which eligible entries (n,) have a score above zero."""
    found = torch.empty_like(eligible)
    for _, span in _chunks([scores]):
        torch.gt(scores[span], 0, out=found[span])
    return found.logical_and_(eligible)


def _chunks(tensors: Sequence[Tensor | LazyAbs]) -> Iterator[tuple[int, slice]]:
    """Yield the chunks of several flat tensors: the index of the tensor, and the slice."""
    for part, one in enumerate(tensors):
        for start in range(0, len(one), CHUNK):
            yield part, slice(start, min(start + CHUNK, len(one)))
