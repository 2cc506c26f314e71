"""Why prune at all: the test metric against the active weights, of sparse networks and of smaller dense ones.

    python benchmarks/frontier.py                 # what runs/frontier lacks, then benchmarks/results/frontier.json
    python benchmarks/frontier.py text --workers 2

Three tasks, four sparsities, three seeds: the dense network; a dense network made narrower, with at most as many
weights as the sparse ones; three plain methods; and the winner of a search over 16 methods, chosen by validation loss,
with its seeds. Searches are in the default space with each of both initialisations of the weights, and in the whole
space of the tables, which has random regrowth and drop fractions that do not fall. It can be stopped and started again
at any moment. `make evidence` draws the figure of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from collect_tables import METHOD, RUNS, digits, language, lorenz

import hyperpruning as hp
from hyperpruning.files import write_atomic
from hyperpruning.search.executors import process_pool
from hyperpruning.search.finalists import winner
from hyperpruning.search.history import History
from hyperpruning.search.plan import Plan, seed_names

RESULTS = Path(__file__).parent / "results" / "frontier.json"
FOLDER = RUNS.parent / "frontier"
SPARSITIES, SEEDS, CANDIDATES = (0.5, 0.8, 0.9, 0.95), 3, 16
PLAIN = ("gmp", "rigl-erk", "static")
SCALED = PLAIN[1:]  # that start sparse
DEFAULT = {name: one for name, one in hp.Experiment().plan().space.dimensions.items() if name != "weight_init"}
SPACES: dict[str, dict[str, Any]] = {
    "searched": DEFAULT | {"weight_init": ("fan_in",)},
    "searched, unchanged": DEFAULT,
    "searched, whole space": METHOD,
}
TASKS = {
    "text": lambda: language(METHOD, epochs=10, n=CANDIDATES),
    "digits": lambda: digits(METHOD, n=CANDIDATES),
    "lorenz": lambda: lorenz(METHOD, n=CANDIDATES),
}


def plain(plan: Plan, sparsity: float, seed: int, space: dict[str, Any]) -> Plan:
    """The dense network, the narrower one and the named methods of the space, all trained to the end."""
    count = len(space["method"])
    return replace(
        plan,
        sparsity=sparsity,
        train=replace(plan.train, seed=seed),
        space=hp.SearchSpace(space),
        sampler="grid",
        rungs=(plan.train.epochs - 1,),  # after the end of every density schedule
        n_candidates=count,
        ask_batch=count,
        as_many_weights="weight_init" not in space,
    )


def searched(plan: Plan, sparsity: float, space: dict[str, Any]) -> Plan:
    """A search by the loss of averaged weights, whose last two networks are trained with three seeds."""
    epochs = plan.train.epochs
    return replace(
        plan,
        sparsity=sparsity,
        space=hp.SearchSpace(space),
        criteria=("averaged_loss",),
        train_all=False,
        rungs=(max(1, epochs // 10), epochs // 4),
        keep=(6, 2),
        finalist_seeds=SEEDS,
    )


def points(history: History, names: dict[str, list[str]]) -> dict[str, list[list[float]]]:
    """[active weights, test loss, test metric] of each training, by kind of network."""
    metric = history.header.metric if history.header else None
    assert metric is not None
    found = {}
    for kind, trained in names.items():
        finals = [history.finals[name] for name in trained if name in history.finals]
        found[kind] = [[f.active, f.test_loss, metric.value(f.test_loss, f.test_metric)] for f in finals]
    return found


def of_methods(history: History) -> dict[str, list[str]]:
    """The trained network of each named method."""
    return {str(one.config["method"]): [key] for key, one in history.candidates.items()}


def measured(name: str, workers: int) -> dict[str, Any]:
    """Every network of a task: the name of the metric, and networks by sparsity, kind and seed."""
    found: dict[str, Any] = {}
    metric = ""
    base = replace(TASKS[name](), spectrum=hp.SpectrumConfig(warmup=2, epochs=(0,)))
    with process_pool(workers) as executor:
        for sparsity in SPARSITIES:
            here = found.setdefault(str(sparsity), {})
            for seed in range(SEEDS):
                folder = FOLDER / f"{name}-{sparsity}-s{seed}"
                history = hp.hyperprune(plain(base, sparsity, seed, {"method": PLAIN}), folder, executor=executor)
                kinds = {"dense": ["dense"], "narrower": ["small"]} | of_methods(history)
                for kind, each in points(history, kinds).items():
                    here.setdefault(kind, []).extend(each)
                scaled = hp.hyperprune(
                    plain(base, sparsity, seed, {"method": SCALED, "weight_init": ("fan_in",)}),
                    folder.with_name(f"{folder.name}-fan_in"),
                    executor=executor,
                )
                for kind, each in points(scaled, of_methods(scaled)).items():
                    here.setdefault(f"{kind}, fan_in", []).extend(each)
            for kind, space in SPACES.items():
                plan = searched(base, sparsity, space)
                history = hp.hyperprune(plan, FOLDER / f"{name}-{sparsity}-{kind}", executor=executor)
                best = winner(plan, history)
                assert best is not None
                here |= points(history, {kind: seed_names(plan, best)})
            assert history.header is not None
            metric = history.header.metric.name
    return {"metric": metric, "networks": found}


def main() -> None:
    """Train what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*TASKS, []], default=[], help="tasks; default all")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    for name in given.names or TASKS:
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found[name] = measured(name, given.workers)
        write_atomic(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
        print(name, "is measured", flush=True)


if __name__ == "__main__":
    main()
