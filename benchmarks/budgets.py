"""Mixed searches under budgets: method, learning rate, weight decay and dropout, 24 candidates.

    python benchmarks/budgets.py

On scikit-learn's digits and on a fifth of the built-in text: once with a budget of epochs (`max_epochs`), once with one
of wall-clock time (`max_hours`), which ends a call at the running step; the search is called again until it is done. On
one process. Prints the table in Markdown and writes benchmarks/results/budgets.json.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from collect_tables import ADAM_MIXED, LM_MIXED, METHOD, RUNS, digits, language

import hyperpruning as hp
from hyperpruning.files import write_atomic
from hyperpruning.search.finalists import winner
from hyperpruning.search.plan import Plan

RESULTS = Path(__file__).parent / "results" / "budgets.json"
CANDIDATES, SECONDS = 24, 20
TASKS = {
    "digits": (lambda: digits(METHOD | ADAM_MIXED, n=CANDIDATES), 0.05, 330),
    "text": (lambda: language(METHOD | LM_MIXED, epochs=10, n=CANDIDATES), 0.1, 115),
}


def mixed(plan: Plan, look: float, **budget: Any) -> Plan:
    """A search by the distance freed of the other settings, by the loss of averaged weights, and by their blend."""
    epochs = plan.train.epochs
    return replace(
        plan,
        criteria=("conditional_ls", "averaged_loss", "blend"),
        spectrum=hp.SpectrumConfig(warmup=2 if epochs > 10 else 10),
        ask_batch=8,
        sampler="tpe",
        train_all=False,
        rungs=(round(look * epochs), round(3 * look * epochs)),
        keep=(8, 1),
        as_many_weights=True,
        **budget,
    )


def measured(plan: Plan, folder: Path) -> dict[str, Any]:
    """A search, called until it is done: calls, seconds of the longest, networks, test metrics."""
    seconds = []
    while True:
        started = time.perf_counter()
        history = hp.hyperprune(plan, folder)
        seconds.append(time.perf_counter() - started)
        best = winner(plan, history)
        if best is not None and all(name in history.finals for name in ("dense", "small", best)):
            break
    assert history.header is not None
    metric = history.header.metric
    finals = {name: history.finals[key] for name, key in (("dense", "dense"), ("small", "small"), ("winner", best))}
    return {
        "candidates": len(history.candidates),
        "epochs": history.trained_epochs(dense=False),
        "pool": len(history.candidates) * plan.train.epochs,
        "calls": len(seconds),
        "longest": round(max(seconds), 1),
        "metric": metric.name,
        "winner by": [criterion for criterion, name in history.winners.items() if name == best],
        **{name: round(metric.value(final.test_loss, final.test_metric), 3) for name, final in finals.items()},
    }


def main() -> None:
    """Search, write, print."""
    found = {}
    for name, (make, look, most) in TASKS.items():
        base = make()
        for budget in ({"max_epochs": most}, {"max_hours": SECONDS / 3600}):
            folder = RUNS.parent / "budgets" / f"{name}-{next(iter(budget))}"
            shutil.rmtree(folder, ignore_errors=True)
            label = f"{most} epochs" if "max_epochs" in budget else f"{SECONDS} s a call"
            found[f"{name}; {label}"] = measured(mixed(base, look, **budget), folder)
            write_atomic(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
    print(markdown(found))


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| task | budget | candidates | epochs, of the pool's | calls, longest | dense | as many | winner | by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        task, budget = name.split("; ")
        metrics = [f"{one[key]:g}" for key in ("dense", "small", "winner")]
        cells = [f"{task}, {one['metric']}", budget, str(one["candidates"]), f"{one['epochs']} of {one['pool']}"]
        cells += [f"{one['calls']}, {one['longest']:.0f} s", *metrics, ", ".join(one["winner by"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
