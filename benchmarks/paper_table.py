"""What paper_scale.py prints: the candidates so far, beside the published numbers, and what is left to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from slicing import Budget, needed

from hyperpruning.report.components import criterion_name
from hyperpruning.report.run import in_words
from hyperpruning.search.criteria import ls
from hyperpruning.search.forecast import epochs_of_one_search
from hyperpruning.search.history import DENSE, History
from hyperpruning.search.plan import Plan
from hyperpruning.search.scoring import rung
from hyperpruning.tasks.language_modelling import perplexity
from hyperpruning.training.checkpoint import newest_records
from hyperpruning.training.record import EpochRecord

Records = Mapping[int, EpochRecord]
# valid and test perplexities, as published
PUBLISHED = {
    "dense, after 49 epochs": (72.73, None),
    "Selfish-RNN": (73.79, 71.65),
    "hyperpruning (er, global magnitude, random, nonzeros, f = 0.7)": (72.27, 69.73),
}


def cost_in_words(plan: Plan) -> str:
    """How many epochs the search trains."""
    one, together = _costs(plan)
    return (
        f"{plan.n_candidates} candidates; after epochs {_listed(plan.rungs)} each criterion keeps "
        f"{_listed(plan.keep)}, to {plan.train.epochs} epochs. One criterion trains {one} epochs, "
        f"{_listed(plan.criteria)} together {one} to {together}, the dense network {plan.train.epochs} more."
    )


def records(history: History, folder: Path) -> dict[str, Records]:
    """The records of all networks by epoch; where a job is under way, its checkpoint is ahead of the ledger."""
    found: dict[str, Records] = {}
    for name in [DENSE, *history.candidates]:
        newest = newest_records(folder / "networks" / name)
        found[name] = {record.epoch: record for record in newest} | history.epochs.get(name, {})
    return found


def results(plan: Plan, history: History, found: Mapping[str, Records], *, published: bool) -> str:
    """The networks, the best first, and the winners.

    Args:
        plan: of the search.
        history: what its ledger says, finished or not.
        found: the records of all networks.
        published: whether the published numbers stand beside.
    """
    trained = sum(map(_epochs, found.values()))
    head = ["place", "network", "epochs", *(f"ppl@{epoch}" for epoch in plan.rungs), "best", "test"]
    rows = [[*head, f"LS@{plan.rungs[0]}", "method"]]
    distances = _distances(plan, history)
    for place, name in enumerate([DENSE, *_order(history, found)]):
        known, final = found[name], history.finals.get(name)
        losses = [known[epoch].valid_loss if epoch in known else None for epoch in plan.rungs]
        best = min((record.valid_loss for epoch, record in known.items() if epoch), default=None)
        row = [str(place) if place and known else "-", name, str(_epochs(known)), *map(_ppl, losses), _ppl(best)]
        method = in_words(history.candidates[name].config) if name != DENSE else "dense"
        if name in history.failures:
            method += " (diverged)"
        distance = f"{distances[name]:.3f}" if name in distances else "-"
        rows.append([*row, _ppl(None if final is None else final.test_loss), distance, method])
    finished = len(history.winners) == len(plan.criteria)
    state = "finished" if finished else f"partial: {len(history.finals)} networks trained to the end"
    return "\n".join([f"{state}; {trained} epochs trained", *_aligned(rows), "", *_choices(plan, history, published)])


def left_in_words(
    plan: Plan, history: History, found: Mapping[str, Records], packed: Sequence[str], budget: Budget
) -> str:
    """What is left, what of it another machine trains again, and how long that takes.

    Args:
        plan: of the search.
        history: what its ledger says.
        found: the records of all networks.
        packed: the networks whose checkpoints are carried.
        budget: of the slice that is over.
    """
    trained = {name: _epochs(known) for name, known in found.items()}
    dense, (one, together), seconds = trained[DENSE], _costs(plan), budget.mean
    spent = sum(trained.values()) - dense
    if len(history.winners) == len(plan.criteria):
        return f"An epoch took {seconds:.1f} s."
    least, longest = (max(0, total - spent) + plan.train.epochs - dense for total in (one, together))
    again = sum(trained[name] for name in needed(plan, history) if name not in packed)
    lines = [
        f"An epoch took {seconds:.1f} s; {least} to {longest} are left: {_hours(least * seconds)} to "
        f"{_hours(longest * seconds)} h.",
        f"The state has the ledger and the checkpoints of {_listed(packed) or 'no network'}; a machine with an empty "
        f"scratch trains up to {again} epochs again, {_hours(again * seconds)} h.",
    ]
    if again and plan.train.epochs * seconds > budget.seconds:
        lines.append(
            f"A network without a checkpoint in the state needs {_hours(plan.train.epochs * seconds)} h to its end on "
            "machines that keep the scratch: keep one for so long, or lower --epochs."
        )
    return "\n".join(lines)


def _costs(plan: Plan) -> tuple[int, int]:
    """Epochs that the search by one criterion trains, and at most all of them."""
    return epochs_of_one_search(plan, plan.criteria[0], plan.n_candidates), plan.most_epochs() - plan.dense_epochs


def _epochs(known: Records) -> int:
    return max(known, default=0)


def _distances(plan: Plan, history: History) -> dict[str, float]:
    """LS distances to the dense network at the first rung."""
    first = plan.rungs[0]
    if first not in history.epochs.get(DENSE, {}):
        return {}
    return ls(rung(plan, history, history.candidates, first))


def _order(history: History, found: Mapping[str, Records]) -> list[str]:
    """The candidates by place: who was trained longer stands before, then the better by validation loss."""

    def key(name: str) -> tuple[int, float, str]:
        best = min((record.valid_loss for record in found[name].values()), default=math.inf)
        return -_epochs(found[name]), best, name

    return sorted(history.candidates, key=key)


def _choices(plan: Plan, history: History, published: bool) -> list[str]:
    """The winners, and the published results."""
    rows = [["", "valid", "test"]]
    chosen = {f"by {criterion_name(one)}": history.winners[one] for one in plan.criteria if one in history.winners}
    for title, name in [("dense", DENSE), *chosen.items()]:
        if name in history.finals:
            final = history.finals[name]
            rows.append(
                [title if name == DENSE else f"{title} ({name})", _ppl(final.valid_loss), _ppl(final.test_loss)]
            )
    for title, (valid, test) in PUBLISHED.items() if published else ():
        rows.append([f"published: {title}", f"{valid:.2f}", "-" if test is None else f"{test:.2f}"])
    return _aligned([[*row[1:], row[0]] for row in rows]) if len(rows) > 1 else []


def _ppl(loss: float | None) -> str:
    return "-" if loss is None else f"{perplexity(loss):.2f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g}"


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: every column but the last to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    cells = ([*(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]] for row in rows)
    return ["  ".join(row).rstrip() for row in cells]
