"""Searches replayed on a table: the real `decide` over recorded curves, in milliseconds, with a known regret."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hyperpruning.search.actions import Abort, Finish, Record, Suggest, Train
from hyperpruning.search.history import DENSE, Candidate, Epoch, Fact, Failure, FinalResult, History, Winner
from hyperpruning.search.plan import LOSS_ALONE, Plan
from hyperpruning.search.schedulers import decide
from hyperpruning.search.tables import Table


@dataclass(frozen=True)
class Replayed:
    """The outcome of a replayed search.

    Attributes:
        chosen: row of the winner by each criterion.
        regret: of the winner by each criterion: (its final loss - the best) / (the median of those that ended - the
            best), by validation loss, means over seeds.
        epochs: trained by the candidates, all criteria together; with one criterion, the cost of the search.
    """

    chosen: Mapping[str, int]
    regret: Mapping[str, float]
    epochs: int


def replay(table: Table, *, seed: int = 0, n_candidates: int | None = None, **settings: Any) -> Replayed:
    """Run a search on the recorded curves of a table.

    Args:
        table: the pool.
        seed: of the order in which candidates are suggested; with fewer than the pool has, a random part of it.
        n_candidates: in this search; None: all. Regret is measured within them.
        settings: of `Plan`: criteria, scheduler, rungs, keep, min_epochs, reduction_factor, target_loss,
            n_followed, distance, objectives.

    Raises:
        ValueError: the settings are invalid, or no candidate is left.
    """
    count = len(table.configs) if n_candidates is None else n_candidates
    order = pool_of(table, seed, count)
    changed: dict[str, Any] = {
        "as_many_weights": False,
        "train_all": False,
        "winner": "best",
        "max_epochs": None,
        "objectives": LOSS_ALONE,  # regret is in loss
    } | settings
    plan = replace(table.plan, n_candidates=count, ask_batch=count, **changed)
    history = History()
    while actions := decide(plan, history):
        for action in actions:
            if isinstance(action, Abort):
                raise ValueError(action.reason)
            for fact in _facts(table, order, plan, history, action):
                history.add(fact)
    chosen = {criterion: order[int(name[1:]) - 1] for criterion, name in history.winners.items()}
    regret = {criterion: regret_of(table, order, row) for criterion, row in chosen.items()}
    return Replayed(chosen, regret, history.trained_epochs(dense=False))


def pool_of(table: Table, seed: int, count: int) -> list[int]:
    """The rows of a replayed search, in the order in which they are suggested."""
    return random.Random(seed).sample(range(len(table.configs)), count)


def regret_of(table: Table, pool: Sequence[int], row: int) -> float:
    """The regret of choosing a row from a pool of rows, see `Replayed`.

    Raises:
        ValueError: the pool's best final loss is its median.
    """
    finals = table.mean_final[list(pool)]
    best, median = finals.min(), np.median(finals[np.isfinite(finals)])
    if not best < median:
        raise ValueError(
            f"The candidates of a replayed search must differ in their final losses, got the best and the median "
            f"{best:g}. Take more of them."
        )
    return float((table.mean_final[row] - best) / (median - best))


@dataclass(frozen=True)
class Summary:
    """Many replayed searches by one criterion.

    Attributes:
        table, criterion: what was searched, and by what.
        epochs: mean of the epochs that a search trains, without the dense reference's.
        regret: mean, see `Replayed`.
        low, high: its 95 % interval, by a bootstrap over the searches.
        best: share of the searches that found the best of their candidates.
    """

    table: str
    criterion: str
    epochs: float
    regret: float
    low: float
    high: float
    best: float


def replay_many(
    table: Table, criteria: Sequence[str], *, repeats: int = 200, n_candidates: int | None = None, **settings: Any
) -> list[Summary]:
    """Replay searches on random parts of a table, each criterion alone and on the same parts.

    Args:
        table: the pool.
        criteria: names, or names joined (see `criterion_of`).
        repeats: number of searches for each criterion.
        n_candidates: of each search; None: half of the pool.
        settings: of `Plan`, as for `replay`.
    """
    count = len(table.configs) // 2 if n_candidates is None else n_candidates
    found = []
    for criterion in criteria:
        searches = [
            replay(table, seed=seed, n_candidates=count, criteria=(criterion,), **settings) for seed in range(repeats)
        ]
        regrets = np.array([one.regret[criterion] for one in searches])
        draws = np.random.default_rng(0).integers(len(regrets), size=(2000, len(regrets)))
        low, high = np.quantile(regrets[draws].mean(1), (0.025, 0.975))
        epochs = float(np.mean([one.epochs for one in searches]))
        best = float((regrets < 1e-9).mean())
        found.append(Summary(table.name, criterion, epochs, float(regrets.mean()), float(low), float(high), best))
    return found


def _facts(
    table: Table,
    order: Sequence[int],
    plan: Plan,
    history: History,
    action: Suggest | Train | Record | Finish,
) -> Iterator[Fact]:
    match action:
        case Suggest():
            for name in action.names:
                yield Candidate(name, action.batch, table.configs[order[int(name[1:]) - 1]])
        case Record():
            yield action.fact
        case Finish():
            yield from (Winner(criterion, network) for criterion, network in action.winners.items())
        case Train():
            yield from _trained(table, order, plan, history, action)


def _trained(table: Table, order: Sequence[int], plan: Plan, history: History, action: Train) -> Iterator[Fact]:
    row = len(table.configs) if action.network == DENSE else order[int(action.network[1:]) - 1]
    known = history.epochs.get(action.network, {})
    records = table.records[row]
    for epoch in range(action.until + 1):
        if epoch not in records:
            yield Failure(action.network, "it failed in the table")
            return
        if epoch not in known:
            yield Epoch(action.network, records[epoch])
    if action.until == plan.train.epochs:
        valid, test = float(table.final_valid[row, 0]), float(table.final_test[row, 0])
        yield FinalResult(action.network, action.until, valid, test, 0, "")
