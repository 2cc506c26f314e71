"""The results and what predicted them; report/terminal.py and the page draw their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.report.components import criterion_name
from hyperpruning.report.run import Run, read_run
from hyperpruning.search.criteria import averaged_loss, loss, rank_sum
from hyperpruning.search.history import DENSE, SMALL
from hyperpruning.search.plan import seed_names
from hyperpruning.search.ranking import spearman
from hyperpruning.search.scoring import rung
from hyperpruning.training.record import Metric, shown

BEST_OF_ALL = "best of all"


@dataclass(frozen=True)
class Row:
    """A network of the results.

    Attributes:
        label: "dense", "dense, as many weights", "by LS distance", "by validation loss", "by rank sum", "chosen",
            "best of all".
        criteria: the criteria that selected it; empty for the dense networks, a network that the user chose and the
            best of all.
        network: its name in the run folder.
        method: in words; "none" for the dense networks.
        sparsity: fraction of zero weights over the prunable weights, exact.
        active: active prunable weights.
        best_epoch: the epoch that its weights are from.
        valid, test: the task's metric; of a finalist with several seeds the mean.
        seed_epochs: epochs that the further seeds of the finalists of its criterion take.
        valids, tests: the same with each of these seeds; empty for one seed.
        spent: epochs that the search by its criterion trains with one seed (for the best of all: those of all
            candidates); None for the dense networks.
        full: epochs of training all candidates to the end; None for the dense networks.
        place: its place among the candidates by final validation loss, when all were trained to the end.
        of: number of these candidates.
        metric: the metric of valid and test.
        size: of its model file, bytes; None if the run folder has none.
        why: why it is the winner of the search, in words; None if it is not.
    """

    label: str
    criteria: tuple[str, ...]
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
    metric: Metric = field(default_factory=Metric)
    size: int | None = None
    why: str | None = None
    seed_epochs: int = 0
    valids: tuple[float, ...] = ()
    tests: tuple[float, ...] = ()


@dataclass(frozen=True)
class Correlation:
    """How well an early value predicts the final validation loss.

    Attributes:
        predictor: name of the early value.
        epoch: epoch of the early value.
        rho: Spearman's rank correlation with the final validation loss; None for fewer than 4 candidates, or if all
            values are equal.
        n: number of candidates.
    """

    predictor: str
    epoch: int
    rho: float | None
    n: int


def results(folder: Path) -> list[Row]:
    """The results so far: the dense networks, the winner by each criterion, and the best of all candidates.

    The best of all is only known if every candidate was trained to the end.
    """
    run = read_run(folder)
    references = {DENSE: "dense", SMALL: "dense, as many weights"}
    rows = [_row(run, label, name) for name, label in references.items() if name in run.history.finals]
    for criterion in run.plan.criteria:
        winner = run.history.winners.get(criterion)
        if winner in run.history.finals:
            rows.append(_row(run, f"by {criterion_name(criterion)}", str(winner), criteria=(criterion,)))
    if run.winner in run.history.finals and run.winner not in [row.network for row in rows]:
        rows.append(_row(run, "chosen", str(run.winner)))
    if run.finished and run.all_trained and run.completed:
        rows.append(_row(run, BEST_OF_ALL, _ranked(run)[0]))
    return rows


def _row(run: Run, label: str, network: str, criteria: tuple[str, ...] = ()) -> Row:
    final = run.history.finals[network]
    candidate, full = network not in (DENSE, SMALL), run.n_candidates * run.epochs
    compared = candidate and run.all_trained
    seeds = [run.history.finals[one] for one in seed_names(run.plan, network) if one in run.history.finals]
    valid, test = [run.valid(one) for one in seeds], [run.test(one) for one in seeds]
    return Row(
        label=label,
        criteria=criteria,
        network=network,
        method=run.method(network),
        sparsity=1 - final.active / (run.prunable or final.active) if candidate else 0.0,
        active=final.active,
        best_epoch=final.best_epoch,
        valid=sum(valid) / len(valid),
        test=sum(test) / len(test),
        spent=(run.search_epochs if criteria else full) if candidate else None,
        full=full if candidate else None,
        place=_ranked(run).index(network) + 1 if compared else None,
        of=len(run.completed) if compared else None,
        metric=run.metric,
        size=run.size(network),
        why=run.why if network == run.winner else None,
        seed_epochs=run.seed_epochs if criteria else 0,
        valids=tuple(valid) if len(seeds) > 1 else (),
        tests=tuple(test) if len(seeds) > 1 else (),
    )


def _ranked(run: Run) -> list[str]:
    """Candidates trained to the end, best first; equal losses by name, as the search orders them."""
    return sorted(run.completed, key=lambda name: (run.history.finals[name].valid_loss, name))


def correlations(folder: Path) -> list[Correlation]:
    """Rank correlations of early values with the final validation loss, at each epoch with spectra before the end.

    Over the candidates trained to the end. The early values are the LS distance (each kind in `DISTANCES`), the
    validation loss and that of the averaged weights, the rank sum, and as a trivial baseline the drop fraction.
    """
    run = read_run(folder)
    dense = run.records(DENSE)
    found = []
    for epoch in sorted(epoch for epoch, record in dense.items() if record.spectrum and epoch < run.epochs):
        names = [name for name in run.completed if (record := run.history.at(epoch).get(name)) and record.spectrum]
        final = [run.history.finals[name].valid_loss for name in names]
        for predictor, values in _predictors(run, names, epoch).items():
            rho = spearman([values[name] for name in names], final)
            found.append(Correlation(predictor, epoch, rho, len(final)))
    return found


def _predictors(run: Run, names: Sequence[str], epoch: int) -> dict[str, Mapping[str, float]]:
    reference = run.records(DENSE)[epoch].exponents
    exponents = {name: run.history.epochs[name][epoch].exponents for name in names}
    predictors: dict[str, Mapping[str, float]] = {
        f"LS distance, {kind}": {name: run.distance(values, reference, kind) for name, values in exponents.items()}
        for kind in sorted(DISTANCES, key=lambda kind: kind != run.plan.distance)
    }
    known = rung(run.plan, run.history, names, epoch)
    kept = all(record.averaged_loss is not None for record in known.now().values())
    return predictors | {
        "validation loss": loss(known),
        **({"averaged loss": averaged_loss(known)} if kept else {}),
        "rank sum": rank_sum(known),
        "drop fraction": {name: float(run.history.candidates[name].config.get("drop_fraction", 0)) for name in names},
    }


HEADINGS = ("network", "method", "sparsity", "active", "file", "valid", "test", "epoch", "epochs spent", "place")
TEXT = ("network", "method")  # the columns of text; the others hold numbers


def cells(row: Row) -> tuple[str, ...]:
    """The texts of a row under `HEADINGS`, for the terminal and the page."""
    return (
        row.label if row.network in (DENSE, SMALL) else f"{row.label} ({row.network}){', winner' if row.why else ''}",
        row.method,
        f"{100 * row.sparsity:.2f} %",
        f"{row.active:,}",
        "" if row.size is None else f"{row.size / 1024:,.0f} KiB",
        _with_range(row.valid, row.valids),
        _with_range(row.test, row.tests),
        str(row.best_epoch),
        "" if row.spent is None else f"{row.spent} of {row.full}",
        "" if row.place is None else f"{row.place} of {row.of}",
    )


def pivot(found: Sequence[Correlation]) -> dict[str, dict[int, Correlation]]:
    """Correlations by predictor and epoch."""
    table: dict[str, dict[int, Correlation]] = {}
    for correlation in found:
        table.setdefault(correlation.predictor, {})[correlation.epoch] = correlation
    return table


def signed(rho: float | None) -> str:
    """A correlation as it is printed."""
    return "-" if rho is None else f"{rho:+.2f}"


def evenly_spaced(values: set[int], count: int) -> list[int]:
    """At most `count` of the values, evenly spaced, including the first and the last."""
    ordered = sorted(values)
    if len(ordered) <= count:
        return ordered
    return [ordered[round(index * (len(ordered) - 1) / (count - 1))] for index in range(count)]


def _with_range(mean: float, values: Sequence[float]) -> str:
    """ "4.11", or with the lowest and the highest of several values "4.11 (4.08 to 4.15)"."""
    return f"{shown(mean)} ({shown(min(values))} to {shown(max(values))})" if values else shown(mean)
