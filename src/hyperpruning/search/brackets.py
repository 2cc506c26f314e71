"""Schedulers: how many candidates begin, where they are compared, and how many are kept there.

A bracket is a set of candidates that are compared with each other at some rungs. The paper's rounds and successive
halving have one; Hyperband has several, which begin with more or fewer candidates and look later or earlier, because
nobody knows how early a look can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SCHEDULERS = ("rounds", "halving", "hyperband", "asha")


@dataclass(frozen=True)
class Bracket:
    """Candidates that are compared with each other.

    Attributes:
        first, count: its candidates are the `count` from the index `first` on, in the order of suggestion.
        rungs: epochs after which they are compared; without any, all are trained to the end.
        keep: candidates that each criterion keeps at each rung.
        first_round: number of its first round; rounds are counted through all brackets.
    """

    first: int
    count: int
    rungs: tuple[int, ...]
    keep: tuple[int, ...]
    first_round: int = 0


def halving_rungs(n_candidates: int, first: int, epochs: int, factor: int) -> Bracket:
    """Successive halving: after `first` epochs the best 1/factor are kept, after factor times as many again, ...

    The same as Optuna's SuccessiveHalvingPruner with min_resource = first and reduction_factor = factor, but
    synchronous: each rung waits for all candidates. At least one candidate is kept.

    >>> halving_rungs(27, 1, 30, 3)
    Bracket(first=0, count=27, rungs=(1, 3, 9), keep=(9, 3, 1), first_round=0)
    """
    rungs, keep, left = [], [], n_candidates
    epoch = first
    while epoch < epochs and left > 1:
        left = max(1, left // factor)
        rungs.append(epoch)
        keep.append(left)
        epoch = max(epoch * factor, epoch + 1)
    return Bracket(0, n_candidates, tuple(rungs), tuple(keep))


def hyperband_brackets(n_candidates: int, first: int, epochs: int, factor: int) -> tuple[Bracket, ...]:
    """Hyperband (Li et al. 2018, JMLR 18(185)): several brackets of successive halving, for a number of candidates.

    Bracket s = s_max, ..., 0 looks first after about epochs / factor**s epochs. Its share of the candidates is that of
    the paper, ceil((s_max + 1) / (s + 1) * factor**s), scaled so that there are `n_candidates` in all. A bracket that
    would have no candidate is left out; s_max is as large as `first` allows.

    >>> [(one.count, one.rungs, one.keep) for one in hyperband_brackets(17, 1, 9, 3)]
    [(9, (1, 3), (3, 1)), (5, (3,), (1,)), (3, (), ())]
    """
    depth = 0
    while first * factor ** (depth + 1) <= epochs:
        depth += 1
    shares = {s: math.ceil((depth + 1) / (s + 1) * factor**s) for s in range(depth, -1, -1)}
    found: list[Bracket] = []
    begun = rounds = 0
    given = 0
    for s, share in shares.items():
        given += share
        count = round(n_candidates * given / sum(shares.values())) - begun
        if count:
            one = halving_rungs(count, max(1, round(epochs / factor**s)), epochs, factor)
            found.append(Bracket(begun, count, one.rungs[:s], one.keep[:s], rounds))
            begun, rounds = begun + count, rounds + len(one.rungs[:s])
    return tuple(found)


def asha_bracket(n_candidates: int, first: int, epochs: int, factor: int) -> Bracket:
    """The rungs of successive halving, with the most candidates that ASHA can promote at each.

    From the moment at which `factor` candidates have reached a rung, each further one can be better than all before it,
    and is then promoted.

    >>> asha_bracket(27, 1, 30, 3)
    Bracket(first=0, count=27, rungs=(1, 3, 9), keep=(25, 23, 21), first_round=0)
    """
    rungs = halving_rungs(n_candidates, first, epochs, factor).rungs
    keep = [n_candidates]
    for _ in rungs:
        keep.append(max(1, keep[-1] - factor + 1))
    return Bracket(0, n_candidates, rungs, tuple(keep[1:]))


def brackets_of(
    scheduler: str,
    n_candidates: int,
    rungs: Sequence[int],
    keep: Sequence[int],
    *,
    first: int,
    factor: int,
    epochs: int,
) -> tuple[Bracket, ...]:
    """The brackets of a scheduler.

    Args:
        scheduler: one of `SCHEDULERS`.
        n_candidates: number of candidates.
        rungs, keep: of "rounds".
        first: epochs before the first rung of the others.
        factor: of the others: the best 1/factor are kept, and train factor times as long.
        epochs: length of a full training.
    """
    if scheduler == "rounds":
        return (Bracket(0, n_candidates, tuple(rungs), tuple(keep)),)
    if scheduler == "halving":
        return (halving_rungs(n_candidates, first, epochs, factor),)
    if scheduler == "asha":
        return (asha_bracket(n_candidates, first, epochs, factor),)
    return hyperband_brackets(n_candidates, first, epochs, factor)


def rungs_of(brackets: Sequence[Bracket]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """All epochs at which candidates are compared, and how many are left after each in all brackets."""
    rungs = sorted({epoch for one in brackets for epoch in one.rungs})
    return tuple(rungs), tuple(sum(_left(one, epoch) for one in brackets) for epoch in rungs)


def _left(bracket: Bracket, epoch: int) -> int:
    kept = [keep for rung, keep in zip(bracket.rungs, bracket.keep, strict=True) if rung <= epoch]
    return kept[-1] if kept else bracket.count


def most_epochs(brackets: Sequence[Bracket], epochs: int, criteria: int = 1, followed: int = 0) -> int:
    """The most epochs that the candidates train, if several criteria never agree and no candidate fails.

    Args:
        brackets: of the search.
        epochs: length of a full training.
        criteria: number of criteria.
        followed: the first candidates that are trained to the last rung in any case.
    """
    total, last = 0, rungs_of(brackets)[0][-1:]
    for one in brackets:
        before, left = (one.rungs[0] if one.rungs else epochs), one.count
        total += one.count * before
        for rung, keep in zip([*one.rungs[1:], epochs], one.keep, strict=False):
            left = min(left, criteria * keep)
            total += left * (rung - before)
            before = rung
        total += min(followed, one.count) * (last[0] - one.rungs[0]) if one.rungs and last and one.first == 0 else 0
    return total
