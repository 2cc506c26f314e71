"""What a search can do next: the actions of `decide`, and the trainings that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hyperpruning.search.history import DENSE, History, Promotion, RoundDecision, Stopped
from hyperpruning.search.plan import Plan


@dataclass(frozen=True)
class Suggest:
    """Ask the sampler for a batch of configs.

    Attributes:
        batch: its number, from 0.
        names: the candidates of the batch that have no config yet.
    """

    batch: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Train:
    """Train a network up to an epoch; a full training also gives a `FinalResult`."""

    network: str
    until: int


@dataclass(frozen=True)
class Record:
    """Record what was decided: a round, a promotion (ASHA), or the winner that a stopping rule chose."""

    fact: RoundDecision | Promotion | Stopped


@dataclass(frozen=True)
class Finish:
    """Record the winners: networks by criterion."""

    winners: Mapping[str, str]


@dataclass(frozen=True)
class Abort:
    """Stop the search without a result, for this reason."""

    reason: str


Action = Suggest | Train | Record | Finish | Abort


def trainings(
    plan: Plan, history: History, names: Iterable[str], until: int, *, dense: int | None = None
) -> list[Action]:
    """The incomplete trainings; the dense reference comes first, and may train for more epochs than the candidates."""
    targets = ({} if dense is None else {DENSE: dense}) | dict.fromkeys(names, until)
    return [
        Train(name, epoch)
        for name, epoch in targets.items()
        if name not in history.failures and not _is_trained(plan, history, name, epoch)
    ]


def _is_trained(plan: Plan, history: History, name: str, until: int) -> bool:
    to_the_end = until == plan.train.epochs or (name == DENSE and plan.dense is not None)
    return (name in history.finals or not to_the_end) and history.trained(name) >= until


def dense_until(plan: Plan, step: int | None) -> int:
    """The dense reference trains one rung ahead, so that the candidates do not wait for it; at last (None) to the end.

    A frozen one has one record, at epoch 0. With several brackets it trains to the last rung at once.
    """
    if plan.dense is not None:
        return 0
    if step is None or not plan.rungs:
        return plan.train.epochs
    return plan.rungs[-1 if plan.scheduler == "hyperband" else min(step, len(plan.rungs) - 1)]


def abort_without_candidate(history: History, criterion: str) -> Abort:
    """The end of a search in which all candidates that a criterion had kept have failed."""
    reasons = "; ".join(dict.fromkeys(history.failures.values()))
    return Abort(
        f"At least one candidate must train without failure, got failures of all that criterion {criterion!r} kept: "
        f"{reasons}. Lower the learning rate or keep more candidates."
    )


def union(surviving: Mapping[str, Sequence[str]]) -> list[str]:
    """All candidates that some criterion has kept, in the order of their names."""
    return sorted({name for names in surviving.values() for name in names})
