"""The sections of the page that hold figures: their panels and tables, and the numbers that their captions need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hyperpruning.report import drawing, figures, series, tradeoffs
from hyperpruning.report.blocks import LegendEntry, Panel, Table, TableRow
from hyperpruning.report.components import criterion_name, join_names
from hyperpruning.report.run import Run, winners_by_network
from hyperpruning.report.tables import correlations, evenly_spaced, pivot, signed
from hyperpruning.search.history import DENSE

BY_RANK = ("leading", "wasserstein")  # distances that sort the exponents before they compare them
THIRD = 3.7  # width in inches of a figure of which three are side by side


@dataclass(frozen=True)
class Spectra:
    """The section of Lyapunov spectra.

    Attributes:
        panels: the dense reference's spectra over the epochs, then the candidates' at the first and at the last rung.
        legend: of the candidates' panels; empty without them.
        first: the first epoch with a spectrum of the dense reference.
        by_rank: whether the search's distance compares exponents by rank.
        cut: exponents below it, in nats per step, are not drawn; None if all are drawn.
        infinite: whether some exponents are -inf.
    """

    panels: Sequence[Panel]
    legend: Sequence[LegendEntry]
    first: int
    by_rank: bool
    cut: float | None
    infinite: bool


@dataclass(frozen=True)
class Correlations:
    """The table of rank correlations.

    Attributes:
        table: predictors by epochs.
        n: candidates trained to the end.
        chance: the absolute correlation that n unrelated pairs exceed in about 1 case of 20.
    """

    table: Table
    n: int
    chance: float


@dataclass(frozen=True)
class Density:
    """The section of densities.

    Attributes:
        network: the network whose densities are shown.
        panel: the heat map.
        table: churn and weights ever active, by epoch.
    """

    network: str
    panel: Panel
    table: Table


@dataclass(frozen=True)
class ParetoView:
    """The section of loss against costs.

    Attributes:
        panel: loss against the active weights.
        table: of all costs.
        meaning: of its marks, in words.
        timed: whether steps were measured.
    """

    panel: Panel
    table: Table
    meaning: str
    timed: bool


def elimination(run: Run) -> list[Panel]:
    """The elimination of candidates, one panel for each criterion; empty before the first candidate."""
    if not run.history.candidates:
        return []
    panels, width = [], _width(len(run.plan.criteria))
    for criterion in run.plan.criteria:
        lines = series.bracket(run, criterion)
        svg = figures.bracket(lines, criterion=criterion, rungs=run.plan.rungs, epochs=run.epochs, width=width)
        name = criterion_name(criterion)
        panels.append(Panel(svg, name[:1].upper() + name[1:], criterion))
    return panels


def _width(panels: int) -> float:
    """Width in inches of each of several figures side by side."""
    return THIRD if panels == 3 else drawing.WIDTH


def _winners(run: Run) -> dict[str, LegendEntry]:
    """The winners: network -> its entry in the legends."""
    entries = {}
    for network, criteria in winners_by_network(run).items():
        names, colour = join_names([criterion_name(criterion) for criterion in criteria]), drawing.colour(criteria)
        entries[network] = LegendEntry(f"winner by {names} ({network})", colour, dashed=colour == drawing.OTHER)
    return entries


def legend(run: Run) -> list[LegendEntry]:
    """The legend that the figures of curves and of spectra share."""
    winners = list(_winners(run).values())
    others = LegendEntry("other candidates" if winners else "candidates", drawing.FAINT)
    return [LegendEntry("dense", drawing.INK), *winners, others]


def curves(run: Run) -> list[Panel]:
    """The metric over the epochs of every network, from the first epoch and from the last round; empty before that."""
    winners = _winners(run)
    found = {name: series.curve(run, name) for name in (DENSE, *run.history.candidates)}
    found = {name: curve for name, curve in found.items() if curve[0]}
    if not found:
        return []
    marked = [(*found[name], winners[name].colour) for name in found if name in winners]
    marked += [(*found[DENSE], drawing.INK)] if DENSE in found else []
    others = [curve for name, curve in found.items() if name not in winners and name != DENSE]
    last, rungs = max(epochs[-1] for epochs, _ in found.values()), run.plan.rungs
    label, titles = f"validation {run.metric.name}", {1: "From the first epoch"}
    if 1 < rungs[-1] < last:
        titles[rungs[-1]] = "From the last round"
    panels = []
    for first, title in titles.items():
        low, top = series.y_limits(list(found.values()), first)
        svg = figures.curves(
            others,
            marked,
            first=first,
            last=last,
            rungs=rungs,
            low=low,
            top=top,
            ylabel=label,
            averaging=averaging(run),
        )
        panels.append(Panel(svg, title if len(titles) > 1 else ""))
    return panels


def averaging(run: Run) -> list[int]:
    """The epochs after which the weights of the dense networks and of the winners are averaged."""
    begins = {series.averaging_begins(run, name) for name in (DENSE, *winners_by_network(run))}
    return sorted(epoch for epoch in begins if epoch is not None)


def spectra(run: Run) -> Spectra | None:
    """The dense reference's spectra over the epochs, and the candidates' beside it at the first and the last rung."""
    dense = series.spectra(run, DENSE)
    if not dense:
        return None
    found = {epoch: _spectra_at(run, epoch) for epoch in (run.plan.rungs[0], run.plan.rungs[-1]) if epoch in dense}
    found = {epoch: each for epoch, each in found.items() if each}
    everything = [*dense.values(), *(values for each in found.values() for values in each.values())]
    low, winners, width = series.lower_limit(everything), _winners(run), _width(1 + len(found))
    panels = [Panel(figures.dense_spectra(dense, low=low, width=width), "Dense reference", note=_lost(dense))]
    for epoch, each in found.items():
        marked = [(each[name], winners[name].colour) for name in each if name in winners]
        others = [values for name, values in each.items() if name not in winners]
        svg = figures.candidate_spectra(epoch, dense[epoch], others, marked, low=low, width=width)
        panels.append(Panel(svg, f"Candidates after epoch {epoch}", note=_lost_by_network(dense[epoch], each, winners)))
    return Spectra(
        panels=panels,
        legend=legend(run) if found else [],
        first=min(dense),
        by_rank=run.plan.distance in BY_RANK,
        cut=low if any(values[-1] < low for values in everything) else None,
        infinite=any(math.isinf(values[-1]) for values in everything),
    )


def _lost(spectra: Mapping[int, series.Vector]) -> str:
    """How many exponents of the dense reference are -inf, epoch by epoch; "" if none is."""
    counts = {epoch: series.infinite(values) for epoch, values in spectra.items()}
    size = len(next(iter(spectra.values())))
    return f"▾: exponents of -∞: {_span(counts.values())} of {size}." if any(counts.values()) else ""


def _lost_by_network(
    dense: series.Vector, candidates: Mapping[str, series.Vector], winners: Mapping[str, LegendEntry]
) -> str:
    """How many exponents of each network are -inf; "" if none is."""
    counts = {name: series.infinite(values) for name, values in {"dense": dense, **candidates}.items()}
    named = [f"{name} = {counts[name]}" for name in counts if name == "dense" or name in winners]
    others = [count for name, count in counts.items() if name != "dense" and name not in winners]
    named += [f"other candidates = {_span(others)}"] if others else []
    return f"▾: exponents of -∞, of {len(dense)}: {', '.join(named)}." if any(counts.values()) else ""


def _span(counts: Iterable[int]) -> str:
    low, high = min(found := list(counts)), max(found)
    return str(low) if low == high else f"{low} to {high}"


def _spectra_at(run: Run, epoch: int) -> dict[str, series.Vector]:
    found = {name: series.spectrum(run, name, epoch) for name in run.history.candidates}
    return {name: values for name, values in found.items() if values is not None}


def predictions(run: Run) -> list[Panel]:
    """Early against final values at the first and the last rung; empty below 2 candidates trained to the end."""
    winners, panels = winners_by_network(run), []
    names = {"ls": f"LS distance ({run.plan.distance})", "loss": f"Validation {run.metric.name}"}
    for rung in dict.fromkeys((run.plan.rungs[0], run.plan.rungs[-1])):
        for criterion, name in names.items():
            points = series.scatter(run, rung, criterion)
            if points is not None:
                rho = "too few candidates" if points.rho is None else f"rank correlation {points.rho:+.2f}"
                axes = {"xlabel": f"{name} after epoch {rung}", "ylabel": f"final validation {run.metric.name}"}
                panels.append(
                    Panel(figures.scatter(points, winners, **axes), f"{name}, epoch {rung}: {rho}", criterion)
                )
    return panels


def pareto_view(run: Run, times: Mapping[str, float] | None) -> ParetoView | None:
    """The Pareto view; None below 2 finished networks.

    Args:
        run: the search.
        times: microseconds of a step by network; None: not measured.
    """
    rows = tradeoffs.tradeoffs(run, times)
    if len(rows) < 2:
        return None
    svg = figures.tradeoffs(rows, winners_by_network(run), cost="active", xlabel="active weights")
    return ParetoView(Panel(svg), tradeoffs.table(rows), tradeoffs.meaning(rows), times is not None)


def correlation_table(run: Run) -> Correlations | None:
    """Rank correlations of early values with the final validation loss; None below 4 candidates."""
    found = correlations(run.folder)
    lines, n = pivot(found), max((correlation.n for correlation in found), default=0)
    if not any(correlation.rho is not None for correlation in found):
        return None
    epochs = evenly_spaced({correlation.epoch for correlation in found}, 10)
    values = {name: [each[epoch].rho for epoch in epochs] for name, each in lines.items()}
    best = [
        max((rho for rho in column if rho is not None), default=None) for column in zip(*values.values(), strict=True)
    ]
    rows = []
    for name, row in values.items():
        pairs = enumerate(zip(row, best, strict=True), start=1)
        bold = {column for column, (rho, top) in pairs if rho is not None and rho > 0 and signed(rho) == signed(top)}
        criterion = "loss" if name == "validation loss" else "ls" if name.endswith(f", {run.plan.distance}") else ""
        rows.append(TableRow([name, *map(signed, row)], criterion, frozenset(bold)))
    headings = ["predictor", *(f"epoch {epoch}" for epoch in epochs)]
    return Correlations(Table(headings, rows), n, series.chance(n))


def density(run: Run) -> Density | None:
    """Densities of the winner by tensor and gate, and its churn; None before there is a network to show."""
    name = run.winner or next(iter(run.completed), None)
    found = series.densities(run, name) if name is not None else None
    if name is None or found is None:
        return None
    headings = ["over the whole network", *(f"epoch {epoch}" for epoch in found.epochs)]
    lines = {
        "active weights dropped and regrown in the epoch": found.churn,
        "weights that have been active so far": found.ever_active,
    }
    rows = [TableRow([line, *(f"{100 * value:.1f} %" for value in values)]) for line, values in lines.items()]
    return Density(name, Panel(figures.densities(found)), Table(headings, rows))
