"""The end of a search: its finalists are trained to the end, and the best of each criterion is its winner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hyperpruning.search.actions import Action, Finish, Record, abort_without_candidate, dense_until, trainings, union
from hyperpruning.search.history import SMALL, History
from hyperpruning.search.plan import BEST, DENSE_LOSS, Plan, seed_names
from hyperpruning.search.scoring import split_by_score
from hyperpruning.search.stopping import choice_is_clear, stopped, target_reached


def finalists(plan: Plan, history: History, surviving: Mapping[str, Sequence[str]]) -> list[Action]:
    """Train the finalists to the end; each criterion's best finalist by validation loss is its winner.

    The dense network with as many weights is trained with them. With several seeds, losses are means over the seeds. A
    criterion that a stopping rule has stopped has one finalist left.
    """
    end, small = plan.train.epochs, [SMALL] if plan.as_many_weights else []
    left = {criterion: _left(history, criterion, names) for criterion, names in surviving.items()}
    if plan.target_loss is not None and (actions := _towards_target(plan, history, left)):
        return actions
    if actions := trainings(plan, history, [*union(left), *small], end, dense=dense_until(plan, None)):
        return actions
    if actions := _further_seeds(plan, history, left):
        return actions
    winners = {}
    for criterion, names in left.items():
        losses = {name: mean_loss(plan, history, name) for name in names if name in history.finals}
        if not losses:
            return [abort_without_candidate(history, criterion)]
        winners[criterion] = split_by_score(losses, 1)[0][0]
    return [] if winners.keys() <= history.winners.keys() else [Finish(winners)]


def _left(history: History, criterion: str, names: Sequence[str]) -> Sequence[str]:
    """The finalists of a criterion that are still trained."""
    found = stopped(history, criterion)
    return names if found is None else [found.network]


def _towards_target(plan: Plan, history: History, left: Mapping[str, Sequence[str]]) -> list[Action]:
    """Train the finalists epoch by epoch until one of each criterion has reached the target."""
    if plan.target_loss == DENSE_LOSS and (
        actions := trainings(plan, history, [], plan.train.epochs, dense=dense_until(plan, None))
    ):
        return actions
    for epoch in range(plan.rungs[-1], plan.train.epochs + 1):
        running = {criterion: names for criterion, names in left.items() if stopped(history, criterion) is None}
        if actions := trainings(plan, history, union(running), epoch):
            return actions
        found = [target_reached(plan, history, criterion, names, epoch) for criterion, names in running.items()]
        if any(found):
            return [Record(one) for one in found if one is not None]
    return []


def _further_seeds(plan: Plan, history: History, left: Mapping[str, Sequence[str]]) -> list[Action]:
    """Train the finalists with further seeds; with `clear_level` seed by seed, until the choice is clear."""
    ended = {
        criterion: [name for name in names if name in history.finals]
        for criterion, names in left.items()
        if stopped(history, criterion) is None
    }
    if plan.clear_level is None:
        again = [one for name in union(ended) for one in seed_names(plan, name)[1:]]
        return trainings(plan, history, again, plan.train.epochs)
    for seed in range(2, plan.finalist_seeds + 1):
        again = [seed_names(plan, name)[seed - 1] for name in union(ended)]
        if actions := trainings(plan, history, again, plan.train.epochs):
            return actions
        found = [choice_is_clear(plan, history, criterion, names, seed) for criterion, names in ended.items()]
        if seed < plan.finalist_seeds and any(found):
            return [Record(one) for one in found if one is not None]
    return []


def mean_loss(plan: Plan, history: History, name: str) -> float:
    """The mean validation loss of a finalist over the seeds that were trained; one that failed makes it infinite."""
    names = seed_names(plan, name)
    if any(one in history.failures for one in names):
        return math.inf
    losses = [history.finals[one].valid_loss for one in names if one in history.finals]
    return sum(losses) / len(losses)


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
