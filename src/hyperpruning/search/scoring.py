"""The scores of candidates at a rung, and what a criterion sees there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from hyperpruning.search.criteria import Rung, criterion_of
from hyperpruning.search.history import DENSE, History
from hyperpruning.search.memo import memo_of
from hyperpruning.search.pareto import split_by_fronts
from hyperpruning.search.plan import LOSS_ALONE, Plan
from hyperpruning.training.record import EpochRecord


def split_by_score(scores: Mapping[str, float], keep: int) -> tuple[list[str], list[str]]:
    """Split names by score: those kept and those dropped, each best first; equal scores are ordered by name."""
    order = sorted(scores, key=lambda name: (scores[name], name))
    return order[:keep], order[keep:]


def split_at(
    plan: Plan, history: History, scores: Mapping[str, float], epoch: int, keep: int
) -> tuple[list[str], list[str]]:
    """Split the candidates at a rung by the objectives of the plan: those kept and those dropped, each best first.

    Args:
        plan, history: of the search.
        scores: of the candidates that have reached the rung.
        epoch: of the rung.
        keep: number of candidates to keep.
    """
    if plan.objectives == LOSS_ALONE:
        return split_by_score(scores, keep)
    return split_by_fronts(scores, {name: cost_at(plan, history, name, epoch) for name in scores}, keep)


def cost_at(plan: Plan, history: History, name: str, epoch: int) -> float:
    """The cost of a candidate at a rung that is the second objective of the plan; smaller is better."""
    if plan.objectives[1] == "latency":
        return predicted_microseconds(plan, history, name, epoch)
    return float(getattr(history.epochs[name][epoch], plan.objectives[1]))


def predicted_microseconds(plan: Plan, history: History, name: str, epoch: int) -> float:
    """The microseconds that a step of a candidate is predicted to take, from the measured times of the plan."""
    assert plan.step_times is not None
    record = history.epochs[name][epoch]
    active = {tensor: counts[0] * fmean(record.density[tensor]) for tensor, counts in plan.step_times.weights.items()}
    return plan.step_times.predicted(active, history.candidates[name].method.granularity)


def scores_at(plan: Plan, history: History, criterion: str, names: Iterable[str], epoch: int) -> dict[str, float]:
    """Scores of the candidates that have reached an epoch."""
    return criterion_of(criterion)(rung(plan, history, names, epoch))


def rung(plan: Plan, history: History, names: Iterable[str], epoch: int) -> Rung:
    """The input of a criterion: some candidates at a rung, without those that have not reached it."""
    following = [name for name in followed(plan, history) if name not in history.failures]
    wanted, described = set(names), {*names, *following}
    known = history.at(epoch, described)
    return Rung(
        epoch=epoch,
        epochs=plan.train.epochs,
        records={name: history.epochs[name] for name in known if name in wanted},
        dense=reference(plan, history),
        configs={name: history.candidates[name].config for name in known},
        distance=memo_of(plan, history).distance,
        number=plan.rungs.index(epoch) if epoch in plan.rungs else len(plan.rungs),
        followed={name: history.epochs[name] for name in following if epoch in history.epochs.get(name, {})},
    )


def followed(plan: Plan, history: History) -> list[str]:
    """The candidates that are trained to the last rung before any decision, to calibrate criteria."""
    return list(history.candidates)[: plan.n_followed]


def reference(plan: Plan, history: History) -> Mapping[int, EpochRecord]:
    """The records of the dense reference by epoch; those of a frozen one are the same at every epoch."""
    records = history.epochs.get(DENSE, {})
    return dict.fromkeys(range(plan.train.epochs + 1), records[0]) if plan.dense is not None and records else records
