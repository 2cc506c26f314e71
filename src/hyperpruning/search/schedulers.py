"""What a search does next: `decide`, a pure function of the plan and the history.

It does not train, and reads neither files nor the clock; what it remembers (search/memo.py) saves time and changes no
decision. The driver carries out its actions; status, report and dry
runs call it too, and tests call it on invented histories. It returns all actions that can be carried out now: the
driver may train several networks at the same time, and calls `decide` again when all actions are done.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import product

from hyperpruning.search.actions import (
    Abort,
    Action,
    Record,
    Suggest,
    abort_without_candidate,
    dense_until,
    trainings,
    union,
)
from hyperpruning.search.asha import is_asynchronous, next_action
from hyperpruning.search.brackets import Bracket
from hyperpruning.search.finalists import finalists
from hyperpruning.search.history import DENSE, History, RoundDecision
from hyperpruning.search.memo import memo_of
from hyperpruning.search.plan import LOSS_ALONE, Plan, names_of
from hyperpruning.search.samplers import Observation
from hyperpruning.search.scoring import cost_at, followed, scores_at, split_at


def decide(plan: Plan, history: History, running: Collection[str] = ()) -> list[Action]:
    """The next actions of a search.

    Args:
        plan: the search.
        history: the results so far; a training may be half done.
        running: networks that are being trained; only an asynchronous scheduler asks for more while there are some.

    Returns:
        actions of one kind: the missing actions of the first incomplete stage; empty when the search is finished. The
        order of the networks to train is the order in which their results are recorded.
    """
    if DENSE in history.failures:
        return [Abort(f"The dense reference must train without failure, got: {history.failures[DENSE]}")]
    if is_asynchronous(plan, history):
        return next_action(plan, history, running)
    if plan.scheduler == "asha":
        return finalists(plan, history, survivors(plan, history)) or _eliminated(plan, history)
    if actions := _sampling(plan, history):
        return actions
    if actions := trainings(plan, history, followed(plan, history), plan.rungs[-1]):
        return actions
    actions, surviving = _elimination(plan, history)
    return actions or finalists(plan, history, surviving) or _eliminated(plan, history)


def _sampling(plan: Plan, history: History) -> list[Action]:
    """Suggest candidates batch by batch, and train each batch to the first rung of its bracket."""
    memo = memo_of(plan, history)
    for batch in range(memo.complete, len(memo.batches)):
        names = memo.batches[batch]
        missing = tuple(name for name in names if name not in history.candidates)
        if missing and not history.space_exhausted:
            return [Suggest(batch, missing)]
        known = [name for name in names if name in history.candidates]
        until, dense = memo.first_rungs[names[0]], dense_until(plan, batch)
        if actions := trainings(plan, history, known, until, dense=dense):
            return actions
        memo.complete = batch + 1
    return []


def _elimination(plan: Plan, history: History) -> tuple[list[Action], dict[str, list[str]]]:
    """The rounds of all criteria: the missing actions, and the candidates that each criterion has kept."""
    kept: dict[str, list[str]] = {criterion: [] for criterion in plan.criteria}
    for bracket in plan.brackets():
        surviving = {c: [name for name in names_of(bracket) if name in history.candidates] for c in plan.criteria}
        if actions := _rounds(plan, history, bracket, surviving):
            return actions, kept
        for criterion, names in surviving.items():
            kept[criterion] += names
    return [], kept


def _rounds(plan: Plan, history: History, bracket: Bracket, surviving: dict[str, list[str]]) -> list[Action]:
    """The missing actions of a bracket; `surviving` loses the candidates that its rounds drop."""
    for number, (epoch, keep) in enumerate(zip(bracket.rungs, bracket.keep, strict=True), bracket.first_round):
        if actions := trainings(plan, history, union(surviving), epoch, dense=dense_until(plan, number + 1)):
            return actions
        decisions: list[Action] = []
        for criterion, names in surviving.items():
            decision = history.rounds.get((criterion, number))
            if decision is None and names:
                scores = scores_at(plan, history, criterion, names, epoch)
                if not scores and plan.scheduler != "hyperband":
                    return [*decisions, abort_without_candidate(history, criterion)]
                kept, dropped = split_at(plan, history, scores, epoch, keep)
                decision = RoundDecision(criterion, number, epoch, scores, tuple(kept), tuple(dropped))
                decisions.append(Record(decision))
            surviving[criterion] = [] if decision is None else list(decision.kept)
        if decisions:
            return decisions
    return []


def _eliminated(plan: Plan, history: History) -> list[Action]:
    """With `train_all`, train the eliminated candidates to the end too, to show what the search missed."""
    return trainings(plan, history, history.candidates, plan.train.epochs) if plan.train_all else []


def pruned_weights(plan: Plan, history: History) -> int:
    """The active weights of the finalists (the fewest, if they differ)."""
    finalists = union(survivors(plan, history))
    return min(history.epochs[name][history.trained(name)].active for name in finalists)


def observations(plan: Plan, history: History, batch: int) -> list[Observation]:
    """The observations of the sampler before a batch: the configs of earlier batches, with their scores.

    Returns:
        (config, score by the first criterion at the first rung) of each candidate, in the order of their names; the
        score of one that failed is infinite, and one that is still being trained (ASHA) is left out. Candidates of
        several brackets are compared at the first rung of all. With several objectives (score, cost) stands in place
        of the score.
    """
    names = [name for names in memo_of(plan, history).batches[:batch] for name in names if name in history.candidates]
    scores = scores_at(plan, history, plan.criteria[0], names, plan.rungs[0]) if names else {}
    if plan.scheduler == "asha":
        names = [name for name in names if name in scores or name in history.failures]
    if plan.objectives == LOSS_ALONE:
        return [(history.candidates[name].config, scores.get(name, math.inf)) for name in names]
    values = {name: (score, cost_at(plan, history, name, plan.rungs[0])) for name, score in scores.items()}
    return [(history.candidates[name].config, values.get(name, (math.inf, math.inf))) for name in names]


def survivors(plan: Plan, history: History) -> dict[str, list[str]]:
    """The candidates that each criterion has not eliminated yet."""
    surviving: dict[str, list[str]] = {criterion: [] for criterion in plan.criteria}
    for bracket, criterion in product(plan.brackets(), plan.criteria):
        numbers = range(bracket.first_round, bracket.first_round + len(bracket.rungs))
        rounds = [history.rounds[criterion, number] for number in numbers if (criterion, number) in history.rounds]
        begun = [name for name in names_of(bracket) if name in history.candidates]
        surviving[criterion] += rounds[-1].kept if rounds else begun
    return surviving
