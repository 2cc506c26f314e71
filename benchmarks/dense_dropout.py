"""The dropout that suits the demo's dense network, and its candidates': python benchmarks/dense_dropout.py.

Prints the best validation perplexity of a full training at each dropout, dense and sparse (one plain method), and
writes it to benchmarks/results/dense_dropout.json.
"""

import argparse
import json
import math
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import torch

from hyperpruning.experiment import demo_experiment
from hyperpruning.search.executors import executor
from hyperpruning.sparsity.composition import Method
from hyperpruning.sparsity.spelling import composed
from hyperpruning.training.epochs import Training, epochs

RESULTS = Path(__file__).parent / "results" / "dense_dropout.json"
PLAIN = {"allocation": "er", "drop": "magnitude", "grow": "random", "redistribute": "none", "drop_fraction": 0.5}


def best(dropout: float, seed: int, method: Method | None) -> float:
    """The best validation perplexity of a full training."""
    torch.set_num_threads(1)
    plan = demo_experiment().plan()
    task, train = replace(plan.task, dropout=dropout), replace(plan.train, seed=seed)
    training = Training(task, train, method, sparsity=plan.sparsity if method else 0.0)
    return math.exp(min(record.valid_loss for record in epochs(training)))


def main() -> None:
    """Run all trainings, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    pool: Executor = executor(options.workers)
    jobs = {
        (kind, dropout, seed): pool.submit(best, dropout, seed, composed(PLAIN) if kind == "sparse" else None)
        for kind in ("dense", "sparse")
        for dropout in options.dropouts
        for seed in options.seeds
    }
    rows = [
        {"network": kind, "dropout": dropout, "seed": seed, "best_valid_ppl": round(job.result(), 3)}
        for (kind, dropout, seed), job in jobs.items()
    ]
    for row in rows:
        print("  ".join(f"{value!s:>8}" for value in row.values()))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
