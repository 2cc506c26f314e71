"""The ledger: a damaged line costs that line alone, and a run folder has one driver."""

import pytest

from hyperpruning.search.ledger import LEDGER, Ledger, RunFolderError, locked, read

FACTS = [
    {"kind": "search", "identity": {"pool": 2}, "versions": {}},
    {"kind": "candidate", "name": "c01", "generation": 0, "point": {"drop": "magnitude"}},
    {"kind": "winner", "objective": "ls", "network": "c01"},
]


@pytest.fixture
def folder(tmp_path):
    ledger = Ledger(tmp_path)
    for fact in FACTS:
        ledger.append(fact)
    return tmp_path


def test_what_is_written_is_read(folder):
    history = read(folder)
    assert history.header["identity"] == {"pool": 2}
    assert history.candidates["c01"].point == {"drop": "magnitude"}
    assert history.winners == {"ls": "c01"}


def test_a_damaged_line_costs_that_line_alone(folder, caplog):
    path = folder / LEDGER
    path.write_text(path.read_text().replace('"c01", "generation"', '"c02", "generation"'))
    history = read(folder, warn=True)
    assert not history.candidates
    assert history.winners == {"ls": "c01"}
    assert "Line 2" in caplog.text


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

    monkeypatch.setattr("hyperpruning.search.ledger.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        Ledger(folder).append(FACTS[-1])
    assert (folder / LEDGER).read_bytes() == before


def test_two_drivers_are_one_too_many(tmp_path):
    with locked(tmp_path), pytest.raises(RunFolderError, match="is in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_folder_without_a_ledger_is_no_run_folder(tmp_path):
    with pytest.raises(RunFolderError, match="has none"):
        read(tmp_path)
