"""Exact choices: so many, and no other number. Every other file of this folder counts with these functions.

A choice among entries is a flat bool mask. Of equal scores the first entry is taken; what is drawn at random is drawn
without replacement.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

SMALL = 1 << 16  # entries up to which plain ways are quick enough
SAMPLE = 1 << 16  # scores that are looked at to find about where a cut lies
Name = TypeVar("Name", bound=Hashable)
CHUNK = 1 << 17  # entries worked on at a time: temporaries of this size stay in the cache


class LazyAbs:
    """The sizes of a flat tensor's entries, |x|, taken where they are read: a copy would cost more than the choice."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.values[index].abs()

    def part(self, span: slice) -> "LazyAbs":
        """Return those of a part."""
        return LazyAbs(self.values[span])


def apportion(
    total: int, shares: Mapping[Name, float], lower: Mapping[Name, int], upper: Mapping[Name, int]
) -> dict[Name, int]:
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


def largest(scores: Sequence[Tensor | LazyAbs], eligible: Sequence[Tensor], count: int) -> list[Tensor]:
    """Choose the `count` entries with the largest scores among the eligible ones of several tensors together.

    Args:
        scores: flat, floating point; no NaN.
        eligible: a flat bool tensor for each.
        count: at most as many as are eligible.

    Returns:
        a flat bool tensor for each.
    """
    if sum(map(len, scores)) > SMALL and (found := _bracketed(scores, eligible, count)) is not None:
        return found
    values = torch.cat([part[allowed] for part, allowed in zip(scores, eligible, strict=True)])
    chosen = torch.split(_head(values, count), [count_true(allowed) for allowed in eligible])
    return [within(allowed, part) for allowed, part in zip(eligible, chosen, strict=True)]


def largest_in_each_group(scores: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    """Choose, of every group of consecutive entries, its own number: those with the largest scores.

    Args:
        scores: (n,) floating point, n a multiple of the number of groups.
        eligible: (n,) bool.
        counts: (groups,) integer, at most as many as are eligible.

    Returns:
        bool (n,).
    """
    ranked = scores.masked_fill(~eligible, -torch.inf).view(len(counts), -1)
    place = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # (groups, of): rank of each entry
    return (place < counts[:, None]).view(-1)


def sample(eligible: Tensor, count: int, generator: Generator) -> Tensor:
    """Choose `count` of the eligible entries (n,) at random without replacement, every subset as likely.

    Beyond small sizes: a Bernoulli draw of a byte an entry, whose shortfall or surplus is then drawn away. Given its
    number, a Bernoulli subset is uniform, so the result is too; ten times faster than a permutation.
    """
    allowed = eligible.cpu()
    if len(allowed) <= SMALL:
        return _pick(allowed, count, generator).to(eligible.device)
    places = count_true(allowed)
    if not 0 < count < places:
        return eligible & (count > 0)
    chosen = torch.empty_like(allowed)
    for _, span in _spans([allowed]):
        draws = torch.empty(-(-(span.stop - span.start) // 8), dtype=torch.int64)
        draws.random_(-(2**63), None, generator=generator)
        torch.lt(draws.view(torch.uint8)[: span.stop - span.start], 256 * count // places, out=chosen[span])
    chosen &= allowed
    surplus = count_true(chosen) - count
    if surplus > 0:
        chosen ^= _pick(chosen, surplus, generator)
    elif surplus < 0:
        _pick(allowed, -surplus, generator, into=chosen)
    return chosen.to(eligible.device)


def count_true(mask: Tensor) -> int:
    """Count the true entries; 15 times faster than count_nonzero where they are many and lie on the CPU."""
    flat = mask.reshape(-1)
    lanes = len(flat) // (8 * 255)  # sums of 255 words of 8 bytes: no byte runs over into the next
    if lanes < 32 or mask.device.type != "cpu" or flat.storage_offset() % 8:
        return int(flat.count_nonzero())
    cut = lanes * 8 * 255
    sums = flat[:cut].view(torch.int64).view(lanes, 255).sum(dim=1)
    return int(sums.view(torch.uint8).sum()) + int(flat[cut:].count_nonzero())


def within(mask: Tensor, chosen: Tensor) -> Tensor:
    """Place a choice among the true entries of `mask` (any shape): `chosen` (mask.sum(),) -> bool of mask's shape."""
    return torch.zeros_like(mask).masked_scatter_(mask, chosen.to(mask.device))


def _head(scores: Tensor, count: int) -> Tensor:
    """Choose the `count` largest of (n,), of equal ones the first."""
    if not 0 < count < len(scores):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    threshold = scores.kthvalue(len(scores) - count + 1).values  # linear time, unlike a sort
    chosen = scores > threshold
    ties = (scores == threshold).nonzero().squeeze(1)
    chosen[ties[: count - int(chosen.count_nonzero())]] = True
    return chosen


def _pick(allowed: Tensor, count: int, generator: Generator, into: Tensor | None = None) -> Tensor:
    """Choose `count` true entries of (n,) at random, by a permutation, or, of many, by drawing until enough differ.

    With `into`, those that are not in it, and add them to it.
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
        # the distinct values are a uniform subset of their number, and so is a uniform part of them
        fresh = fresh[torch.randperm(len(fresh), generator=generator)[:count]]
        chosen[fresh] = True
        count -= len(fresh)
    return chosen


def _bracketed(scores: Sequence[Tensor | LazyAbs], eligible: Sequence[Tensor], count: int) -> list[Tensor] | None:
    """Select in one pass: a sample says between which two scores the cut lies, and only what lies there is ranked.

    Returns:
        None where the sample was wrong (its margins are five standard deviations wide).
    """
    stride = sum(map(len, scores)) // SAMPLE | 1
    seen = torch.cat([one[::stride][allowed[::stride]] for one, allowed in zip(scores, eligible, strict=True)])
    share = count / max(1, sum(count_true(allowed) for allowed in eligible))
    rank, margin = len(seen) * (1 - share), 5 * math.sqrt(len(seen) * share * (1 - share)) + 5
    first, last = math.floor(rank - margin), math.ceil(rank + margin)
    low = float(seen.kthvalue(first).values) if first >= 1 else -math.inf
    high = float(seen.kthvalue(last).values) if last <= len(seen) else math.inf

    chosen = [torch.empty_like(allowed) for allowed in eligible]
    places, values = [], []
    for part, span in _spans(scores):
        above, allowed = chosen[part][span], eligible[part][span]
        found = scores[part][span]
        torch.gt(found, high, out=above)
        above &= allowed
        inside = _where((found >= low).logical_and_(allowed).logical_xor_(above))
        places.append(inside + span.start)
        values.append(found[inside])
    missing, between = count - sum(map(count_true, chosen)), torch.cat(values)
    if not 0 <= missing <= len(between):
        return None
    taken = torch.split(_head(between, missing), [len(one) for one in values])
    for (part, _), where, those in zip(_spans(scores), places, taken, strict=True):
        chosen[part][where[those]] = True
    return chosen


def _where(mask: Tensor) -> Tensor:
    """Give the places of the true entries (n,); numpy finds few among many five times faster."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero().squeeze(1)


def positive(scores: Tensor | LazyAbs, eligible: Tensor) -> Tensor:
    """Tell which eligible entries (n,) have a score above zero."""
    found = torch.empty_like(eligible)
    for _, span in _spans([scores]):
        torch.gt(scores[span], 0, out=found[span])
    return found.logical_and_(eligible)


def _spans(tensors: Sequence[Tensor | LazyAbs]) -> Iterator[tuple[int, slice]]:
    """Give every chunk of several flat tensors: which tensor, and where."""
    for part, one in enumerate(tensors):
        for start in range(0, len(one), CHUNK):
            yield part, slice(start, min(start + CHUNK, len(one)))
