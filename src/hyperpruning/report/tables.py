"""The results and what predicted them: numbers first, their tables for the terminal after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.report.run import Run, label, read_run
from hyperpruning.search.criteria import exponents, loss, rank_sum
from hyperpruning.search.plan import DENSE
from hyperpruning.tasks.language_modelling import perplexity
from hyperpruning.training.epochs import EpochRecord

Ranks = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Row:
    """A network of the results.

    Attributes:
        label: "dense", "LSH's choice", "the loss's choice", "rank sum's choice", "best of the pool".
        judges: the objectives that chose it; empty for the dense network and the best of the pool.
        network: its name in the run folder.
        method: in words; "none" for the dense network.
        sparsity: fraction of zero weights over the prunable weights, exact.
        active: active prunable weights.
        best_epoch: the epoch that its weights are from.
        valid, test: perplexities.
        spent: epochs that its judge's search trains (the pool's whole training for its best); None for the dense.
        full: epochs of training the whole pool to the end; None for the dense network.
        place: its place among the candidates by final validation loss, when all were trained to the end.
        of: how many those are.
    """

    label: str
    judges: tuple[str, ...]
    network: str
    method: str
    sparsity: float
    active: int
    best_epoch: int
    valid: float
    test: float
    spent: int | None = None
    full: int | None = None
    place: int | None = None
    of: int | None = None


@dataclass(frozen=True)
class Correlation:
    """How well a number known early predicts the end.

    Attributes:
        predictor: what was known.
        epoch: when.
        rho: Spearman's rank correlation with the final validation loss; None for fewer than 4 candidates, or when all
            are alike.
        n: candidates.
    """

    predictor: str
    epoch: int
    rho: float | None
    n: int


def results(folder: Path) -> list[Row]:
    """The networks that a search came to, as far as it has come: dense, each judge's choice, the best of the pool.

    The last one only when every candidate was trained to the end.
    """
    run = read_run(folder)
    rows = [_row(run, "dense", DENSE)] if DENSE in run.history.finals else []
    for judge in run.judges:
        winner = run.history.winners.get(judge)
        if winner in run.history.finals:
            rows.append(_row(run, label(judge), str(winner), judges=(judge,)))
    if run.finished and run.exhausted and run.ended:
        rows.append(_row(run, "best of the pool", _order(run)[0]))
    return rows


def _row(run: Run, label: str, network: str, judges: tuple[str, ...] = ()) -> Row:
    final = run.history.finals[network]
    candidate, full = network != DENSE, run.pool * run.epochs
    compared = candidate and run.exhausted
    return Row(
        label=label,
        judges=judges,
        network=network,
        method=run.method(network),
        sparsity=1 - final["active"] / (run.prunable or final["active"]),
        active=final["active"],
        best_epoch=final["best_epoch"],
        valid=perplexity(final["valid_loss"]),
        test=perplexity(final["test_loss"]),
        spent=(run.judge_epochs() if judges else full) if candidate else None,
        full=full if candidate else None,
        place=_order(run).index(network) + 1 if compared else None,
        of=len(run.ended) if compared else None,
    )


def _order(run: Run) -> list[str]:
    """Candidates trained to the end, best first; equal losses by name, as the search orders them."""
    return sorted(run.ended, key=lambda name: (run.history.finals[name]["valid_loss"], name))


def verdict(rows: Sequence[Row]) -> str:
    """What the run showed, in a few plain sentences."""
    by_judge = {judge: row for row in rows for judge in row.judges}
    dense = next((row for row in rows if row.network == DENSE), None)
    chosen = next((row for row in rows if row.judges), None)
    if chosen is None:
        return "The search has not come to its choice yet."
    sentences = []
    if "ls" in by_judge and "loss" in by_judge:
        sentences.append(_duel(by_judge["ls"], by_judge["loss"]))
    else:
        sentences.append(f"{_capital(chosen.label)} is {chosen.network}, with a test perplexity of {chosen.test:.2f}.")
    if dense is not None:
        share = f"{100 * chosen.sparsity:.1f} % of its weights zero"
        sentences.append(f"With {share}, {chosen.label} is {_compared(chosen.test, dense.test, 'the dense network')}.")
    if chosen.place is not None and chosen.spent and chosen.full:
        sentences.append(
            f"All candidates trained to the end, it is number {chosen.place} of {chosen.of} by validation loss; the "
            f"search for it takes {chosen.spent} of their {chosen.full} epochs, the dense network's not counted."
        )
    elif chosen.spent and chosen.full:
        sentences.append(f"The search for it takes {chosen.spent} epochs; all candidates to the end, {chosen.full}.")
    return " ".join([*sentences, "This is one run with one seed: small differences can be chance."])


def _duel(ls: Row, loss: Row) -> str:
    if ls.network == loss.network:
        return f"LSH and the loss chose the same network, {ls.network}, with a test perplexity of {ls.test:.2f}."
    return f"LSH's choice is {_compared(ls.test, loss.test, 'the choice of the loss')}."


def _compared(ours: float, theirs: float, whom: str) -> str:
    """ "better than X: test perplexity 4.60 against 4.70", the difference as it is printed."""
    gap = round(ours, 2) - round(theirs, 2)
    numbers = f"test perplexity {ours:.2f} against {theirs:.2f}"
    if abs(gap) < 0.005:
        return f"as good as {whom} ({numbers})"
    return (
        f"{'better' if gap < 0 else 'worse'} than {whom}: {numbers}, {abs(gap):.2f} {'lower' if gap < 0 else 'higher'}"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def correlations(folder: Path) -> list[Correlation]:
    """What predicted the final validation loss, at each epoch with spectra before the end.

    Over the candidates trained to the end: by LS distance (every kind in `DISTANCES`), validation loss, rank sum of
    that loss and the search's own distance, and, as the trivial baseline, the drop fraction.
    """
    run = read_run(folder)
    dense = run.history.epochs.get(DENSE, {})
    found = []
    for epoch in sorted(epoch for epoch, record in dense.items() if record.spectrum and epoch < run.epochs):
        records = {name: record for name, record in run.history.at(epoch).items() if record.spectrum}
        records = {name: records[name] for name in run.ended if name in records}
        final = [run.history.finals[name]["valid_loss"] for name in records]
        for predictor, values in _predictors(run, records, dense[epoch]).items():
            rho = spearman([values[name] for name in records], final)
            found.append(Correlation(predictor, epoch, rho, len(final)))
    return found


def _predictors(run: Run, records: Mapping[str, EpochRecord], dense: EpochRecord) -> dict[str, Mapping[str, float]]:
    reference = exponents(dense)
    predictors: dict[str, Mapping[str, float]] = {
        f"LS distance, {kind}": {
            name: run.distance(exponents(record), reference, kind) for name, record in records.items()
        }
        for kind in sorted(DISTANCES, key=lambda kind: kind != run.settings["distance"])
    }
    candidates = run.history.candidates
    return predictors | {
        "validation loss": loss(records, dense, run.distance),
        "rank sum": rank_sum(records, dense, run.distance),
        "drop fraction": {name: float(candidates[name].point.get("drop_fraction", 0)) for name in records},
    }


def spearman(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None for fewer than 4 pairs or a constant side.

    >>> spearman([1, 2, 3, 4], [10, 20, 30, 25])
    0.8
    """
    if len(one) < 4:
        return None
    a, b = (_centred_ranks(np.asarray(side, dtype=float)) for side in (one, two))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / norm, 12) if norm > 0 else None


def _centred_ranks(values: Ranks) -> Ranks:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # the mean rank of each group of ties
    centred: Ranks = ranks - ranks.mean()
    return centred


HEADINGS = ("network", "method", "sparsity", "active", "valid", "test", "epoch", "epochs spent", "place")
TEXT = ("network", "method")  # what may be broken over lines in a terminal


def cells(row: Row) -> tuple[str, ...]:
    """A row as it is printed, under `HEADINGS`, here and on the page."""
    return (
        row.label if row.network == DENSE else f"{row.label} ({row.network})",
        row.method,
        f"{100 * row.sparsity:.2f} %",
        f"{row.active:,}",
        f"{row.valid:.2f}",
        f"{row.test:.2f}",
        str(row.best_epoch),
        "" if row.spent is None else f"{row.spent} of {row.full}",
        "" if row.place is None else f"{row.place} of {row.of}",
    )


def results_table(rows: Sequence[Row]) -> Table:
    """The results for a terminal; perplexities on validation and test text."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    printed = [dict(zip(HEADINGS, cells(row), strict=True)) for row in rows]
    headings = [heading for heading in HEADINGS if any(row[heading] for row in printed) or heading in TEXT]
    for heading in headings:
        text = heading in TEXT
        table.add_column(heading, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for row in printed:
        table.add_row(*(row[heading] for heading in headings))
    return table


def correlations_table(found: Sequence[Correlation], columns: int = 8) -> Table:
    """The correlations for a terminal, of the search's own distance: the first epochs and the last before the end."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("rank correlation with the end", no_wrap=True)
    epochs = sorted({correlation.epoch for correlation in found if correlation.epoch > 0})
    epochs = epochs if len(epochs) <= columns else [*epochs[: columns - 1], epochs[-1]]
    for epoch in epochs:
        table.add_column(f"e={epoch}", justify="right", no_wrap=True)
    distances = [predictor for predictor in pivot(found) if predictor.startswith("LS ")]
    for predictor, by_epoch in pivot(found).items():
        if predictor not in distances[1:]:
            table.add_row(predictor, *(signed(by_epoch[epoch].rho) for epoch in epochs))
    return table


def pivot(found: Sequence[Correlation]) -> dict[str, dict[int, Correlation]]:
    """Correlations by predictor and epoch."""
    table: dict[str, dict[int, Correlation]] = {}
    for correlation in found:
        table.setdefault(correlation.predictor, {})[correlation.epoch] = correlation
    return table


def signed(rho: float | None) -> str:
    """A correlation as it is printed."""
    return "-" if rho is None else f"{rho:+.2f}"


def some(values: set[int], count: int) -> list[int]:
    """At most `count` of the values, evenly spread, the first and the last among them."""
    ordered = sorted(values)
    if len(ordered) <= count:
        return ordered
    return [ordered[round(index * (len(ordered) - 1) / (count - 1))] for index in range(count)]
