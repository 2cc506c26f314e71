"""How far the criteria of a search can be trusted: what their first scores foretold in this very run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from hyperpruning.report.components import criterion_name, join_names
from hyperpruning.report.nearest import nearest_sentence
from hyperpruning.report.run import Run
from hyperpruning.report.series import chance
from hyperpruning.search.ranking import spearman

ENOUGH, FEWEST = 8, 4  # candidates that must have trained on: better, and at least
DRAWS = 1000  # bootstrap samples of the candidates
ENDS = (0.025, 0.975)  # of a 95 % interval

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Trust:
    """What a criterion foretold.

    Attributes:
        criterion: its name.
        epoch: of the first rung, where it scored the candidates.
        later: epoch of the losses that it is compared with.
        rho: Spearman's correlation of the scores with these losses; None if all are equal.
        n: candidates that trained on so far, and are compared.
        draws: the correlations in bootstrap samples of the candidates, the same ones for all criteria, (DRAWS,); empty
            for fewer than `ENOUGH` candidates, which are too few for an interval.
    """

    criterion: str
    epoch: int
    later: int
    rho: float | None
    n: int
    draws: Vector = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


def trust(run: Run) -> list[Trust]:
    """What each criterion's scores at the first rung said about later losses; empty before four candidates trained on.

    The later epoch is the latest that eight candidates have reached, else the latest that four have. The losses are
    those of averaged weights where they are recorded, and at the end the validation losses of the finals.
    """
    if not run.history.rounds:
        return []
    first = min(number for _, number in run.history.rounds)
    decisions = [decision for (_, number), decision in run.history.rounds.items() if number == first]
    epoch = decisions[0].epoch
    losses = _losses(run, [name for name in decisions[0].scores if name not in run.history.failures])
    reached = {end: [name for name in losses if end in losses[name]] for end in range(epoch + 1, run.epochs + 1)}
    later = max((end for end, there in reached.items() if len(there) >= ENOUGH), default=None)
    later = later or max((end for end, there in reached.items() if len(there) >= FEWEST), default=None)
    if later is None:
        return []
    compared, found = reached[later], []
    late = [losses[name][later] for name in compared]
    for decision in decisions:
        early = [decision.scores[name] for name in compared]
        rho = spearman(early, late)
        draws = np.empty(0) if rho is None or len(late) < ENOUGH else _bootstrap(early, late)
        found.append(Trust(decision.criterion, epoch, later, rho, len(compared), draws))
    return found


def _bootstrap(early: Sequence[float], late: Sequence[float]) -> Vector:
    """Spearman's correlation in samples of the pairs with replacement, (DRAWS,); nan where a side is constant."""
    one, two, n = np.asarray(early), np.asarray(late), len(late)
    samples = np.random.default_rng(0).integers(n, size=(DRAWS, n))
    found = [spearman(one[sample].tolist(), two[sample].tolist()) for sample in samples]
    return np.array([np.nan if rho is None else rho for rho in found])


def _losses(run: Run, names: list[str]) -> dict[str, Mapping[int, float]]:
    found: dict[str, Mapping[int, float]] = {}
    for name in names:
        records = run.history.epochs.get(name, {})  # a damaged line of the ledger may have named them
        losses = {
            epoch: record.valid_loss if record.averaged_loss is None else record.averaged_loss
            for epoch, record in records.items()
        }
        if name in run.history.finals:
            losses[run.epochs] = run.history.finals[name].valid_loss
        found[name] = losses
    return found


def trust_said(run: Run) -> str:
    """The trust of a run in words, and what the nearest of our tables says; "" before four candidates trained on."""
    found = trust(run)
    return " ".join(said for said in (sentence(found), nearest_sentence(run, found[0].epoch)) if said) if found else ""


def sentence(found: list[Trust]) -> str:
    """The trust in words: intervals, the correlation that chance exceeds, and what differs; "" without any."""
    if not found:
        return ""
    one = found[0]
    intervals = ", 95 % intervals in brackets" if any(each.draws.size for each in found) else ""
    return (
        f"Trust: how the scores after epoch {one.epoch} agree with the losses after epoch {one.later} (Spearman, "
        f"{one.n} candidates that trained so far{intervals}): {join_names([_said(each) for each in found])}; unrelated "
        f"values exceed ±{min(chance(one.n), 1):.2f} in 1 case of 20.{_differences(found)}"
    )


def _said(one: Trust) -> str:
    rho = "undefined" if one.rho is None else f"{one.rho:+.2f}"
    interval = "({:+.2f} to {:+.2f})".format(*np.nanquantile(one.draws, ENDS)) if one.draws.size else ""
    return f"{criterion_name(one.criterion)} {rho} {interval}".strip()


def _differences(found: list[Trust]) -> str:
    """Which criterion agrees better than which, by more than chance; "" with fewer than two intervals."""
    pairs = list(combinations([each for each in found if each.draws.size], 2))
    better = []
    for one, other in pairs:
        low, high = np.nanquantile(one.draws - other.draws, ENDS)
        if low > 0 or high < 0:
            first, second = (one, other) if low > 0 else (other, one)
            better.append(f"{criterion_name(first.criterion)} better than {criterion_name(second.criterion)}")
    if better:
        return f" Shown by these candidates: {join_names(better)}."
    return " No criterion is shown to agree better than another." if pairs else ""
