"""Several searches side by side: a table for the terminal, and an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich import table as rich_table

from hyperpruning.files import write_atomic
from hyperpruning.report.blocks import Table, TableRow
from hyperpruning.report.page import render
from hyperpruning.report.run import read_run
from hyperpruning.search.history import DENSE
from hyperpruning.search.ledger import compare as differences
from hyperpruning.training.record import Metric

HEADINGS = ("run", "winner", "method", "sparsity", "active", "valid", "test", "dense test", "epochs trained")
TEXT = 3  # of the headings, whose columns are text


@dataclass(frozen=True)
class Search:
    """The result of a search.

    Attributes:
        run: its folder.
        settings: the identity in its ledger.
        metric: of its task.
        winner: its network; None before it is known.
        method: of the winner, in words.
        sparsity: fraction of zero weights over the prunable weights.
        active: active prunable weights of the winner.
        valid, test: the metric of the winner.
        dense_test: the metric of the dense reference; None without one.
        epochs: trained by all networks together.
    """

    run: Path
    settings: dict[str, object]
    metric: Metric
    winner: str | None
    method: str
    sparsity: float
    active: int | None
    valid: float | None
    test: float | None
    dense_test: float | None
    epochs: int


def compare(folders: Sequence[Path]) -> list[Search]:
    """The results of several searches, in the order of their folders.

    Raises:
        RunFolderError: a folder holds no search.
    """
    return [_search(folder) for folder in folders]


def _search(folder: Path) -> Search:
    run = read_run(folder)
    final = None if run.winner is None else run.history.finals[run.winner]
    dense = run.history.finals.get(DENSE)
    return Search(
        run=folder,
        settings=dict(run.header.identity),
        metric=run.metric,
        winner=run.winner,
        method="" if run.winner is None else run.method(run.winner),
        sparsity=run.plan.sparsity if final is None else 1 - final.active / (run.prunable or final.active),
        active=None if final is None else final.active,
        valid=None if final is None else run.valid(final),
        test=None if final is None else run.test(final),
        dense_test=None if dense is None else run.test(dense),
        epochs=run.history.trained_epochs(),
    )


def notes(searches: Sequence[Search]) -> list[str]:
    """What a reader must know: other metrics, and how the settings differ from those of the first search."""
    found = []
    if len({search.metric.name for search in searches}) > 1:
        found.append("The metrics differ, so that valid and test cannot be compared.")
    for search in searches[1:]:
        changed = differences(searches[0].settings, search.settings)
        said = "; ".join(one.replace(" in the ledger and ", " and ").removesuffix(" now") for one in changed[:8])
        more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
        found.append(f"{searches[0].run} and {search.run}: {said or 'the same settings'}{more}.")
    return found


def cells(search: Search) -> tuple[str, ...]:
    """A row of the table as text."""
    numbers = ["" if one is None else f"{one:.2f}" for one in (search.valid, search.test, search.dense_test)]
    return (
        str(search.run),
        search.winner or "none yet",
        search.method,
        f"{100 * search.sparsity:.2f} %",
        "" if search.active is None else f"{search.active:,}",
        *numbers,
        str(search.epochs),
    )


def comparison_table(searches: Sequence[Search]) -> rich_table.Table:
    """The searches for a terminal; valid and test are the task's metric."""
    table = rich_table.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if column < TEXT else "right", overflow="fold")
    for search in searches:
        table.add_row(*cells(search))
    return table


def write_comparison(searches: Sequence[Search], path: Path) -> Path:
    """Write the HTML page.

    Returns:
        its path.
    """
    rows = [TableRow(cells(search)) for search in searches]
    metric = ", ".join(sorted({search.metric.name for search in searches}))
    page = render(
        "compare.html.j2", table=Table(HEADINGS, rows, text_columns=TEXT), notes=notes(searches), metric=metric
    )
    write_atomic(path, page.encode())
    return path
