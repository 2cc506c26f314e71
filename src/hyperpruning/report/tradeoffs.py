"""The Pareto view: validation loss against what each finished network costs; terminal and page draw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from hyperpruning.report.blocks import Table, TableRow
from hyperpruning.report.costs import read_costs
from hyperpruning.report.run import Run
from hyperpruning.search.finalists import mean_loss
from hyperpruning.search.history import DENSE, SMALL, candidate_and_seed
from hyperpruning.search.latency import target_microseconds
from hyperpruning.search.pareto import pareto
from hyperpruning.search.scoring import predicted_microseconds

COSTS = ("active", "multiply_adds", "exact_bytes", "int8_bytes", "microseconds")
HEADINGS = dict(zip(COSTS, ("active", "multiply-adds", "exact KiB", "int8 KiB", "us a step"), strict=True))
MOST_ROWS = 12  # of the table, unless more networks are on a frontier
MARK = "*"


@dataclass(frozen=True)
class Tradeoff:
    """What one finished network reaches, and what it costs.

    Attributes:
        network: its name in the run folder.
        label: "dense", "dense, as many weights", or the name of a candidate, with ", winner" for the winner.
        loss: validation loss, nats; of a finalist with several seeds the mean.
        active: active prunable weights.
        multiply_adds, exact_bytes, int8_bytes: see `Costs`; None if they are not known.
        microseconds: of a step of the decoder on the machine of the report; None if it was not measured.
        frontier: the costs, of `COSTS`, with which it is on the Pareto frontier.
    """

    network: str
    label: str
    loss: float
    active: int
    multiply_adds: int | None = None
    exact_bytes: int | None = None
    int8_bytes: int | None = None
    microseconds: float | None = None
    frontier: frozenset[str] = frozenset()


def tradeoffs(run: Run, times: Mapping[str, float] | None = None) -> list[Tradeoff]:
    """The finished networks, best loss first, each with the costs in which it is on the Pareto frontier.

    A network is on the frontier of (validation loss, a cost) if no other finished network is at least as good in both
    and better in one. Networks whose cost is not known are not compared in this cost.

    Args:
        run: the search, finished or not.
        times: microseconds of a step by network; None: not measured.
    """
    stored, rows = read_costs(run.folder), []
    for name, final in run.history.finals.items():
        if candidate_and_seed(name)[1] > 1:
            continue
        known = asdict(stored[final.sha256]) if final.sha256 in stored else {}
        label = {DENSE: "dense", SMALL: "dense, as many weights"}.get(name, name)
        rows.append(
            Tradeoff(
                network=name,
                label=f"{label}, winner" if name == run.winner else label,
                loss=mean_loss(run.plan, run.history, name),
                active=final.active,
                microseconds=(times or {}).get(name),
                **known,
            )
        )
    marked = {cost: _frontier(rows, cost) for cost in COSTS}
    found = [replace(row, frontier=frozenset(cost for cost in COSTS if row.network in marked[cost])) for row in rows]
    return sorted(found, key=lambda row: (row.loss, row.active, row.network))


def _frontier(rows: Sequence[Tradeoff], cost: str) -> set[str]:
    known = [row for row in rows if getattr(row, cost) is not None]
    on = pareto([(row.loss, float(getattr(row, cost))) for row in known])
    return {row.network for row, is_on in zip(known, on, strict=True) if is_on}


def in_the_table(rows: Sequence[Tradeoff]) -> list[Tradeoff]:
    """The rows of the table: all; of many those on some frontier, the dense networks and the winner."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    return [row for row in rows if row.frontier or row.network in (DENSE, SMALL) or row.label != row.network]


def headings(rows: Sequence[Tradeoff]) -> list[str]:
    """The headings of the table: a cost that no network has is left out."""
    costs = [HEADINGS[cost] for cost in COSTS if any(getattr(row, cost) is not None for row in rows)]
    return ["network", "valid loss", *costs]


def cells(row: Tradeoff, headings: Sequence[str]) -> list[str]:
    """The texts of a row under some headings."""
    found = [row.label, f"{row.loss:.4f}"]
    return found + [_number(cost, getattr(row, cost)) for cost in COSTS if HEADINGS[cost] in headings]


def is_marked(row: Tradeoff, headings: Sequence[str]) -> list[bool]:
    """Whether the network is on the frontier of the cost in each column."""
    return [False, False] + [cost in row.frontier for cost in COSTS if HEADINGS[cost] in headings]


def _number(cost: str, value: float | None) -> str:
    if value is None:
        return ""
    if cost.endswith("bytes"):
        value /= 1024
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.1f}" if cost == "microseconds" else f"{value:,}"


def table(rows: Sequence[Tradeoff]) -> Table:
    """The table of the page; what is on a frontier is bold and has a mark."""
    shown, names = in_the_table(rows), headings(rows)
    found = []
    for row in shown:
        marked = is_marked(row, names)
        texts = [f"{text} {MARK}" if on else text for text, on in zip(cells(row, names), marked, strict=True)]
        found.append(TableRow(texts, bold=frozenset(column for column, on in enumerate(marked) if on)))
    return Table(names, found)


def latency_said(run: Run, times: Mapping[str, float] | None = None) -> str:
    """The latency target, what the winner is predicted to take and, if measured, takes; "" without a target."""
    plan = run.plan
    if plan.latency is None or plan.step_times is None:
        return ""
    target, dense = target_microseconds(plan.latency, plan.step_times), plan.step_times.dense
    said = (
        f"Latency target {plan.latency}: {target:.3g} us a step of the decoder ({plan.latency_precision}), batch 1; "
        f"the dense network took {dense:.3g} us before the search."
    )
    if run.winner is None:
        return said
    predicted = predicted_microseconds(plan, run.history, run.winner, run.history.finals[run.winner].best_epoch)
    said += f" The winner, {run.winner}, is predicted to take {predicted:.3g} us"
    if times is None or run.winner not in times:
        return f"{said}."
    now = f", the dense network {times[DENSE]:.3g} us" if DENSE in times else ""
    return f"{said}, and takes {times[run.winner]:.3g} us here and now{now}."


def meaning(rows: Sequence[Tradeoff]) -> str:
    """What the marks mean, and how many networks the table leaves out."""
    said = (
        f"{MARK}: on the Pareto frontier: no other finished network is at least as good in validation loss and in this "
        "cost, and better in one of them."
    )
    left = len(rows) - len(in_the_table(rows))
    return f"{said} {left} more finished networks are on no frontier." if left else said
