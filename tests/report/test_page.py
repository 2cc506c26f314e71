from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import invented
import matplotlib as mpl
import numpy as np
import pytest
from invented import SCOPES

from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.report.components import COMPONENTS as MEANINGS
from hyperpruning.report.components import CRITERIA as CRITERION_MEANINGS
from hyperpruning.report.components import CRITERION_NAMES, LATENCY, NUMBERS, described, described_criteria, meaning
from hyperpruning.report.components import DISTANCES as DISTANCE_MEANINGS
from hyperpruning.report.components import SAMPLERS as SAMPLER_MEANINGS
from hyperpruning.report.drawing import with_id_prefix
from hyperpruning.report.figures import spectra_figure
from hyperpruning.report.page import accent, nbsp, report, write_report
from hyperpruning.report.panels import averaging
from hyperpruning.report.run import read_run
from hyperpruning.report.series import averaging_begins
from hyperpruning.report.status import status
from hyperpruning.report.tables import cells, results
from hyperpruning.report.verdict import verdict
from hyperpruning.search.criteria import CRITERIA
from hyperpruning.search.ledger import LEDGER, RunFolderError, _check
from hyperpruning.search.samplers import SAMPLERS
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import COMPONENTS
from hyperpruning.training.averaging import non_monotone
from hyperpruning.training.record import EpochRecord

Invent = Callable[..., Path]
VOID = {"meta", "link", "br"}
HOSTILE = '"><script>alert(1)</script>'


class Checker(HTMLParser):
    """Tags that close, ids, addresses, classes, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.alone: list[str] = []
        self.classes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.classes |= set(values.get("class", "").split())
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

    def handle_data(self, data: str) -> None:
        self.text += data

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
    assert page.count("<svg") == 1 + 3 + 2 + 3 + 4 + 1


def test_the_page_and_the_terminal_have_the_same_numbers(train_all: Path, page: str) -> None:
    rows = results(train_all)
    text = Checker(page).text
    assert nbsp(verdict(rows)) in text
    for row in rows:
        for cell in cells(row):
            assert nbsp(cell) in text


def test_sections_stand_in_order(train_all: Path, page: str) -> None:
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Results",
        "Loss against cost",
        "Winner",
        "Search setup",
        "Elimination by rounds",
        "Validation perplexity",
        "Lyapunov spectra",
        "Early prediction of the final result",
        "Density by tensor and gate",
        "Cost",
        "Reproducibility",
    ]
    assert "not finished" not in page
    assert "winner.safetensors" in page
    assert hashlib.sha256((train_all / "ledger.jsonl").read_bytes()).hexdigest() in page
    assert nbsp("69 epochs, 58 %") in page  # saved by one criterion: 120 - 51


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
    ids=["diverged", "one criterion, one finalist", "rung 0"],
)
def test_pages_of_other_searches(invent: Invent, settings: dict[str, object]) -> None:
    page = report(invent(**settings))
    assert Checker(page).open == []
    assert "NaN" not in page


@pytest.mark.parametrize("losses", ["one", "all"])
def test_infinite_values_are_left_out_of_the_figures(
    invent: Invent, monkeypatch: pytest.MonkeyPatch, losses: str
) -> None:
    real = invented.epoch_record

    def record(index: int | None, epoch: int, *words: Any, **options: Any) -> EpochRecord:
        found = real(index, epoch, *words, **options)
        if losses == "one" and index not in (None, 5):
            return found
        return replace(found, valid_loss=found.valid_loss + 1e6, spectrum=(None,) * len(found.spectrum))

    monkeypatch.setattr(invented, "epoch_record", record)
    page = report(invent(train_all=True))
    assert Checker(page).open == []
    assert "inf" in page
    assert "nan" not in page.replace("dominant", "")


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


def forged(folder: Path, names: dict[str, str]) -> Path:
    """Replace strings in a ledger, with checksums that are right."""
    lines = (folder / LEDGER).read_text().splitlines()
    (folder / LEDGER).unlink()
    for line in lines:
        for name, replacement in names.items():
            line = line.replace(json.dumps(name), json.dumps(replacement))
        values = {key: value for key, value in json.loads(line).items() if key != "check"}
        with (folder / LEDGER).open("a") as file:
            file.write(json.dumps(values | {"check": _check(values)}) + "\n")
    return folder


def test_hostile_words_become_text(invent: Invent, page: str) -> None:
    folder = invent(train_all=True, failing=("c03",))
    words = {"A loss is finite <and> was nan.": HOSTILE, "sign": f"sign{HOSTILE}", "uniform": "'</style></svg> $x$ id="}
    attacked = report(forged(folder, words))
    checked, harmless = Checker(attacked), Checker(page)
    assert "<script" not in attacked.lower()
    assert HOSTILE in checked.text
    assert checked.open == []
    assert checked.classes <= harmless.classes | {"missing"}
    assert len(checked.ids) == len(set(checked.ids))
    assert attacked.count("<svg") == page.count("<svg")


@pytest.mark.parametrize("name", ["rank_sum", "c01"])
@pytest.mark.parametrize("replacement", [HOSTILE, "../../../victim"])
def test_hostile_names_are_refused(invent: Invent, name: str, replacement: str) -> None:
    with pytest.raises(RunFolderError, match=r"is (from|of) another version"):
        report(forged(invent(), {name: replacement}))


def test_code_can_be_copied_as_it_stands(train_all: Path, page: str) -> None:
    code = re.findall("<pre><code>(.*?)</code></pre>", page, re.DOTALL)
    assert len(code) == 1
    assert "\nmodel = hp.load(" in code[0]
    assert "\N{NO-BREAK SPACE}" not in code[0]


def test_only_criteria_with_a_colour_become_classes(page: str) -> None:
    assert [accent(name) for name in ("ls", "loss", "rank_sum", "", HOSTILE)] == ["ls", "loss", "", "", ""]
    style = page[page.index("<style>") : page.index("</style>")]
    used = Checker(page).classes - {"missing"}  # of an unfinished search
    assert all(f".{name}" in style for name in used)


def test_figures_keep_their_ids_apart() -> None:
    svg = '<svg><path id="a"/><use href="#a" style="clip-path: url(#a)"/></svg>'
    assert with_id_prefix(svg, "f1-") == '<svg><path id="f1-a"/><use href="#f1-a" style="clip-path: url(#f1-a)"/></svg>'


def test_components_of_a_method_are_explained() -> None:
    for component, value in MEANINGS:
        assert value in COMPONENTS[component] or value == LATENCY, f"{component} has no {value}"
    assert described({"method": "rigl", "drop_fraction": 0.4})["grow"].startswith("gradient: new weights grow where")
    assert described({"drop": "of another version"}) == {"drop": "of another version"}


def test_every_component_and_criterion_is_spelled_out() -> None:
    for component, choices in COMPONENTS.items():
        for value in choices:
            assert meaning(component, value), f"{component} = {value} has no meaning"
    numbers = {field.name for field in fields(Method)} - COMPONENTS.keys()
    assert numbers == NUMBERS.keys()
    assert CRITERION_MEANINGS.keys() == CRITERION_NAMES.keys() == CRITERIA.keys()
    assert DISTANCE_MEANINGS.keys() == DISTANCES.keys()
    assert SAMPLER_MEANINGS.keys() == SAMPLERS.keys()
    found = described({"drop_fraction": 0.4, "training.lr": 0.1})
    assert (found["drop fraction"].split(":")[0], found["training.lr"]) == ("0.4", "0.1")


def test_joined_criteria_are_spelled_out_once() -> None:
    found = described_criteria(["ls then ls + averaged_loss", "ls", "min_loss * loss"])
    assert list(found) == [
        "LS distance then LS distance + averaged loss",
        "LS distance",
        "averaged loss",
        "lowest loss * validation loss",
        "lowest loss",
        "validation loss",
    ]
    assert "sum of the ranks" in found["LS distance then LS distance + averaged loss"]
    assert found["lowest loss * validation loss"] == "product of the ranks"


@pytest.mark.parametrize("criteria", [["blend", "ls then ls + averaged_loss"], ["extrapolated_loss"]])
def test_the_page_of_other_criteria_explains_them(invent: Invent, criteria: list[str]) -> None:
    text = Checker(report(invent(until="header", criteria=criteria))).text
    for name, said in described_criteria(criteria).items():
        assert f"{name}{said}" in text.replace("\n", "")
    assert text.count("LS-based Hyperpruning") == 1


def test_each_component_of_the_space_is_explained_once(page: str) -> None:
    text = Checker(page).text
    assert text.count("positive and negative weights are compared separately") == 1  # no winner has it
    assert text.count("each weight matrix regrows in proportion to its number of remaining weights") == 1
    assert "0.3 to 0.8 in steps of 0.1" in text


def test_the_epochs_of_this_run_and_of_one_search_are_both_named(page: str, train_all: Path) -> None:
    text = " ".join(Checker(page).text.split())
    assert "51epochs of one search, by one criterion (all candidates: 120)" in text
    assert "130epochs of this run, by 3 criteria, with the dense networks" in text
    assert "130 epochs: 10 of the dense networks, and 120 of the candidates" in text


def test_the_fall_where_averaging_begins_is_marked(invent: Invent, page: str) -> None:
    assert "averaging begins" not in page.lower()  # of a loop of one's own
    train = {"epochs": 10, "seed": 3, "average_from": 0.6}
    folder = invent(train=train)
    averaged = report(folder)
    assert averaging(read_run(folder)) == [6]
    assert averaged.count("averaging begins") == 2  # in both figures
    assert "Averaging begins after epoch 6 (grey band)" in averaged
    early = invent("early", train=train | {"average_from": 1.0, "non_monotone": 1})  # the dense loss rises from epoch 8
    losses = [record.valid_loss for record in read_run(early).history.epochs["dense"].values()]
    triggered = next(epoch for epoch in range(1, 11) if non_monotone(losses[1 : epoch + 1], 1))
    assert averaging_begins(read_run(early), "dense") == triggered
    assert triggered in averaging(read_run(early))


def test_curves_that_end_in_minus_infinity_say_so(invent: Invent, train_all: Path, page: str) -> None:
    winner = next(iter(read_run(train_all).history.winners.values()))
    text = nbsp(Checker(page).text)
    said = nbsp(f"▾: exponents of -∞, of 16: dense = 0, {winner} = 0, other candidates = 0 to 1.")
    assert text.count(said) == 2  # at both rungs: c05 has a dead unit
    assert "A curve that ends in ▾ goes on with exponents of -∞" in page
    assert "▾" not in report(invent(until="pool", n_candidates=4, ask_batch=4, keep=[3, 1]))


def test_a_dense_network_that_learnt_nothing_is_the_first_thing_that_is_said(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    header, *lines = (folder / LEDGER).read_text().splitlines(keepends=True)
    values = {key: value for key, value in json.loads(header).items() if key != "check"}
    loss = read_run(finished).history.finals["dense"].valid_loss
    for baseline, said in ((loss * 1.005, True), (loss * 1.02, False)):
        known = values | {"baseline_loss": baseline}
        (folder / LEDGER).write_text(json.dumps(known | {"check": _check(known)}) + "\n" + "".join(lines))
        text = verdict(results(folder), read_run(folder).notes)  # the first words of page and terminal
        assert text.startswith("The dense network has learnt nothing: its validation loss of") is said
        assert (status(folder).notes != ()) is said


def test_a_figure_of_spectra_can_be_saved(tmp_path: Path) -> None:
    spectra = {Path("a"): [-1.0, 0.1, -np.inf], "b": [-0.5, -2.0, -3.0]}
    spectra_figure(spectra, {name: [0.1] * len(values) for name, values in spectra.items()}).savefig(
        tmp_path / "spectra.svg"
    )
    assert (tmp_path / "spectra.svg").read_text().count("<svg") == 1
