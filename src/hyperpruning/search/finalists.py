"""The end of a search: its finalists are trained to the end, and the best of each criterion is its winner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hyperpruning.search.actions import Action, Finish, abort_without_candidate, dense_until, trainings, union
from hyperpruning.search.history import SMALL, History
from hyperpruning.search.plan import BEST, Plan, seed_names
from hyperpruning.search.scoring import split_by_score


def finalists(plan: Plan, history: History, surviving: Mapping[str, Sequence[str]]) -> list[Action]:
    """Train the finalists to the end; each criterion's best finalist by validation loss is its winner.

    The dense network with as many weights is trained with them. With several seeds, losses are means over the seeds.
    """
    end, small = plan.train.epochs, [SMALL] if plan.as_many_weights else []
    if actions := trainings(plan, history, [*union(surviving), *small], end, dense=dense_until(plan, None)):
        return actions
    ended = [name for name in union(surviving) if name in history.finals]
    again = [name for one in ended for name in seed_names(plan, one)[1:]]
    if actions := trainings(plan, history, again, end):
        return actions
    winners = {}
    for criterion, names in surviving.items():
        losses = {name: mean_loss(plan, history, name) for name in names if name in history.finals}
        if not losses:
            return [abort_without_candidate(history, criterion)]
        winners[criterion] = split_by_score(losses, 1)[0][0]
    return [] if winners.keys() <= history.winners.keys() else [Finish(winners)]


def mean_loss(plan: Plan, history: History, name: str) -> float:
    """The mean validation loss of a finalist over its seeds; a seed that failed makes it infinite."""
    names = seed_names(plan, name)
    if any(one in history.failures for one in names):
        return math.inf
    return sum(history.finals[one].valid_loss for one in names) / len(names)


def winner(plan: Plan, history: History) -> str | None:
    """The network of ``winner.safetensors``; None before it is known.

    It is what the user chose after the search; else what the plan says: the winner by one criterion, or of the winners
    by all criteria the one with the lowest validation loss (equal losses are ordered by name).
    """
    if history.choice is not None:
        return history.choice.network
    if plan.winner != BEST:
        return history.winners.get(plan.winner)
    if not all(criterion in history.winners for criterion in plan.criteria):
        return None
    losses = {name: mean_loss(plan, history, name) for name in history.winners.values() if name in history.finals}
    return split_by_score(losses, 1)[0][0] if losses else None
