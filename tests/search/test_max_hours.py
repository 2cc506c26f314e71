"""A budget in wall-clock time: it ends a search within an epoch, and the search continues exactly."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

import hyperpruning as hp
from hyperpruning.report.page import write_report
from hyperpruning.report.status import status
from hyperpruning.search.deadline import Deadline, deadline_in, this_machine
from hyperpruning.search.driver import search
from hyperpruning.search.ledger import LEDGER, read
from hyperpruning.search.schedulers import decide
from hyperpruning.testing.executor import _plan
from hyperpruning.training.checkpoint import newest_records


class Ticking:
    """A clock that shows so many seconds more whenever it is read."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr("hyperpruning.search.deadline.time", SimpleNamespace(monotonic=self))

    def __call__(self):
        self.now += self.seconds
        return self.now


def test_a_search_in_pieces_of_some_steps_has_the_ledger_of_a_search_at_a_stretch(tmp_path, monkeypatch):
    plan = _plan()
    search(plan, tmp_path / "whole")
    Ticking(monkeypatch, 1.0)
    count = 0
    while count == 0 or decide(plan, read(tmp_path / "pieces")):
        search(replace(plan, max_hours=12 / 3600), tmp_path / "pieces")
        count += 1
    assert count > 4
    assert (tmp_path / "pieces" / LEDGER).read_bytes() == (tmp_path / "whole" / LEDGER).read_bytes()


def test_status_and_report_work_on_what_is_there(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    Ticking(monkeypatch, 1.0)
    history = hp.hyperprune(replace(_plan(), max_hours=31 / 3600), folder)
    assert not history.winners
    assert list(folder.glob("networks/*/*-step-*.pt"))
    assert not status(folder).finished
    assert write_report(folder).is_file()


def test_another_machine_counts_the_seconds_that_were_left():
    soon, far = deadline_in(0.0), deadline_in(1.0)
    assert soon.machine == this_machine()
    assert soon.clock()()
    assert not far.clock()()
    assert not Deadline(at=-1.0, left=100.0, machine="another").clock()()
    assert Deadline(at=1e12, left=-1.0, machine="another").clock()()
    assert not deadline_in(None).again().clock()()


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    """The time of day goes back by an hour whenever it is read."""
    plan, hour = replace(_plan(), max_hours=1.0), iter(range(10**6, 0, -3600))
    search(plan, tmp_path / "whole")
    monkeypatch.setattr(time, "time", lambda: float(next(hour)))
    search(plan, tmp_path / "jumping")
    assert (tmp_path / "jumping" / LEDGER).read_bytes() == (tmp_path / "whole" / LEDGER).read_bytes()


def test_a_run_continues_with_other_settings_that_results_do_not_depend_on(tmp_path):
    plan = _plan()
    assert plan.identity() == replace(plan, max_hours=1.0, checkpoint_minutes=0, keep_checkpoints=9).identity()
    search(plan, tmp_path / "whole")
    search(replace(plan, checkpoint_minutes=0, keep_checkpoints=1), tmp_path / "often")
    assert (tmp_path / "often" / LEDGER).read_bytes() == (tmp_path / "whole" / LEDGER).read_bytes()


@pytest.mark.parametrize("keep", [1, 3])
def test_so_many_checkpoints_are_kept_and_none_of_eliminated_candidates(tmp_path, keep):
    folder = tmp_path / "run"
    history = search(replace(_plan(), keep_checkpoints=keep), folder)
    for network in (folder / "networks").iterdir():
        tensors = len(list(network.glob("*.pt")))
        assert tensors == (min(keep, 3) if network.name in history.finals else 0)
        assert newest_records(network)
        assert len(list(network.glob("*.json"))) <= keep
