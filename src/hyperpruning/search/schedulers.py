"""Rounds of elimination: after which epochs the judges look, how many go on, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise


def decide(scores: Mapping[str, float], keep: int) -> tuple[list[str], list[str]]:
    """Who goes on and who does not.

    Args:
        scores: by name, smaller is better; equal scores are ordered by name.
        keep: how many go on.

    Returns:
        the names kept and those dropped, best first.
    """
    order = sorted(scores, key=lambda name: (scores[name], name))
    return order[:keep], order[keep:]


def check_rounds(*, pool: int, rungs: Sequence[int], keep: Sequence[int], epochs: int) -> None:
    """Refuse rounds that cannot be held.

    Args:
        pool: candidates at the beginning.
        rungs: epochs after which the judges look.
        keep: how many go on after each.
        epochs: length of a full training.

    Raises:
        ValueError: they eliminate everybody or nobody, or come after the end.
    """
    if pool < 2:
        raise ValueError(f"A search compares at least two candidates, and pool is {pool}: set pool >= 2.")
    if not rungs or len(rungs) != len(keep):
        raise ValueError(
            f"Every round has an epoch and a number to keep, and rungs has {len(rungs)} entries and keep {len(keep)}: "
            "give one of each a round."
        )
    if list(rungs) != sorted(set(rungs)) or rungs[0] < 0 or rungs[-1] >= epochs:
        raise ValueError(
            f"Rounds come in growing epochs before the last one, {epochs}, and rungs is {list(rungs)}: "
            "change rungs or epochs."
        )
    if keep[-1] < 1:
        raise ValueError(
            f"Somebody must be left, and keep = {list(keep)} eliminates everybody: end with 1 or more finalists."
        )
    sizes = [pool, *keep]
    if any(after >= before for before, after in pairwise(sizes)):
        raise ValueError(
            f"Every round eliminates somebody, and of {pool} candidates keep = {list(keep)}: let it decrease."
        )


def most(*, pool: int, rungs: Sequence[int], keep: Sequence[int], epochs: int, judges: int) -> int:
    """Epochs of several judges' searches together, if they never agree: what two of them need is trained once."""
    return cost(pool=pool, rungs=rungs, keep=[min(pool, judges * count) for count in keep], epochs=epochs)


def cost(*, pool: int, rungs: Sequence[int], keep: Sequence[int], epochs: int) -> int:
    """Epochs that one judge's search trains: everybody continues from a checkpoint, nobody is trained twice."""
    sizes, ends = [pool, *keep], [0, *rungs, epochs]
    return sum(size * (end - start) for size, (start, end) in zip(sizes, pairwise(ends), strict=True))
