"""A search in other tools, and several searches side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from invented import epoch_record, identity
from typer.testing import CliRunner

from hyperpruning.cli import app
from hyperpruning.report.comparing import compare, notes
from hyperpruning.report.run import read_run
from hyperpruning.report.status import status
from hyperpruning.report.watching import follow, optuna_storage, tensorboard
from hyperpruning.search.history import Epoch, Promotion, Stopped
from hyperpruning.search.ledger import LEDGER, Ledger, LedgerReader, read

Invent = Callable[..., Path]


def test_tensorboard_has_the_curves_of_every_network(finished: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
    )
    observer = tensorboard(tmp_path / "events")
    for fact in follow(finished, every=0):
        observer(fact)
    history = read(finished)
    assert {path.name for path in (tmp_path / "events").iterdir()} == set(history.epochs)
    events = accumulator.EventAccumulator(str(tmp_path / "events" / "dense")).Reload()
    found = {event.step: event.value for event in events.Scalars("valid_loss")}
    assert found == pytest.approx({epoch: one.valid_loss for epoch, one in history.epochs["dense"].items()})
    with pytest.raises(ValueError, match="must be empty, got"):
        tensorboard(tmp_path / "events")


def test_optuna_has_a_trial_for_each_candidate_and_a_mirror_continues(invent: Invent, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    for until in ("pool", "all"):
        observer = optuna_storage(url, "mine")
        for fact in follow(invent(until=until), every=0):
            observer(fact)
        invented = tmp_path / "run"
        history = read(invented)
        if until == "pool":
            (invented / LEDGER).unlink()
    trials = optuna.load_study(study_name="mine", storage=url).trials
    assert [trial.user_attrs["candidate"] for trial in trials] == list(history.candidates)
    for trial in trials:
        name = trial.user_attrs["candidate"]
        assert trial.params == history.candidates[name].config
        assert trial.intermediate_values == {epoch: one.valid_loss for epoch, one in history.epochs[name].items()}
        final = history.finals.get(name)
        assert (trial.state.name, trial.value) == (
            ("PRUNED", trial.value) if final is None else ("COMPLETE", final.valid_loss)
        )


@pytest.mark.parametrize(
    ("settings", "stop"),
    [({"target_loss": 100.0}, True), ({"scheduler": "asha", "reduction_factor": 3, "min_epochs": 2}, False)],
)
def test_the_mirror_of_a_search_that_stopped_early_has_no_trial_that_runs(
    invent: Invent, tmp_path: Path, settings: dict[str, object], stop: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    observer, facts = optuna_storage(url, "mine"), list(follow(invent(spectra_until=None, **settings), every=0))
    for fact in facts:
        observer(fact)
    assert any(isinstance(fact, Stopped) for fact in facts) == stop
    assert any(isinstance(fact, Promotion) for fact in facts) != stop
    trials = optuna.load_study(study_name="mine", storage=url).trials
    assert {trial.state.name for trial in trials} == {"PRUNED", "COMPLETE"}


def test_a_storage_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The storage of Optuna must be a database, got 'nonsense'"):
        optuna_storage("nonsense", "mine")


def test_a_reader_reads_only_what_is_new(invent: Invent) -> None:
    folder = invent(until="pool")
    reader = LedgerReader(folder)
    first = reader.read()
    count = len(first.epochs["c01"])
    Ledger(folder).append(Epoch("c01", epoch_record(0, 3, identity())))
    with (folder / LEDGER).open("ab") as file:
        file.write(b'{"kind": "ep')  # torn
    assert len(list(reader.new_facts())) == 1
    assert reader.read() is first
    assert len(first.epochs["c01"]) == count + 1
    Ledger(folder).append(Epoch("c02", epoch_record(1, 3, identity())))  # the torn line is removed
    assert [fact.network for fact in reader.new_facts()] == ["c02"]
    lines = (folder / LEDGER).read_bytes().splitlines(keepends=True)
    (folder / LEDGER).write_bytes(b"".join(lines[:-1]))  # another content
    assert reader.read() is not first
    assert 3 not in reader.read().epochs["c02"]
    assert read_run(folder).history.epochs == read(folder).epochs


def test_status_as_json(finished: Path) -> None:
    result = CliRunner().invoke(app, ["status", str(finished), "--json"])
    found = json.loads(result.output)
    assert (found["finished"], found["done"], found["left"]) == (True, status(finished).done, None)
    assert [one["name"] for one in found["networks"]] == [one.name for one in status(finished).networks]


def test_searches_are_compared(finished: Path, invent: Invent, tmp_path: Path) -> None:
    other = invent("other", until="pool", sparsity=0.9)
    first, second = compare([finished, other])
    assert first.winner == read_run(finished).winner
    assert (second.winner, second.test) == (None, None)
    assert notes([first, second]) == [f"{finished} and {other}: sparsity is 0.8 and 0.9."]
    page = tmp_path / "compare.html"
    result = CliRunner().invoke(app, ["compare", str(finished), str(other), "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert "sparsity is 0.8 and 0.9" in page.read_text()
    assert str(first.winner) in result.output


def test_watch_in_one_command(finished: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    result = CliRunner().invoke(app, ["watch", str(finished), "--optuna-storage", url])
    assert result.exit_code == 0, result.output
    assert len(optuna.load_study(study_name=finished.name, storage=url).trials) == 12
    nowhere = CliRunner().invoke(app, ["watch", str(finished)])
    assert nowhere.exit_code == 2
