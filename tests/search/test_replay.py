"""Tables of pools that were trained to the end, and searches replayed on them."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import hyperpruning as hp
from hyperpruning.cli import app
from hyperpruning.search.driver import search
from hyperpruning.search.replay import replay
from hyperpruning.search.tables import TableError, load_table, save_table, table_of
from small import small


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """The run folder of a pool of six, and one with three of its configs and another seed."""
    from small import write_text

    text = tmp_path_factory.mktemp("text")
    write_text(text)
    folders = tmp_path_factory.mktemp("runs")
    changes = {"train_all": True, "n_candidates": 6, "criteria": ("ls", "loss", "averaged_loss")}
    plan = small(text, search=changes).plan()
    history = search(plan, folders / "pool")
    fixed = tuple(one.config for one in list(history.candidates.values())[:3])
    space = replace(plan.space, fixed=fixed)
    again = replace(plan, space=space, n_candidates=3, keep=(2, 1), train=replace(plan.train, seed=1))
    search(again, folders / "seed1")
    return plan, history, folders


def test_a_table_has_what_the_ledger_has(pool, tmp_path):
    history, folders = pool[1:]
    table = table_of([folders / "pool", folders / "seed1"], "small")
    save_table(table, tmp_path / "table.npz")
    read = load_table(tmp_path / "table.npz")
    for number, name in enumerate([*history.candidates, "dense"]):
        for epoch, record in history.epochs[name].items():
            assert read.valid[number, epoch] == np.float32(record.valid_loss)
            assert read.averaged[number, epoch] == np.float32(record.averaged_loss)
            assert read.records[number][epoch].exponents == pytest.approx(record.exponents, rel=1e-6)
        assert read.final_valid[number, 0] == np.float32(history.finals[name].valid_loss)
    assert np.isfinite(read.final_valid[:3, 1]).all()
    assert np.isnan(read.final_valid[3:6, 1]).all()
    assert read.mean_final[0] == pytest.approx(read.final_valid[0].mean())
    save_table(table, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "table.npz").read_bytes()


def test_a_replayed_search_chooses_as_the_real_one(pool):
    history, folders = pool[1:]
    table = table_of([folders / "pool"])
    found = replay(table, seed=0)
    names = list(history.candidates)
    assert {c: names[row] for c, row in found.chosen.items()} == history.winners
    best = history.winners["loss"]
    finals = sorted(history.finals[name].valid_loss for name in names)
    median = (finals[2] + finals[3]) / 2
    expected = (history.finals[best].valid_loss - finals[0]) / (median - finals[0])
    assert found.regret["loss"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("scheduler", ["rounds", "halving", "hyperband", "asha"])
def test_searches_of_part_of_the_pool(pool, scheduler):
    table = table_of([pool[2] / "pool"])
    found = replay(
        table, seed=3, n_candidates=4, scheduler=scheduler, rungs=(1,), keep=(1,), criteria=("ls then loss", "blend")
    )
    assert found.regret.keys() == {"ls then loss", "blend"}
    assert all(regret >= 0 for regret in found.regret.values())
    if scheduler == "rounds":
        assert 4 + 3 <= found.epochs <= 4 + 6


def test_an_unfinished_pool_and_a_file_that_is_no_table_are_refused(pool, text, tmp_path):
    search(small(text).plan(), tmp_path / "part")
    with pytest.raises(TableError, match=r"must be trained to the end, got \d that are not .* train_all"):
        table_of([tmp_path / "part"])
    with pytest.raises(TableError, match="Runs with other seeds must have configs of the pool"):
        table_of([pool[2] / "seed1", pool[2] / "pool"])
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(TableError, match="A table must be a"):
        load_table(tmp_path / "x.npz")


def test_the_commands_make_a_table_and_replay_searches_on_it(pool, tmp_path):
    path = tmp_path / "pool.npz"
    made = CliRunner().invoke(app, ["table", str(pool[2] / "pool"), str(pool[2] / "seed1"), "--out", str(path)])
    assert (made.exit_code, made.output.split(": ")[1]) == (0, "6 candidates, 4 epochs, 2 seeds.\n")
    words = ["--criterion", "ls", "--criterion", "ls * loss", "--scheduler", "rounds", "--rungs", "1", "--keep", "1"]
    shown = CliRunner().invoke(app, ["replay", str(path), *words, "--repeats", "5"])
    assert shown.exit_code == 0
    assert "ls * loss" in shown.output
    assert "95 % interval" in shown.output
    for wrong, says in (
        (["--scheduler", "rounds"], "--rungs and --keep must be given"),
        (["--scheduler", "rounds", "--rungs", "a", "--keep", "1"], "--rungs must be whole numbers"),
        (["--criterion", "lss"], "Did you mean 'loss'?"),
        (["--budget", "1"], "max_epochs must be at least"),
    ):
        refused = CliRunner().invoke(app, ["replay", str(path), *wrong])
        assert refused.exit_code == 2
        assert says in " ".join(refused.output.split())


def test_they_are_public():
    assert hp.load_table is load_table
    assert hp.replay is replay
