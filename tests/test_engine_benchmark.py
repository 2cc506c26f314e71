"""benchmarks/engine.py still runs, and docs/results.md says what it measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import engine
from engine_trial import EPOCHS, loss_of

from hyperpruning.search.history import Candidate
from hyperpruning.search.validation import validate
from hyperpruning.search.worker import job_for


def test_a_pool_is_decided_to_its_end():
    found = engine.simulated(40, observing=True)
    assert found["candidates"] == 40
    assert found["decisions"] > 10


def test_a_job_is_looked_up_in_the_table(tmp_path):
    config = {"allocation": "er", "drop_scope": "global", "drop_fraction": 0.3}
    validate(engine.plan_of(4))
    job = job_for(engine.plan_of(4), tmp_path, Candidate("c01", 0, config), 3)
    result = engine.from_table(job)
    assert [record.valid_loss for record in result.records] == [loss_of(1, 2, 0.3, epoch) for epoch in range(4)]
    assert result.final is None
    assert engine.from_table(replace(job, until=EPOCHS)).final.valid_loss == loss_of(1, 2, 0.3, EPOCHS)


def test_a_trial_without_syne_tune_says_so():
    script = Path(engine.__file__).with_name("engine_trial.py")
    command = [sys.executable, "-S", script, "--allocation", "er", "--drop_scope", "sign", "--drop_fraction", "0.5"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "No module named 'syne_tune'" in ran.stderr


def test_the_page_says_what_was_measured():
    text = (Path(engine.__file__).parents[1] / "docs" / "results.md").read_text().split("## The engine\n")[1]
    found = json.loads(engine.RESULTS.read_text())
    for one in found["engines"]:
        name = {"ours": "ours", "optuna": "Optuna", "syne-tune": "Syne Tune"}[one["engine"]]
        (row,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:] == [
            f"{one['candidates/s']:.1f}",
            f"{one['cpu s/candidate']:.2f} s",
            f"{one['MiB']} MiB",
            f"{one['at kill']} of {one['candidates']}",
            str(one["lost"]),
            str(one["repeated"]),
            str(one["zombies"]),
        ]
        assert one["same as whole"] == ("yes" if one["engine"] == "ours" else "no")
    ours = found["engines"][0]
    assert ours["lost"] == ours["repeated"] == ours["zombies"] == 0
    for pool in found["simulated"]:
        row = f"| {pool['candidates']:,} | {pool['decisions']:,} | {pool['seconds in all']:.1f} s |"
        (line,) = (line for line in text.splitlines() if line.startswith(row))
        cells = line.removeprefix(row).strip("|").split("|")
        assert cells[0].split()[0] == f"{pool['median ms']:.{1 if pool['median ms'] > 0.1 else 2}f}"
        assert cells[1].split()[0] == f"{pool['largest ms']:.0f}"
        assert cells[2].split()[0] == str(pool["MiB"])
        assert pool["seconds in all"] <= 60
        assert pool["MiB"] <= 1024
    assert found["simulated"][0]["median ms"] <= 50
