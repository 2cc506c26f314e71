"""The Pareto view: which networks are marked, and how terminal and page show it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_terminal import printed

from hyperpruning.report import panels, tradeoffs
from hyperpruning.report.costs import Costs, write_costs
from hyperpruning.report.run import read_run
from hyperpruning.report.terminal import tradeoffs_table
from hyperpruning.report.tradeoffs import COSTS, HEADINGS, MOST_ROWS, Tradeoff, in_the_table, meaning

Invent = Callable[..., Path]
ROW = Tradeoff("c01", "c01", 1.5, 66_000_000, 66_123_456, 270_000_000, 68_000_000, 12345.6, frozenset(COSTS))


@pytest.fixture(scope="module")
def rows(train_all: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Tradeoff]:
    """Of a search whose costs are known, except those of c03."""
    folder = tmp_path_factory.mktemp("costs")
    (folder / "ledger.jsonl").write_bytes((train_all / "ledger.jsonl").read_bytes())
    finals = read_run(folder).history.finals
    sizes = {name: final.active + 7 * index for index, (name, final) in enumerate(finals.items())}
    costs = {finals[name].sha256: Costs(size, 5 * size, 2 * size) for name, size in sizes.items() if name != "c03"}
    write_costs(folder, costs)
    return tradeoffs.tradeoffs(read_run(folder), {"dense": 9.0, "c01": 8.0, "c02": 8.5})


def test_a_network_is_marked_if_no_other_is_at_least_as_good_in_both_and_better_in_one(rows: list[Tradeoff]) -> None:
    assert [row.loss for row in rows] == sorted(row.loss for row in rows)
    assert {"dense", *(f"c{number:02d}" for number in range(1, 13))} == {row.network for row in rows}
    for cost in COSTS:
        known = {row.network: (row.loss, getattr(row, cost)) for row in rows if getattr(row, cost) is not None}
        best = {
            name
            for name, (a, b) in known.items()
            if not any(x <= a and y <= b and (x, y) != (a, b) for x, y in known.values())
        }
        assert best == {row.network for row in rows if cost in row.frontier}
        assert best
    missing = next(row for row in rows if row.network == "c03")
    assert (missing.multiply_adds, missing.exact_bytes, missing.microseconds) == (None, None, None)
    assert missing.frontier <= {"active"}


def test_of_many_networks_the_table_has_those_on_a_frontier_and_what_they_are_compared_with(
    rows: list[Tradeoff],
) -> None:
    assert len(rows) == MOST_ROWS + 1
    shown = in_the_table(rows)
    assert {row.network for row in rows if row.frontier} | {"dense"} <= {row.network for row in shown}
    assert sum("winner" in row.label for row in shown) == 1
    assert f"{len(rows) - len(shown)} more finished networks are on no frontier." in meaning(rows)
    assert len(in_the_table(rows[:MOST_ROWS])) == MOST_ROWS
    assert "more" not in meaning(rows[:MOST_ROWS])


@pytest.mark.parametrize("width", [110, 80])
def test_a_terminal_shows_every_number_whole(rows: list[Tradeoff], width: int) -> None:
    text = printed(tradeoffs_table([*rows[:4], ROW, replace(ROW, label="dense, as many weights", loss=12.3456)]), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for number in ("66,000,000*", "66,123,456*", "263,672*", "66,406*", "12345.6*", "12.3456", "multiply-adds"):
        assert number in text
    assert {"dense,", "as", "many", "weights"} <= set(text.split())


def test_a_cost_that_no_network_has_is_left_out(train_all: Path) -> None:
    rows = tradeoffs.tradeoffs(read_run(train_all))
    assert tradeoffs.headings(rows) == ["network", "valid loss", "active"]
    assert "multiply-adds" not in printed(tradeoffs_table(rows), 80)


def test_the_page_has_a_figure_and_a_table(page: str, rows: list[Tradeoff], train_all: Path) -> None:
    section = re.search("<h2>Loss against cost</h2>.*?</section>", page, re.DOTALL)
    assert section is not None
    assert section[0].count("<svg") == 1
    assert "multiply-adds" not in section[0]
    assert "us a step" not in section[0]
    table = tradeoffs.table(rows)
    assert list(table.headings) == ["network", "valid loss", *HEADINGS.values()]
    for row, shown in zip(in_the_table(rows), table.rows, strict=True):
        assert {column for column, text in enumerate(shown.cells) if text.endswith(" *")} == shown.bold
        assert len(shown.bold) == len(row.frontier)
    timed = panels.pareto_view(read_run(train_all), {"dense": 3.0})
    assert timed is not None
    assert timed.timed


def test_one_finished_network_is_compared_with_nothing(invent: Invent) -> None:
    assert panels.pareto_view(read_run(invent(until="pool")), None) is None
