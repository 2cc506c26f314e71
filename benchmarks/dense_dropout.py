"""The dropout that suits a dense network, and its candidates.

    python benchmarks/dense_dropout.py                                                        # of the defaults
    python benchmarks/dense_dropout.py --preset rhn-ptb-small --data DIR --dropouts 0.5 1 1.5 --networks dense

Prints the best validation perplexity of a full training at each dropout, dense and sparse (one plain method), and
writes it to benchmarks/results/dense_dropout.json, or to a file named after the preset. Of a preset, which has several
dropouts, --dropouts are factors on all of them.
"""

import argparse
import json
import math
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import torch

from hyperpruning.experiment import Experiment, read_preset
from hyperpruning.search.executors import process_pool
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.training.epochs import epochs
from hyperpruning.training.state import Training

RESULTS = Path(__file__).parent / "results"
PLAIN = {"allocation": "er", "drop": "magnitude", "grow": "random", "redistribute": "none", "drop_fraction": 0.5}


def scaled(dropouts: float | Mapping[str, float], factor: float) -> float | dict[str, float]:
    """All dropouts times a factor."""
    if isinstance(dropouts, Mapping):
        return {name: round(factor * p, 4) for name, p in dropouts.items()}
    return factor * dropouts


def best(experiment: Experiment, dropout: float | Mapping[str, float], seed: int, method: Method | None) -> float:
    """The best validation perplexity of a full training."""
    torch.set_num_threads(1)
    plan = experiment.plan()
    task, train = replace(plan.task, dropout=dropout), replace(plan.train, seed=seed)
    training = Training(task, train, method, sparsity=plan.sparsity if method else 0.0)
    return math.exp(min(record.valid_loss for record in epochs(training)))


def main() -> None:
    """Run all trainings, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--networks", nargs="+", choices=["dense", "sparse"], default=["dense", "sparse"])
    parser.add_argument("--preset")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    experiment = Experiment() if options.preset is None else read_preset(options.preset, options.data)
    of_preset = {"dense": experiment.dense.dropout, "sparse": experiment.model.dropout}
    pool: Executor = process_pool(options.workers)
    jobs = {
        (kind, dropout, seed): pool.submit(
            best,
            experiment,
            dropout if options.preset is None else scaled(of_preset[kind], dropout),
            seed,
            from_config(PLAIN) if kind == "sparse" else None,
        )
        for kind in options.networks
        for dropout in options.dropouts
        for seed in options.seeds
    }
    rows = [
        {"network": kind, "dropout": dropout, "seed": seed, "best_valid_ppl": round(job.result(), 3)}
        for (kind, dropout, seed), job in jobs.items()
    ]
    for row in rows:
        print("  ".join(f"{value!s:>8}" for value in row.values()))
    RESULTS.mkdir(exist_ok=True)
    name = "dense_dropout" if options.preset is None else f"dense_dropout_{options.preset}"
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
