"""The tables of a terminal at 110, 80 and 60 columns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from hyperpruning.report.tables import HEADINGS, cells, correlations, results, signed
from hyperpruning.report.terminal import correlations_table, results_table, shortened

Invent = Callable[..., Path]
WIDTHS = (110, 80, 60)


def printed(renderable: RenderableType, width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_of_the_results_is_printed_whole(train_all: Path, width: int) -> None:
    rows = [replace(row, size=123_456_789) for row in results(train_all)]
    rows = [*rows, replace(rows[0], label="dense, as many weights", network="small", valid=12345.678, active=12345678)]
    text = printed(results_table(rows), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in rows:
        texts = dict(zip(HEADINGS, cells(row), strict=True))
        for heading in HEADINGS[2:]:
            assert texts[heading] in text, heading
    assert {word for heading in HEADINGS for word in heading.split()} <= set(text.split())
    first, *others = re.split("^ network", text, flags=re.MULTILINE)[1:]
    assert len(others) <= 2
    assert {"valid", "test"} <= set(first.split())
    assert re.search(r"f = 0\.\d", text)  # on one line


def test_a_terminal_that_is_wide_enough_has_each_network_in_one_line(train_all: Path) -> None:
    rows = results(train_all)
    text = printed(results_table(rows), 160)
    assert all(cells(row)[1] in text for row in rows)
    assert len(text.strip().splitlines()) == 3 + len(rows)  # of the heading: two lines and a rule


@pytest.mark.parametrize("width", WIDTHS)
def test_correlations_leave_out_epochs_rather_than_digits(invent: Invent, width: int) -> None:
    found = correlations(invent(train_all=True, spectra_until=None))
    text = printed(correlations_table(found), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    epochs = [int(epoch) for epoch in re.findall(r"e=(\d+)", text)]
    assert len(epochs) == {110: 8, 80: 8, 60: 5}[width]
    assert epochs[0] == 1
    assert epochs[-1] == 9
    shown = [one for one in found if one.predictor == "validation loss" and one.epoch in epochs]
    assert " ".join(signed(one.rho) for one in shown) in " ".join(text.split())


def test_a_text_is_shortened_between_its_parts() -> None:
    assert shortened("er, random, f = 0.35", 20) == "er, random, f = 0.35"
    assert shortened("er, random, f = 0.35", 19) == "er, random, …"
    assert shortened("er, random, f = 0.35", 8) == "er, …"
    assert shortened("er, random, f = 0.35", 2) == "…"
