"""The building blocks of the page as plain data; report/templates/ turns them into HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One figure of the page.

    Attributes:
        svg: an <svg> element from report/figures.py.
        title: above it; "" for none.
        criterion: the criterion in whose colour the title is; "" for none.
        note: a sentence below it; "" for none.
    """

    svg: str
    title: str = ""
    criterion: str = ""
    note: str = ""


@dataclass(frozen=True)
class LegendEntry:
    """What one kind of line in the figures means.

    Attributes:
        label: its meaning.
        colour: of the line, a CSS colour.
        dashed: whether the line is dashed.
    """

    label: str
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        cells: their texts.
        criterion: the criterion in whose colour the row is; "" for none.
        bold: the columns whose cells are bold, counted from 0.
    """

    cells: Sequence[str]
    criterion: str = ""
    bold: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        headings: of the columns.
        rows: each with as many cells as there are headings.
        text_columns: how many columns, from the left, hold text; the others hold numbers.
    """

    headings: Sequence[str]
    rows: Sequence[TableRow]
    text_columns: int = 1


@dataclass(frozen=True)
class Tile:
    """A large number with its meaning.

    Attributes:
        value: the number as text.
        meaning: in a few words.
        criterion: the criterion in whose colour the number is; "" for none.
    """

    value: str
    meaning: str
    criterion: str = ""
