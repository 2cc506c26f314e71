"""The ledger: a damaged line costs that line alone, and one search at a time works in a run folder."""

import json
import os
import resource
import tracemalloc

import pytest

from hyperpruning.search.fact_json import to_json
from hyperpruning.search.history import Candidate, Failure, Header, RoundDecision, Winner
from hyperpruning.search.ledger import LEDGER, Ledger, RunFolderError, _check, locked, read
from hyperpruning.training.record import Metric

FACTS = [
    Header({"n_candidates": 2}, {}, Metric("perplexity", "", "exp")),
    Candidate("c01", 0, {"drop": "magnitude"}),
    Candidate("c02", 0, {"drop": "magnitude"}),
    Winner("ls", "c01"),
]


@pytest.fixture
def folder(tmp_path):
    ledger = Ledger(tmp_path)
    for fact in FACTS:
        ledger.append(fact)
    return tmp_path


def test_what_is_written_is_read(folder):
    history = read(folder)
    assert history.header == FACTS[0]
    assert history.candidates["c01"].config == {"drop": "magnitude"}
    assert history.winners == {"ls": "c01"}


def test_a_damaged_line_costs_that_line_alone(folder, caplog):
    path = folder / LEDGER
    path.write_text(path.read_text().replace('"c02", "batch"', '"c01", "batch"'))
    history = read(folder, warn=True)
    assert list(history.candidates) == ["c01"]
    assert history.winners == {"ls": "c01"}
    assert "Line 3" in caplog.text


def test_the_results_of_a_candidate_whose_line_is_damaged_wait_for_it(folder):
    path = folder / LEDGER
    whole = path.read_text()
    path.write_text(whole.replace('"c01", "batch"', '"c02", "batch"'))
    assert read(folder).winners == {}
    with path.open("a") as file:
        file.write(whole.splitlines(keepends=True)[1])  # the search suggests it again
    assert read(folder).winners == {"ls": "c01"}


def test_a_torn_line_is_cut_off_before_the_next(folder):
    path = folder / LEDGER
    whole = path.read_bytes()
    for length in range(len(whole) - 1, whole.rfind(b"\n", 0, -1), -7):
        path.write_bytes(whole[:length])
        assert not read(folder).winners
        Ledger(folder).append(FACTS[-1])
        assert path.read_bytes() == whole


def test_a_full_disk_tears_no_line(folder, monkeypatch):
    before = (folder / LEDGER).read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        Ledger(folder).append(FACTS[-1])
    assert (folder / LEDGER).read_bytes() == before


def test_a_run_folder_in_use_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(RunFolderError, match="is in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_folder_without_a_ledger_is_no_run_folder(tmp_path):
    with pytest.raises(RunFolderError, match="Give the --out of a search"):
        read(tmp_path)


def test_a_full_disk_that_takes_a_part_of_a_line_tears_none(folder):
    """The system writes as much as fits, and says how much; the next write fails."""
    path, (_, hard) = folder / LEDGER, resource.getrlimit(resource.RLIMIT_FSIZE)
    before, fact = path.read_bytes(), Failure("c02", "diverged" * 100)
    try:
        for left in (1, 100, 800):
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + left, hard))
            with pytest.raises(OSError, match="File too large"):
                Ledger(folder).append(fact)
            assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    Ledger(folder).append(fact)
    assert path.read_bytes()[: len(before)] == before
    assert read(folder).failures == {"c02": fact.reason}


@pytest.mark.parametrize(
    "values", [{"kind": "oracle"}, {"kind": "winner"}, {"x": 1}, {}, to_json(FACTS[-1]) | {"more": 1}]
)
def test_a_line_of_another_version_is_refused_with_its_number(folder, values):
    append(folder, values)
    with pytest.raises(RunFolderError, match=r"Line 5 of .* is from another version"):
        read(folder)


def append(folder, values):
    with (folder / LEDGER).open("a") as file:
        file.write(json.dumps(values | {"check": _check(values)}) + "\n")


def test_a_candidate_beyond_the_number_in_the_header_is_refused(folder):
    append(folder, to_json(Candidate("c03", 0, {"drop": "magnitude"})))
    with pytest.raises(RunFolderError, match=r"must have the 2 candidates of its first line, got c03 in"):
        read(folder)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "winner", "criterion": "ls", "network": ["c01"]}, "network must be str, got"),
        ({"kind": "winner", "criterion": "ls", "network": "../c01"}, "The name of a network must be"),
        ({"kind": "winner", "criterion": "ls", "network": "c1"}, "The name of a network must be"),
        ({"kind": "candidate", "name": "[/red]", "batch": 0, "config": {}}, "The name of a network must be"),
        ({"kind": "candidate", "name": "c01", "batch": True, "config": {}}, "batch must be int, got 'True'"),
        (
            to_json(RoundDecision("ls", 0, 2, {"c01": 1.0}, ("c01",), ("\0",))),
            r"The name of a network must be 'dense', 'small' or c01, c01s2, ..., got '\\x00'",
        ),
        (
            {
                "kind": "round",
                "criterion": "ls",
                "round": 0,
                "epoch": 2,
                "scores": {"c01": "1"},
                "kept": [],
                "dropped": [],
            },
            r"scores must be Mapping\[str, float\], got",
        ),
    ],
)
def test_a_forged_line_has_fields_of_the_right_types_and_names(folder, values, says):
    append(folder, values)
    with pytest.raises(RunFolderError, match=says):
        read(folder)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'"\\ud800"', b"\0" * 100, b"1"])
def test_a_line_that_is_no_fact_is_damaged(folder, line, caplog):
    with (folder / LEDGER).open("ab") as file:
        file.write(line + b"\n")
    assert read(folder, warn=True).winners == {"ls": "c01"}
    assert "Line 5" in caplog.text


def test_a_line_without_an_end_is_cut_off_and_never_read_whole(folder):
    path = folder / LEDGER
    whole = path.read_bytes()
    os.truncate(path, 2**33)  # sparse: 8 GiB of zeros
    assert peak_memory(lambda: read(folder)) < 2**26
    Ledger(folder)
    assert path.read_bytes() == whole


def peak_memory(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
