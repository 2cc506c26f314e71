"""Is a paired test over validation windows a fair one between two candidates? benchmarks/windows_test.py.

    python benchmarks/windows_test.py [--seeds 20] [--workers 2]

Trains ONE candidate of a small character model (built-in text) with several seeds, so that there is nothing to find:
any two trainings differ by chance alone. Then counts how often a two-sided test at level 0.05 finds one of the two
clearly better all the same: paired over validation windows, for each pair of trainings; paired over seeds, for random
divisions of the trainings into two groups; and by `clear_level` (hyperpruning/search/stopping.py) as a search has it.
Prints the counts and writes them to benchmarks/results/windows_test.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import torch
from collect_tables import language

import hyperpruning as hp
from hyperpruning.data.batches import batchify, bptt_windows
from hyperpruning.search.executors import process_pool
from hyperpruning.search.history import FinalResult, History
from hyperpruning.search.stopping import choice_is_clear, tail_of_t
from hyperpruning.search.worker import Job, run_job, stored_weights
from hyperpruning.sparsity.catalogue import METHODS

RESULTS = Path(__file__).parent / "results" / "windows_test.json"
EPOCHS, LEVEL, DRAWS = 10, 0.05, 10_000
WINDOWS = (35, 5)  # steps of a window: that of the training, and a shorter one


def main() -> None:
    """Train, test, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    plan = language({}, epochs=EPOCHS, n=2)
    with TemporaryDirectory() as folder, process_pool(options.workers) as pool:
        jobs = [job_of(plan, Path(folder), seed) for seed in range(options.seeds)]
        found = [future.result() for future in [pool.submit(trained, job) for job in jobs]]
    finals = [final.valid_loss for final, _ in found]
    result = {
        "seeds": options.seeds,
        "epochs": EPOCHS,
        "level": LEVEL,
        "validation loss": {"mean": mean(finals), "standard deviation": stdev(finals)},
        "over windows": [over_windows([losses[length] for _, losses in found], length) for length in WINDOWS],
        "over seeds": {str(count): over_seeds(finals, count) for count in (3, 5)},
        "clear_level": by_the_rule(plan, finals, 5),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def job_of(plan: hp.Plan, folder: Path, seed: int) -> Job:
    """The training of the candidate with a seed."""
    assert plan.task is not None
    train = replace(plan.train, seed=seed)
    spectrum = replace(plan.spectrum, epochs=(0,), averaged=False)
    return Job(f"seed{seed}", plan.task, train, METHODS["rigl"], plan.sparsity, spectrum, folder / str(seed), EPOCHS)


def trained(job: Job) -> tuple[FinalResult, dict[int, list[float]]]:
    """The result of a training, and the losses of its best weights on the validation windows, by their length."""
    final = run_job(job).final
    assert final is not None
    weights = stored_weights(job, final.sha256)
    assert weights is not None
    network = job.task.network(job.train.seed)
    network.load_state_dict(weights)
    network.eval()
    stream, losses = batchify(job.task.corpus().valid, job.task.eval_batch), {}
    for length in WINDOWS:
        whole = [window for window in bptt_windows(stream, length) if len(window[1]) == length]
        carry, losses[length] = None, []
        with torch.no_grad():
            for window in whole:
                loss, carry = job.task.loss(network, window, carry)
                losses[length].append(float(loss))
    return final, losses


def over_windows(losses: list[list[float]], length: int) -> dict[str, float]:
    """How many pairs of trainings a paired test over windows calls different; and what it takes for their scatter."""
    pairs = [[one - two for one, two in zip(*pair, strict=True)] for pair in combinations(losses, 2)]
    errors = [stdev(pair) / math.sqrt(len(pair)) for pair in pairs]
    return {
        "steps": length,
        "windows": len(losses[0]),
        "pairs": len(pairs),
        "called different": sum(p_of(pair) <= LEVEL for pair in pairs) / len(pairs),
        "standard error by windows": mean(errors),
        "standard deviation over seeds": math.sqrt(mean(mean(pair) ** 2 for pair in pairs)),
    }


def p_of(differences: list[float]) -> float:
    """The two-sided p of a paired t-test."""
    error = stdev(differences) / math.sqrt(len(differences))
    return 2 * tail_of_t(abs(mean(differences)) / error, len(differences) - 1)


def over_seeds(losses: list[float], count: int) -> float:
    """How many pairs of disjoint groups of so many trainings a paired test over them calls different."""
    draw, called = random.Random(0), 0
    for _ in range(DRAWS):
        group = draw.sample(losses, 2 * count)
        called += p_of([one - two for one, two in zip(group[:count], group[count:], strict=True)]) <= LEVEL
    return called / DRAWS


def by_the_rule(plan: hp.Plan, losses: list[float], count: int) -> float:
    """The same by the stopping rule of a search, asked after 2, 3, ... seeds; its level is that of one side."""
    names = ("c01", "c02")
    plan = replace(plan, finalist_seeds=count, clear_level=LEVEL / 2)
    draw, called = random.Random(0), 0
    for _ in range(DRAWS):
        group, history = draw.sample(losses, 2 * count), History()
        for number, loss in enumerate(group):
            name = names[number // count] + (f"s{number % count + 1}" if number % count else "")
            history.add(FinalResult(name, 1, loss, loss, 1, ""))
        called += any(choice_is_clear(plan, history, "loss", names, seeds) for seeds in range(2, count))
    return called / DRAWS


if __name__ == "__main__":
    main()
