"""Which criterion was right? The default search over several seeds, all trained to the end: benchmarks/criteria.py.

Prints, for every seed, the winner of each criterion with its place among all candidates, and the rank correlations
with the final validation loss; then their means. Writes benchmarks/results/criteria.json. It continues after an
interruption.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

import hyperpruning as hp
from hyperpruning.experiment import Experiment
from hyperpruning.report.tables import correlations, results
from hyperpruning.search.executors import process_pool

RESULTS = Path(__file__).parent / "results" / "criteria.json"


def main() -> None:
    """Run the searches, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/criteria"))
    options = parser.parse_args()
    found: dict[str, dict[int, list[float | None]]] = {}
    choices = []
    for seed in options.seeds:
        folder = options.out / f"seed-{seed}"
        with process_pool(options.workers) as pool:
            hp.hyperprune(Experiment(training={"seed": seed}, search={"train_all": True}), folder, executor=pool)
        for row in results(folder):
            place = "" if row.place is None else f"{row.place} of {row.of}"
            choices.append([seed, row.label, row.method, round(row.valid, 3), round(row.test, 3), place])
        for one in correlations(folder):
            found.setdefault(one.predictor, {}).setdefault(one.epoch, []).append(one.rho)
    for choice in choices:
        print("  ".join(str(value) for value in choice))
    means = {
        predictor: {epoch: mean(rho for rho in rhos if rho is not None) for epoch, rhos in by_epoch.items() if epoch}
        for predictor, by_epoch in found.items()
    }
    for predictor, by_epoch in means.items():
        print(f"{predictor:<24}" + "  ".join(f"{rho:+.2f}" for rho in by_epoch.values()))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"choices": choices, "mean_rank_correlations": means}, indent=1) + "\n")


if __name__ == "__main__":
    main()
