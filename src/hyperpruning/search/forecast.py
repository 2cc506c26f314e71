"""A forecast of a search: `decide` is called until the end, with random results where there are none yet."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from hyperpruning.search.actions import Abort, Finish, Record, Suggest, Train
from hyperpruning.search.history import DENSE, SMALL, Candidate, Epoch, Fact, FinalResult, History, Winner
from hyperpruning.search.plan import BEST, LOSS_ALONE, Plan
from hyperpruning.search.schedulers import decide
from hyperpruning.training.record import EpochRecord

SIMULATED = 500  # candidates; a forecast of more takes seconds


def forecast(plan: Plan, history: History) -> History:
    """A forecast of the history at the end of a search.

    Known results are kept. Missing results are random losses and spectra that are independent of each other, so that
    the criteria agree only by chance. The number of trained epochs is an estimate until the last round is decided; with
    a single criterion it is exact. Stopping rules are left out, except for those that have already stopped a criterion:
    random losses say nothing about when a rule stops.

    Args:
        plan: the search.
        history: the results so far; it is not changed.
    """
    history = history.copy()
    plan = replace(plan, target_loss=None, clear_level=None, objectives=LOSS_ALONE)  # random records have no cost
    while actions := decide(plan, history):
        for action in actions:
            if isinstance(action, Abort):
                return history
            for fact in _simulated_facts(plan, history, action):
                history.add(fact)
    return history


def planned_epochs(plan: Plan, history: History) -> int:
    """Epochs of all networks at the end of a search: of `forecast`, or of many candidates the most that it can be."""
    return forecast(plan, history).trained_epochs() if plan.n_candidates <= SIMULATED else plan.most_epochs()


def epochs_of_one_search(plan: Plan, criterion: str, n_candidates: int) -> int:
    """Epochs that a search by one criterion alone trains, if no candidate fails; without the dense reference's."""
    alone = replace(
        plan,
        criteria=(criterion,),
        n_candidates=n_candidates,
        train_all=False,
        winner=BEST,
        n_followed=0,
        max_epochs=None,
    )
    return forecast(alone, History()).trained_epochs(dense=False)


def _simulated_facts(plan: Plan, history: History, action: Suggest | Train | Record | Finish) -> Iterator[Fact]:
    match action:
        case Suggest():
            yield from (Candidate(name, action.batch, {}) for name in action.names)
        case Record():
            yield action.fact
        case Finish():
            yield from (Winner(criterion, network) for criterion, network in action.winners.items())
        case Train():
            known = history.epochs.get(action.network, {})
            for epoch in range(action.until + 1):
                if epoch not in known:
                    yield Epoch(action.network, _simulated_record(history, action.network, epoch))
            frozen = action.network == DENSE and plan.dense is not None
            if (frozen or action.until == plan.train.epochs) and action.network not in history.finals:
                yield FinalResult(action.network, action.until, _generator(action.network).random(), 0.0, 0, "")


def _generator(network: str) -> random.Random:
    return random.Random(network)


def _simulated_record(history: History, network: str, epoch: int) -> EpochRecord:
    """A random record; its spectrum has as many exponents as the others of the epoch."""
    draw = _generator(network)
    loss, shift = draw.random(), draw.random() if network not in (DENSE, SMALL) else 0.0
    known = (records[epoch].spectrum for records in history.epochs.values() if epoch in records)
    exponents = next(known, (0.0,))
    spectrum = tuple((0.0 if one is None else one) + shift for one in exponents)
    return EpochRecord(epoch, None, loss, 0, {}, 0.0, spectrum=spectrum, averaged_loss=loss, averaged_spectrum=spectrum)
