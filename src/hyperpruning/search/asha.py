"""ASHA, asynchronous successive halving (Li et al. 2020, MLSys, arXiv 1810.05934).

Successive halving waits at each rung for all candidates. Here a candidate is promoted, which means trained to the next
rung, as soon as it is among the best 1/reduction_factor of those that have reached its rung so far. No worker waits for
a slow network; in return some candidates are promoted early that would not have been among the best of all.

What is promoted depends on the order in which results arrive. Each promotion is a fact of the ledger before its
training begins, and `next_action` depends on the ledger and on what is being trained, so that the same ledger is
continued in the same way. With one worker the order, and so the ledger, is always the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hyperpruning.search.actions import (
    Action,
    Record,
    Suggest,
    abort_without_candidate,
    dense_until,
    trainings,
)
from hyperpruning.search.history import DENSE, History, Promotion, RoundDecision
from hyperpruning.search.memo import memo_of
from hyperpruning.search.plan import Plan
from hyperpruning.search.scoring import scores_at, split_by_score


def is_asynchronous(plan: Plan, history: History) -> bool:
    """Whether promotions are still made: they end with a `RoundDecision` of each criterion at each rung."""
    return plan.scheduler == "asha" and any((c, number) not in history.rounds for c, number in _rungs(plan))


def next_action(plan: Plan, history: History, running: Collection[str]) -> list[Action]:
    """The next action of ASHA: what a free worker does now.

    In this order: the dense reference; the rest of a batch that is half suggested; a promotion, at the highest rung
    first; the training of a promoted candidate; that of a new one to the first rung; a new batch. When nothing of this
    is left and no network is being trained, a rung without a promotion (because it has fewer than reduction_factor
    candidates) promotes its best candidate; at last the outcome of each rung is recorded.

    Args:
        plan: the search.
        history: the results so far.
        running: networks that are being trained.

    Returns:
        one action, or the decisions of all rungs; empty while there is nothing to do before a running network ends.
    """
    dense = trainings(plan, history, [], plan.train.epochs, dense=dense_until(plan, len(plan.rungs)))
    if dense and DENSE not in running:
        return dense
    suggestion = _suggestion(plan, history)
    if suggestion and dense and suggestion.batch:
        suggestion = None  # what the sampler learns from needs the dense reference
    if suggestion and memo_of(plan, history).batches[suggestion.batch][0] in history.candidates:
        return [suggestion]  # a batch that is half suggested
    if not dense and (promotion := next(_promotions(plan, history), None)):
        return [Record(promotion)]
    for name, until in _targets(plan, history):
        if name not in running and (actions := trainings(plan, history, [name], until)):
            return actions
    if suggestion:
        return [suggestion]
    return [] if running else _last_promotion(plan, history) or _decisions(plan, history)


def _rungs(plan: Plan) -> Iterator[tuple[str, int]]:
    """(criterion, number of the rung), the highest rung first."""
    return ((criterion, number) for number in reversed(range(len(plan.rungs))) for criterion in plan.criteria)


def _scores(plan: Plan, history: History, criterion: str, number: int) -> dict[str, float]:
    """The scores of the candidates that have reached a rung by the promotions of a criterion."""
    names = history.promotions.get((criterion, number - 1), ()) if number else tuple(history.candidates)
    epoch = plan.rungs[number]
    reached = [name for name in names if history.trained(name) >= epoch]
    known: tuple[int | str, ...] = (history.trained(DENSE), *reached)
    memo = memo_of(plan, history).scores
    if memo.get((criterion, number), ((), {}))[0] != known:
        memo[criterion, number] = known, scores_at(plan, history, criterion, reached, epoch) if reached else {}
    return memo[criterion, number][1]


def _promotions(plan: Plan, history: History) -> Iterator[Promotion]:
    """The promotions that can be made now, the highest rung first."""
    for criterion, number in _rungs(plan):
        promoted = history.promotions.get((criterion, number), ())
        if len(promoted) < plan.keep[number]:
            scores = _scores(plan, history, criterion, number)
            best, _ = split_by_score(scores, len(scores) // plan.reduction_factor)
            yield from (Promotion(criterion, number, name) for name in best if name not in promoted)


def _targets(plan: Plan, history: History) -> list[tuple[str, int]]:
    """To which epoch each candidate is trained; the furthest promoted first, then in the order of suggestion."""
    until = dict.fromkeys(history.candidates, plan.rungs[0])
    following = [*plan.rungs[1:], plan.train.epochs]
    for (_, number), names in history.promotions.items():
        until |= {name: max(until[name], following[number]) for name in names}
    return sorted(until.items(), key=lambda item: -item[1])


def _suggestion(plan: Plan, history: History) -> Suggest | None:
    """The next batch of candidates; None if there is none."""
    memo = memo_of(plan, history)
    while memo.complete < len(memo.batches) and not history.space_exhausted:
        missing = tuple(name for name in memo.batches[memo.complete] if name not in history.candidates)
        if missing:
            return Suggest(memo.complete, missing)
        memo.complete += 1
    return None


def _last_promotion(plan: Plan, history: History) -> list[Action]:
    """The best candidate of the lowest rung without a promotion that did not fail; nothing if each rung has one."""
    for criterion, number in reversed(list(_rungs(plan))):
        promoted = history.promotions.get((criterion, number), ())
        if all(name in history.failures for name in promoted):
            scores = _scores(plan, history, criterion, number)
            left = {name: score for name, score in scores.items() if name not in promoted}
            if not left or len(promoted) >= plan.keep[number]:
                return [abort_without_candidate(history, criterion)]
            return [Record(Promotion(criterion, number, split_by_score(left, 1)[0][0]))]
    return []


def _decisions(plan: Plan, history: History) -> list[Action]:
    """The outcome of each rung, for the report: those that were promoted are kept."""
    found: list[Action] = []
    for criterion, number in reversed(list(_rungs(plan))):
        if (criterion, number) not in history.rounds:
            scores, promoted = _scores(plan, history, criterion, number), history.promotions[criterion, number]
            order, _ = split_by_score(scores, len(scores))
            kept = tuple(name for name in order if name in promoted)
            dropped = tuple(name for name in order if name not in promoted)
            found.append(Record(RoundDecision(criterion, number, plan.rungs[number], scores, kept, dropped)))
    return found
