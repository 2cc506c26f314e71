"""A report says what its criteria foretold in the nearest of our tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import evidence
import pytest

from hyperpruning.report import nearest
from hyperpruning.report.nearest import distance, features, nearest_sentence, pools
from hyperpruning.report.run import read_run

LONG = {
    "kind": "language_modelling",
    "cell": "lstm",
    "epochs": 80,
    "sparsity": 0.8,
    "mixed": False,
    "published": False,
    "scaled": True,
}


def test_the_packaged_pools_are_those_of_the_evidence() -> None:
    tables = json.loads(evidence.RESULTS.read_text())["tables"]
    assert json.loads(json.dumps(evidence.pools(tables))) == pools()
    assert {pool["kind"] for pool in pools().values()} >= {"language_modelling", "classification"}


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        ({}, 0),
        ({"kind": "classification"}, math.inf),
        ({"kind": ""}, math.inf),
        ({"cell": "gru", "mixed": True}, 2),
        ({"epochs": 40}, math.log(2)),
        ({"published": True}, 1),
        ({"scaled": False}, 1),
        ({"sparsity": 0.9}, math.log(2)),
    ],
)
def test_searches_are_near_by_kind_length_sparsity_cell_and_space(other: dict[str, object], apart: float) -> None:
    assert distance(LONG, LONG | other) == pytest.approx(apart)


def test_the_nearest_table_and_its_nearest_epoch_are_told(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(finished)
    here = features(run.header.identity)
    assert here == LONG | {"epochs": run.epochs, "sparsity": run.plan.sparsity, "scaled": False}
    near = here | {"epochs": 3 * run.epochs, "candidates": 60}
    values = {"6": {"ls": 0.1, "loss": 0.2}, "7": {"ls": 0.3, "loss": -0.4}, "20": {"ls": 0.5, "loss": 0.6}}
    invented = {
        "far": near | {"mixed": True, "cell": "rhn", "correlations": {}},
        "near": near | {"correlations": values},
    }
    monkeypatch.setattr(nearest, "pools", lambda: invented)
    said = nearest_sentence(run, 2)
    assert said.startswith(
        f"In the nearest of our tables (near: 60 candidates, {3 * run.epochs} epochs, sparsity 0.8) "
    )
    assert said.endswith(" with the final loss by LS distance +0.10 and validation loss +0.20.")


def test_nothing_is_said_of_a_task_unlike_all_tables(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "pools", lambda: {"one": LONG | {"kind": "forecasting"}})
    assert nearest_sentence(read_run(finished), 2) == ""
