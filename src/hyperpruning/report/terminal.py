"""The tables of a terminal, drawn for its width: numbers are never cut, and no column of the results is left out."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from hyperpruning.report.tables import HEADINGS, TEXT, Correlation, Row, cells, pivot, signed
from hyperpruning.report.tradeoffs import MARK, Tradeoff, headings, in_the_table, is_marked
from hyperpruning.report.tradeoffs import cells as row_cells
from hyperpruning.search.replay import Summary

WIDEST = {"network": 26, "method": 24}  # a narrower terminal gets a second table rather than narrower columns of text
NARROWEST = {"network": 12, "method": 16}
NARROWEST_LABEL = 8  # of the Pareto view
GAP = 2  # characters between columns
EDGES = 1  # characters at the left edge and at the right, without one gap
FIRST = ("valid", "test")  # the numbers that the first of several tables has


@dataclass(frozen=True)
class Fitted:
    """Something that is drawn for the width of the terminal.

    Attributes:
        draw: (width in characters) -> what is printed.
    """

    draw: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it, as rich asks for."""
        yield self.draw(options.max_width)


def results_table(rows: Sequence[Row]) -> RenderableType:
    """The results for a terminal; valid and test are the task's metric.

    If a terminal is too narrow for all columns, the rest follows in further tables, each with the column "network".
    """
    printed = [dict(zip(HEADINGS, cells(row), strict=True)) for row in rows]
    shown = [heading for heading in HEADINGS if any(row[heading] for row in printed) or heading in TEXT]
    return Fitted(lambda width: Group(*(_part(part, printed, width) for part in _parts(shown, printed, width))))


def _parts(headings: Sequence[str], rows: Sequence[Mapping[str, str]], width: int) -> list[list[str]]:
    """The headings of each table that fits the width."""
    sizes = {heading: _least(heading, rows) for heading in headings}
    if _total(headings, sizes) <= width:
        return [list(headings)]
    parts = [list(TEXT)]
    for heading in sorted((one for one in headings if one not in TEXT), key=lambda one: one not in FIRST):
        if _total([*parts[-1], heading], sizes | NARROWEST) > width and len(parts[-1]) > 1:
            parts.append([TEXT[0]])
        parts[-1].append(heading)
    return [sorted(part, key=HEADINGS.index) for part in parts]


def _least(heading: str, rows: Sequence[Mapping[str, str]]) -> int:
    """The least width of a column; a heading may wrap, a number may not."""
    longest = max((len(row[heading]) for row in rows), default=0)
    return max(max(map(len, heading.split())), min(longest, WIDEST.get(heading, longest)))


def _total(headings: Sequence[str], sizes: Mapping[str, int]) -> int:
    return EDGES + sum(sizes[heading] + GAP for heading in headings)


def _part(headings: Sequence[str], rows: Sequence[Mapping[str, str]], width: int) -> Table:
    table, sizes = _table(), {heading: _least(heading, rows) for heading in headings}
    sizes |= _text_sizes([one for one in headings if one in TEXT], sizes, rows, width)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in TEXT else "right", width=sizes[heading])
    for row in rows:
        table.add_row(*(Text(_wrapped(row[heading], sizes[heading]), no_wrap=True) for heading in headings))
    return table


def _text_sizes(
    texts: Sequence[str], sizes: Mapping[str, int], rows: Sequence[Mapping[str, str]], width: int
) -> dict[str, int]:
    """The widths of the columns of text in what the numbers leave; the first one gets what it needs, at most half."""
    left = width - _total(list(sizes), dict(sizes) | dict.fromkeys(texts, 0))
    found: dict[str, int] = {}
    for number, heading in enumerate(texts, start=1):
        longest = max([len(heading), *(len(row[heading]) for row in rows)])
        least = NARROWEST[heading]
        found[heading] = min(longest, max(least, (left - sum(found.values())) // (1 + len(texts) - number)))
    return found


def _wrapped(text: str, width: int) -> str:
    """The text in lines of at most a width; "f = 0.5" stays in one line."""
    kept = text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    return "\n".join(textwrap.wrap(kept, width)).replace("\N{NO-BREAK SPACE}", " ")


def correlations_table(found: Sequence[Correlation], columns: int = 8) -> RenderableType:
    """The correlations for a terminal, with the distance of this search only, at the first epochs and the last.

    Args:
        found: the correlations.
        columns: most epochs to show; as many as fit the terminal.
    """
    by_predictor = pivot(found)
    distances = [predictor for predictor in by_predictor if predictor.startswith("LS ")]
    shown = {name: by_epoch for name, by_epoch in by_predictor.items() if name not in distances[1:]}
    epochs = sorted({correlation.epoch for correlation in found if correlation.epoch > 0})
    label, number = max(map(len, [*shown, "rank correlation"])), max(map(len, [*map(_epoch, epochs), "+0.00"]))

    def draw(width: int) -> Table:
        most = max(1, min(columns, (width - label - GAP - EDGES) // (number + GAP)))
        drawn = epochs if len(epochs) <= most else [*epochs[: most - 1], epochs[-1]]
        table = _table()
        table.add_column("rank correlation with the end", min_width=label)
        for epoch in drawn:
            table.add_column(_epoch(epoch), justify="right", no_wrap=True, width=number)
        for predictor, by_epoch in shown.items():
            table.add_row(predictor, *(signed(by_epoch[epoch].rho) for epoch in drawn))
        return table

    return Fitted(draw)


def _epoch(epoch: int) -> str:
    return f"e={epoch}"


def tradeoffs_table(rows: Sequence[Tradeoff]) -> RenderableType:
    """The Pareto view for a terminal; what is on a frontier has a mark."""
    names, lines = headings(rows), []
    for row in in_the_table(rows):
        pairs = zip(row_cells(row, names), is_marked(row, names), strict=True)
        lines.append([text + (MARK if on else " ") if column > 1 else text for column, (text, on) in enumerate(pairs)])
    columns = list(zip(names, *lines, strict=True))
    label = max(map(len, columns[0]))
    sizes = [max(map(len, [*heading.split(), *texts])) for heading, *texts in columns[1:]]  # a heading may wrap

    def draw(width: int) -> Table:
        table, left = _table(), width - EDGES - GAP - sum(size + GAP for size in sizes)
        for heading, size in zip(names, [min(label, max(NARROWEST_LABEL, left)), *sizes], strict=True):
            table.add_column(heading, justify="right" if table.columns else "left", width=size)
        for line in lines:
            table.add_row(*(Text(text, no_wrap=column > 0) for column, text in enumerate(line)))
        return table

    return Fitted(draw)


def replayed(found: Sequence[Summary]) -> RenderableType:
    """The regret of each criterion in replayed searches of one table."""
    table = _table()
    for heading in (f"{found[0].table}: criterion", "epochs", "regret", "95 % interval", "best found"):
        table.add_column(heading, justify="right" if table.columns else "left", no_wrap=bool(table.columns))
    for one in found:
        interval = f"{one.low:.2f} to {one.high:.2f}"
        table.add_row(one.criterion, f"{one.epochs:.0f}", f"{one.regret:.2f}", interval, f"{100 * one.best:.0f} %")
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def shortened(text: str, width: int) -> str:
    """The parts between commas that fit the width, so that no name and no number is cut.

    >>> shortened("er, magnitude, random, none, f = 0.35", 24)
    'er, magnitude, random, …'
    """
    parts = text.split(", ")
    texts = (", ".join([*parts[:count], "…"]) for count in reversed(range(len(parts))))
    return text if len(text) <= width else next((one for one in texts if len(one) <= width), "…")
