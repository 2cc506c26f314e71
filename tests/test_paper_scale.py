"""benchmarks/paper_scale.py: slices end as one go does, whatever the state can carry."""

import itertools
import math

import paper_scale
import paper_table
import pytest
import slicing

from hyperpruning.search.ledger import LEDGER, read
from small import write_text

SIZES = ["--small", "--n-candidates", "4", "--epochs", "7"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def plan(text):
    return paper_scale.plan(paper_scale.parsed(arguments(data=text)))


def arguments(**options):
    return [*SIZES, *itertools.chain(*((f"--{name.replace('_', '-')}", str(options[name])) for name in options))]


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """A search in one go: its folder."""
    folder = tmp_path_factory.mktemp("whole")
    given = arguments(data=text, state=folder / "state", scratch=folder / "scratch", seconds=math.inf)
    assert paper_scale.main(given)
    return folder


@pytest.fixture
def call(text, tmp_path):
    """A slice, as the command line makes one; the fake clock moves on by one whenever it is looked at."""

    def call(*, scratch="scratch", seconds=0, **options):
        given = {"data": text, "state": tmp_path / "state", "scratch": tmp_path / scratch, "seconds": seconds}
        return paper_scale.main(arguments(**given | options), clock=map(float, itertools.count()).__next__)

    return call


def test_slices_of_one_epoch_end_as_one_go(call, whole, tmp_path, capsys):
    slices = 1
    while not call():
        slices += 1
    assert slices > 30  # the dense one 7, the pool 4 x 3, survivors 3 x 3, finalists 2 x 2 or more
    assert (tmp_path / "scratch" / LEDGER).read_bytes() == (whole / "scratch" / LEDGER).read_bytes()
    assert call()  # what is finished stays so
    last = capsys.readouterr().out
    assert "finished; " in last
    assert "by LS distance (c0" in last


def test_on_machines_that_are_new_every_time_nothing_is_trained_twice(call, whole, tmp_path, capsys):
    machine = 1
    while not call(scratch=f"machine-{machine}", seconds=5):
        machine += 1
    assert machine > 10
    assert (tmp_path / f"machine-{machine}" / LEDGER).read_bytes() == (whole / "scratch" / LEDGER).read_bytes()
    trained = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if line.endswith(" s")]
    assert len(trained) == len(set(trained))


def test_networks_that_do_not_fit_are_trained_again_alike(call, whole, tmp_path, capsys):
    limit = sum(path.stat().st_size for path in (whole / "state").iterdir())  # of the finished search: its ledger alone
    machine = 1
    while not call(scratch=f"machine-{machine}", seconds=60, state_limit=limit / 2**20):
        machine += 1
        assert sum(path.stat().st_size for path in (tmp_path / "state").iterdir()) <= limit
    assert machine > 1
    assert (tmp_path / f"machine-{machine}" / LEDGER).read_bytes() == (whole / "scratch" / LEDGER).read_bytes()
    said = capsys.readouterr().out
    assert "the checkpoints of no network" in said
    trained = [line.split(":")[0] for line in said.splitlines() if line.endswith(" s")]
    assert len(trained) > len(set(trained))


def test_the_table_says_how_far_it_is(call, capsys):
    call()
    first = capsys.readouterr().out
    assert "One criterion trains 23 epochs, ls, loss, averaged_loss together 23 to 28" in first
    assert "partial: 0 networks trained to the end; 1 epochs trained" in first
    assert "to be continued" in first
    assert "published" not in first
    call(seconds=25)
    lines = capsys.readouterr().out.splitlines()
    (head,) = [number for number, line in enumerate(lines) if "method" in line]
    dense, *candidates = lines[head + 1 : head + 6]
    assert dense.split()[1:3] == ["dense", "3"]
    assert [line.split()[0] for line in candidates] == ["1", "2", "3", "-"]
    assert " f = 0." in candidates[-1]


def test_the_published_numbers_stand_beside(plan, whole):
    history = read(whole / "scratch")
    table = paper_table.results(plan, history, paper_table.records(history, whole / "scratch"), published=True)
    assert "72.27  69.73  published: hyperpruning" in table


def test_a_state_in_parts_is_whole_or_refused(plan, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(slicing, "PART", 2000)
    monkeypatch.setattr(slicing, "PARTS", 100)
    folder, state, other = whole / "scratch", tmp_path / "state", tmp_path / "other"
    ledger = (folder / LEDGER).read_bytes()
    assert slicing.pack(folder, state, [], 10**6) == []
    parts = sorted(state.iterdir())
    assert len(parts) > 3
    assert max(path.stat().st_size for path in parts) == 2000
    slicing.unpack(plan, state, other)
    assert (other / LEDGER).read_bytes() == ledger
    (other / LEDGER).write_bytes(ledger + b"more")  # a machine that was kept is ahead, and stays so
    slicing.unpack(plan, state, other)
    assert (other / LEDGER).read_bytes() == ledger + b"more"
    (other / LEDGER).write_bytes(b"of another search")
    with pytest.raises(ValueError, match="give another --scratch"):
        slicing.unpack(plan, state, other)
    with pytest.raises(ValueError, match="raise --state-limit"):
        slicing.pack(folder, state, [], 3000)
    parts[1].unlink()
    with pytest.raises(ValueError, match="damaged or not all there"):
        slicing.unpack(plan, state, tmp_path / "new")


def test_another_search_in_the_state_or_the_scratch_is_refused(call, tmp_path, capsys):
    call()
    before = capsys.readouterr().out
    for options in ({}, {"state": tmp_path / "new"}):
        with pytest.raises(SystemExit, match="seed is 42 in the ledger and 1 now"):
            call(seed=1, **options)
    assert "place" in before
    assert "place" not in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_paper_scale_without_data_stops_with_a_sentence(monkeypatch):
    monkeypatch.delenv("HYPERPRUNING_DATA", raising=False)
    with pytest.raises(SystemExit, match="give --data DIR"):
        paper_scale.main([])


def test_the_cost_at_paper_size_is_as_the_docs_have_it(text):
    asked = paper_scale.plan(paper_scale.parsed(["--data", str(text)]))
    said = paper_table.cost_in_words(asked)
    assert (
        "One criterion trains 338 epochs, ls, loss, averaged_loss together 338 to 810, the dense network 100 more"
        in said
    )


def test_the_published_rounds():
    assert paper_scale.rounds(26) == ((3, 6, 9, 12, 15), (14, 8, 5, 3, 2))
    assert paper_scale.rounds(40) == ((3, 6, 9, 12, 15, 18), (21, 11, 6, 4, 3, 2))
