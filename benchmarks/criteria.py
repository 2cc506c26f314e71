"""Which criterion was right? The default search over several seeds, all trained to the end: benchmarks/criteria.py.

    python benchmarks/criteria.py                # benchmarks/results/criteria.json
    python benchmarks/criteria.py --demo         # the same of `hyperprune demo`: benchmarks/results/criteria_demo.json
    python benchmarks/criteria.py --demo --stop  # trains nothing: what runs/criteria_demo has so far

Prints, for every seed, the winner of each criterion with its place among all candidates, and the rank correlations
with the final validation loss; then their means. It continues after an interruption.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from evidence_page import table_of, two

import hyperpruning as hp
from hyperpruning.experiment import Experiment, demo_experiment, replaced
from hyperpruning.report.run import read_run
from hyperpruning.report.tables import Row, correlations, results
from hyperpruning.report.verdict import scatter
from hyperpruning.search.executors import process_pool

RESULTS = Path(__file__).parent / "results"
EPOCHS = (1, 2, 3, 4, 6, 8, 12, 16, 20)  # of the correlations in docs/results.md
PAIRS = {  # whose test metrics are compared
    "LS distance - loss": ("by LS distance", "by validation loss"),
    "averaged loss - LS distance": ("by averaged loss", "by LS distance"),
    "averaged loss - loss": ("by averaged loss", "by validation loss"),
    "averaged loss - best": ("by averaged loss", "best of all"),
}


def differences(rows: list[Row]) -> dict[str, list[float]]:
    """[difference of the test metrics, half of its 95 % interval] between networks; empty without seeds."""
    seeds, by = scatter(rows), {row.label: row for row in rows}
    return {
        name: [round(by[one].test - by[other].test, 4), round(seeds.half_width(by[one], by[other]), 4)]
        for name, (one, other) in PAIRS.items()
        if seeds is not None and {one, other} <= set(by)
    }


def markdown(told: dict[str, Any]) -> str:
    """The tables of docs/results.md, for searches whose finalists have several seeds."""
    labels = ("by LS distance", "by validation loss", "by averaged loss", "best of all")
    head = ["seed", "dense", "dense, as many weights", *labels, *PAIRS]
    rows = []
    for seed, gaps in told["differences"].items():
        choices = [choice[1:] for choice in told["choices"] if str(choice[0]) == seed]
        by = {label: (test, place) if place else (test,) for label, _, _, test, place in choices}
        plain = [f"{by[label][0]:.2f}" for label in ("dense", "dense, as many weights")]
        placed = [", ".join([f"{by[one][0]:.2f}", *by[one][1:]]) if one in by else "" for one in labels]
        compared = [f"{gaps[one][0]:+.2f} ± {gaps[one][1]:.2f}" if one in gaps else "" for one in PAIRS]
        rows.append([seed, *plain, *placed, *compared])
    means = told["mean_rank_correlations"]
    epochs = [epoch for epoch in next(iter(means.values())) if int(epoch) in EPOCHS]
    correlated = [[name, *(two(by_epoch[epoch]) for epoch in epochs)] for name, by_epoch in means.items()]
    return table_of(head, rows) + "\n\n" + table_of(["after epoch", *map(str, epochs)], correlated)


def main() -> None:
    """Run the searches, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--demo", action="store_true", help="the experiment of `hyperprune demo`")
    parser.add_argument("--stop", action="store_true", help="train nothing: print what the runs have so far")
    options = parser.parse_args()
    name = "criteria_demo" if options.demo else "criteria"
    experiment = demo_experiment() if options.demo else Experiment(search={"train_all": True})
    found: dict[str, dict[int, list[float | None]]] = {}
    choices, gaps = [], {}
    for seed in options.seeds:
        folder = Path("runs") / name / f"seed-{seed}"
        if not options.stop:
            with process_pool(options.workers) as pool:
                hp.hyperprune(replaced(experiment, training={"seed": seed}), folder, executor=pool)
        rows = results(folder)
        for row in rows:
            place = "" if row.place is None else f"{row.place} of {row.of}"
            choices.append([seed, row.label, row.method, round(row.valid, 4), round(row.test, 4), place])
        gaps[seed] = differences(rows)
        for one in correlations(folder) if read_run(folder).finished else ():
            found.setdefault(one.predictor, {}).setdefault(one.epoch, []).append(one.rho)
    for choice in choices:
        print("  ".join(str(value) for value in choice))
    means = {
        predictor: {epoch: mean(rho for rho in rhos if rho is not None) for epoch, rhos in by_epoch.items() if epoch}
        for predictor, by_epoch in found.items()
    }
    for predictor, by_epoch in means.items():
        print(f"{predictor:<24}" + "  ".join(f"{rho:+.2f}" for rho in by_epoch.values()))
    told: dict[str, Any] = {"choices": choices, "mean_rank_correlations": means}
    if any(gaps.values()):
        told["differences"] = gaps
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    if options.demo:
        print(markdown(json.loads((RESULTS / f"{name}.json").read_text())))


if __name__ == "__main__":
    main()
