"""What each criterion foretold in the nearest of our tables: pools.json, which `make evidence` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hyperpruning.report.components import criterion_name, join_names
from hyperpruning.report.run import Run
from hyperpruning.search.space import is_method_setting

POOLS = Path(__file__).with_name("pools.json")
KINDS = {"SequenceClassification": "classification", "Forecasting": "forecasting"}


def features(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two searches alike, from the identity of a search (`Plan.identity`).

    Returns:
        the kind of the task ("" for one of the user's own), the cell ("" where it is not known), the epochs of a full
        training, the sparsity, whether settings outside the pruning method vary, whether methods do what published code
        does (`published_updates.py`), and whether sparse networks start with scaled weights (`weight_inits.py`).
    """
    task = identity["task"]
    kind = "language_modelling" if "text_sha256" in task else KINDS.get(task.get("task", ""), "")
    mixed = not all(map(is_method_setting, identity["space"]))
    return {
        "kind": kind,
        "cell": task.get("cell", ""),
        "epochs": int(identity["train"]["epochs"]),
        "sparsity": float(identity["sparsity"]),
        "mixed": mixed,
        "published": any(name != "exact" for name in identity["space"].get("update", ())),
        "scaled": any(name != "unchanged" for name in identity["space"].get("weight_init", ())),
    }


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """How unlike two searches are, inf for other kinds of tasks; e times the epochs counts as much as another cell."""
    if one["kind"] != other["kind"]:
        return math.inf
    density = abs(math.log((1 - one["sparsity"]) / (1 - other["sparsity"])))
    length = abs(math.log(one["epochs"] / other["epochs"]))
    return length + density + float(sum(one[name] != other[name] for name in ("cell", "mixed", "published", "scaled")))


@cache
def pools() -> dict[str, Any]:
    """The tables: their features, and correlations with the final loss by epoch and criterion."""
    found: dict[str, Any] = json.loads(POOLS.read_text())
    return found


def nearest_sentence(run: Run, epoch: int) -> str:
    """What the criteria of a run foretold after about the same part of the training in the nearest table.

    It is "" for a task of another kind than those of the tables, and if the table has none of the criteria.
    """
    here = features(run.header.identity)
    name = min(pools(), key=lambda each: distance(here, pools()[each]))
    pool = pools()[name]
    if not math.isfinite(distance(here, pool)):
        return ""
    part = epoch / here["epochs"]
    at = min(pool["correlations"], key=lambda each: abs(int(each) / pool["epochs"] - part))
    known = pool["correlations"][at]
    said = [f"{criterion_name(one)} {known[one]:+.2f}" for one in run.plan.criteria if one in known]
    if not said:
        return ""
    return (
        f"In the nearest of our tables ({name}: {pool['candidates']} candidates, {pool['epochs']} epochs, sparsity "
        f"{pool['sparsity']:g}) the scores after epoch {at} agree with the final loss by {join_names(said)}."
    )
