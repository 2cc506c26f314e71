"""The verdict of a search in a few sentences: what its numbers show, and what can be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hyperpruning.report.components import join_names
from hyperpruning.report.tables import BEST_OF_ALL, Row
from hyperpruning.search.history import DENSE, SMALL
from hyperpruning.search.stopping import tail_of_t
from hyperpruning.training.record import shown

LEVEL = 0.025  # of each side of a 95 % interval


@dataclass(frozen=True)
class Scatter:
    """How test metrics scatter over seeds, pooled over networks that have several.

    Attributes:
        deviation: standard deviation of one training.
        freedom: degrees of freedom of its estimate.
        networks: number of networks.
        seeds: number of their trainings.
    """

    deviation: float
    freedom: int
    networks: int
    seeds: int

    def half_width(self, row: Row, reference: Row) -> float:
        """Half of the 95 % interval of the difference of two networks' means; one seed is taken to scatter as much."""
        parts = sum(1 / max(1, len(each.tests)) for each in (row, reference))
        return _bound_of_t(self.freedom) * self.deviation * math.sqrt(parts)


def scatter(rows: Sequence[Row]) -> Scatter | None:
    """The scatter over seeds; None if no network has several."""
    networks = {row.network: row.tests for row in rows if len(row.tests) > 1}
    seeds = sum(map(len, networks.values()))
    freedom = seeds - len(networks)
    if not freedom:
        return None
    squares = sum((one - sum(tests) / len(tests)) ** 2 for tests in networks.values() for one in tests)
    return Scatter(math.sqrt(squares / freedom), freedom, len(networks), seeds)


def _bound_of_t(freedom: int) -> float:
    """The value that Student's t exceeds with the probability `LEVEL`, by bisection.

    >>> round(_bound_of_t(6), 2), round(_bound_of_t(1), 2)
    (2.45, 12.71)
    """
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tail_of_t(middle, freedom) > LEVEL else (low, middle)
    return low


def verdict(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The result of the search in a few sentences.

    Args:
        rows: the results.
        notes: what a reader must know first, see `Run.notes`.
    """
    chosen = next((row for row in rows if row.why), None)
    if chosen is None:
        return " ".join([*notes, "The search has no winner yet."])
    selected = [row.label.removeprefix("by ") for row in rows if row.criteria and row.network == chosen.network]
    by = f", selected by {join_names(selected)}" if selected else ""
    first = f"The winner is {chosen.network}{by} (test {chosen.metric.name} {shown(chosen.test)}): {chosen.why}."
    seeds = scatter(rows)
    return " ".join([*notes, first, *_compared(rows, chosen, seeds), *_effort(chosen), _chance(seeds)])


def _compared(rows: Sequence[Row], chosen: Row, seeds: Scatter | None) -> list[str]:
    """The winners of the two simple criteria, and the winner beside the dense networks and the best of all."""
    by_criterion = {criterion: row for row in rows for criterion in row.criteria}
    by_label = {row.label: row for row in rows}
    by_network = {row.network: row for row in rows}
    said = []
    if "ls" in by_criterion and "loss" in by_criterion:
        said.append(_ls_and_loss(by_criterion["ls"], by_criterion["loss"], seeds))
    if DENSE in by_network:
        share = f"{100 * chosen.sparsity:.1f} % of its weights zero"
        compared = _comparison(chosen, by_network[DENSE], "the dense network", seeds)
        said.append(f"With {share}, the winner is {compared}.")
    if SMALL in by_network:
        other = f"a dense network with as many weights ({by_network[SMALL].active:,} of {chosen.active:,})"
        said.append(f"It is {_comparison(chosen, by_network[SMALL], other, seeds)}.")
    best = by_label.get(BEST_OF_ALL)
    if best is not None and best.network != chosen.network:
        said.append(f"It is {_comparison(chosen, best, f'the best of all candidates, {best.network}', seeds)}.")
    return said


def _effort(chosen: Row) -> list[str]:
    """The epochs of a search by one criterion, and of training all candidates."""
    if not chosen.spent or not chosen.full:
        return []
    times = chosen.full / chosen.spent
    search = f"A search by one criterion trains {chosen.spent} epochs"
    said = f"{search}; all candidates to the end take {times:.1f} times as many, {chosen.full}"
    if chosen.place is not None:
        said = (
            f"Among all candidates trained to the end, it is number {chosen.place} of {chosen.of} by validation loss. "
            f"{search.removesuffix(' epochs')} of their {chosen.full} epochs, {times:.1f} times fewer, without the "
            "dense network"
        )
    seeds = f"; further seeds of its finalists take {chosen.seed_epochs} more" if chosen.seed_epochs else ""
    return [f"{said}{seeds}."]


def _chance(seeds: Scatter | None) -> str:
    if seeds is None:
        return "This is one run with one seed: small differences can be chance."
    return (
        "Numbers of finalists are means over seeds, with the lowest and the highest in brackets. Intervals (±, 95 %) "
        f"are from the scatter over seeds in {seeds.seeds} trainings of {seeds.networks} finalists; networks with one "
        "seed are taken to scatter as much. Other texts and settings are not in them."
    )


def _ls_and_loss(ls: Row, loss: Row, seeds: Scatter | None) -> str:
    if ls.network == loss.network:
        said = f"test {ls.metric.name} {shown(ls.test)}"
        return f"LS distance and validation loss selected the same network, {ls.network} ({said})."
    return f"The winner by LS distance is {_comparison(ls, loss, 'the winner by validation loss', seeds)}."


def _comparison(row: Row, reference: Row, other: str, seeds: Scatter | None) -> str:
    """ "better than X: test perplexity 4.60 against 4.70", the difference as it is printed, and its interval."""
    gap = float(shown(row.test)) - float(shown(reference.test))
    numbers = f"test {row.metric.name} {shown(row.test)} against {shown(reference.test)}"
    if row.test == reference.test or gap == 0:
        return f"as good as {other} ({numbers})"
    small, half = min(row.test, reference.test) < 1, None if seeds is None else seeds.half_width(row, reference)
    size, interval = ("" if one is None else f"{one:.3g}" if small else f"{one:.2f}" for one in (abs(gap), half))
    said = f"{numbers}, {size}{f' ± {interval}' if interval else ''} {'lower' if gap < 0 else 'higher'}"
    if half is not None and abs(row.test - reference.test) <= half:
        return f"not shown to differ from {other}: {said}"
    return f"{'better' if row.metric.better(row.test, reference.test) else 'worse'} than {other}: {said}"
