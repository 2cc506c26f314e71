"""How far the criteria of a search can be trusted: what their first scores foretold in this very run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyperpruning.report.components import criterion_name, join_names
from hyperpruning.report.nearest import nearest_sentence
from hyperpruning.report.run import Run
from hyperpruning.report.series import chance
from hyperpruning.search.ranking import spearman

ENOUGH, FEWEST = 8, 4  # candidates that must have trained on: better, and at least


@dataclass(frozen=True)
class Trust:
    """What a criterion foretold.

    Attributes:
        criterion: its name.
        epoch: of the first rung, where it scored the candidates.
        later: epoch of the losses that it is compared with.
        rho: Spearman's correlation of the scores with these losses; None if all are equal.
        n: candidates that trained on so far, and are compared.
    """

    criterion: str
    epoch: int
    later: int
    rho: float | None
    n: int


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
        rho = spearman([decision.scores[name] for name in compared], late)
        found.append(Trust(decision.criterion, epoch, later, rho, len(compared)))
    return found


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
    """The trust in words, with the correlation that chance exceeds; "" without any."""
    if not found:
        return ""
    one = found[0]
    said = [
        f"{criterion_name(each.criterion)} {'undefined' if each.rho is None else f'{each.rho:+.2f}'}" for each in found
    ]
    return (
        f"Trust: how the scores after epoch {one.epoch} agree with the losses after epoch {one.later} (Spearman, "
        f"{one.n} candidates that trained so far): {join_names(said)}; unrelated values exceed "
        f"±{min(chance(one.n), 1):.2f} in 1 case of 20."
    )
