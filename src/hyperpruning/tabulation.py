"""Rows as a table for pandas and for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A pandas DataFrame of rows; a value that a row lacks is missing.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError("pandas must be installed for to_frame(), got none. Run: pip install pandas") from None
    return pandas.DataFrame([dict(row) for row in rows])


def html_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a notebook; all texts are escaped."""

    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<p>{html.escape(title)}</p><table><thead>{row(headings, 'th')}</thead><tbody>{body}</tbody></table>"
