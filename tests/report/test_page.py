from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from invented import SCOPES

from hyperpruning.report.figures import spectra_figure
from hyperpruning.report.markup import code, escape, table
from hyperpruning.report.page import report, write_report
from hyperpruning.report.tables import cells, results, verdict

Invent = Callable[..., Path]
VOID = {"meta", "link", "br"}


class Checker(HTMLParser):
    """Tags that close, ids that are there once, headings in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.alone: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [value for name, value in values.items() if name in ("src", "href", "xlink:href")]
        if tag == "svg" and not (values.get("role") == "img" and values.get("aria-label")):
            self.alone.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    checked = Checker(page)
    assert checked.open == []
    assert checked.alone == []  # every figure says what it shows
    assert len(checked.ids) == len(set(checked.ids))
    assert all(address.startswith(("#", "data:")) for address in checked.addresses)
    assert {address[1:] for address in checked.addresses if address.startswith("#")} <= set(checked.ids)
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#{name}" for name in checked.ids}
    assert set(re.findall(r"https?://[^\s\"'<]*", page)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert "<script" not in page
    assert page.count("<svg") == 3 + 2 + 3 + 4 + 1


def test_the_page_and_the_terminal_have_the_same_numbers(train_all: Path, page: str) -> None:
    rows = results(train_all)
    assert escape(verdict(rows)) in page
    for row in rows:
        for cell in cells(row):
            assert escape(cell) in page


def test_sections_stand_in_order(train_all: Path, page: str) -> None:
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Results",
        "The winner, and how to load it",
        "What was searched",
        "Who stayed in",
        "Perplexity",
        "Lyapunov spectra",
        "What could be known early",
        "Where the weights are",
        "Epochs and time",
        "To repeat it",
    ]
    assert "not finished" not in page
    assert "winner.safetensors" in page
    assert hashlib.sha256((train_all / "ledger.jsonl").read_bytes()).hexdigest() in page
    assert "69 epochs, 58&nbsp;%" in page  # saved by one judge: 120 - 51


@pytest.mark.parametrize("until", ["header", "pool", "rounds"])
def test_the_page_of_an_unfinished_search_says_what_is_missing(invent: Invent, until: str) -> None:
    page = report(invent(until=until))
    assert Checker(page).open == []
    assert "This search is not finished" in page
    assert "No network is trained to the end yet." in page


@pytest.mark.parametrize(
    "settings",
    [
        {"failing": ("c03", "c04"), "train_all": True, "distance": "wasserstein"},
        {"criteria": ["loss"], "n_candidates": 4, "keep": [3, 1], "train": {"epochs": 4, "seed": 0}},
        {"criteria": ["ls", "loss"], "rungs": [0, 4], "spectra_until": None},
    ],
    ids=["diverged", "one judge, one finalist", "rung 0"],
)
def test_pages_of_other_searches(invent: Invent, settings: dict[str, object]) -> None:
    page = report(invent(**settings))
    assert Checker(page).open == []
    assert "NaN" not in page


def test_the_same_run_gives_the_same_file_and_leaves_matplotlib_as_it_was(train_all: Path, page: str) -> None:
    before = dict(mpl.rcParams)
    path = write_report(train_all)
    assert path == train_all / "report.html"
    assert path.read_text(encoding="utf-8") == page
    assert dict(mpl.rcParams) == before


def test_what_comes_from_files_is_escaped(invent: Invent) -> None:
    space = {"allocation": ["<b>er</b>"], "drop_scope": list(SCOPES)}
    page = report(invent("<i>run", until="header", space=space))
    assert "<b>er" not in page
    assert "<i>run" not in page
    assert "&lt;i&gt;run" in page


def test_building_blocks_escape() -> None:
    assert escape('<a href="x">&</a>') == "&lt;a href=&quot;x&quot;&gt;&amp;&lt;/a&gt;"
    assert escape("f = 0.5, 80 %") == "f&nbsp;=&nbsp;0.5, 80&nbsp;%"
    assert "x = 1" in code("x = 1")  # can be copied as it stands
    assert "<td>&lt;" in table(["<h>"], [["<c>"]]).replace(' data-label="&lt;h&gt;"', "")


def test_a_figure_of_spectra_can_be_saved(tmp_path: Path) -> None:
    spectra = {Path("a"): [-1.0, 0.1, -np.inf], "b": [-0.5, -2.0, -3.0]}
    spectra_figure(spectra, {name: [0.1] * len(values) for name, values in spectra.items()}).savefig(
        tmp_path / "spectra.svg"
    )
    assert (tmp_path / "spectra.svg").read_text().count("<svg") == 1
