"""Collect the tables of docs/results.md: pools of candidates that are all trained to the end.

    python benchmarks/collect_tables.py                      # all settings, one after the other
    python benchmarks/collect_tables.py lm-long lm-long-mixed --workers 2
    python benchmarks/collect_tables.py --check              # trains 3 random candidates of each shipped table again

Each pool is a search with `train_all` in runs/tables/NAME, so that the script can be stopped and started again at any
moment. Then the best 10 candidates and 10 random ones are trained with 3 more seeds (NAME-s1, ...), and everything
becomes benchmarks/tables/NAME.npz, with its SHA-256 in benchmarks/tables/SHA256SUMS.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sparse_against_dense import write_text

import hyperpruning as hp
from hyperpruning.search.dimensions import FloatRange
from hyperpruning.search.executors import process_pool
from hyperpruning.search.plan import Plan
from hyperpruning.search.tables import with_seeds
from hyperpruning.sparsity.serialization import COMPONENTS

RUNS = Path("runs/tables")
TABLES = Path(__file__).parent / "tables"
RECORDED = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 25, 30, 40, 50, 60, 80)  # epochs at which spectra are taken
BEST, RANDOM, SEEDS = 10, 10, 3
# components of methods that start dense or change their density would not be comparable at an early rung
METHOD: dict[str, Any] = {
    "allocation": ("uniform", "er"),
    "drop_scope": ("tensor", "sign", "global"),
    "grow": ("random", "gradient", "gradient_average", "unfired"),
    "redistribute": ("none", "nonzeros", "magnitude"),
    "decay": ("cosine", "constant", "linear"),
    "regrowth_init": ("zero", "keep", "random"),
    "drop_fraction": FloatRange(0.0, 0.8, 0.1),
}
# Weights that grow with random values disturb a network until its last update, which no early look can see.
NO_RANDOM = METHOD | {"regrowth_init": ("zero", "keep")}
FAN_IN: dict[str, Any] = {"weight_init": ("fan_in",)}  # as the default space of a search has it
PUBLISHED: dict[str, Any] = {
    "update": tuple(name for name in COMPONENTS["update"] if name.startswith("published")),
    "allocation": ("uniform", "er"),
    "grow": ("random", "gradient"),
    "redistribute": ("none", "nonzeros", "magnitude"),
    "drop_fraction": FloatRange(0.3, 0.8, 0.1),
}
LM_MIXED = {
    "training.lr": FloatRange(2.0, 40.0, log=True),
    "training.weight_decay": FloatRange(1e-7, 1e-4, log=True),
    "task.dropout": FloatRange(0.0, 0.4, 0.1),
}
ADAM_MIXED = {
    "training.lr": FloatRange(1e-3, 3e-2, log=True),
    "training.weight_decay": FloatRange(1e-4, 0.3, log=True),
    "task.dropout": FloatRange(0.0, 0.4, 0.1),
}


def language(space: dict[str, Any], *, epochs: int, n: int, sparsity: float = 0.8, seed: int = 0, **model: Any) -> Plan:
    """A character model: short on a fifth of the built-in text; long on a sixteenth, with one mask update an epoch.

    The long ones are judged on a quarter of the other splits, since a sixteenth (3,600 characters) orders candidates by
    chance, and have dropout, since without it they overfit long before their weights are averaged.
    """
    sections: dict[str, Any] = {"data": {"fraction": 0.2}, "model": model}
    if epochs > 10:
        write_text(RUNS / "text", 16, 4)
        sections = {
            "data": {"folder": RUNS / "text", "unit": "character"},
            "model": {"dropout": 0.2} | model,
            "dense": {"dropout": 0.3},
        }
    experiment = hp.Experiment(
        **sections,
        training={"epochs": epochs, "seed": seed},
        pruning={"sparsity": sparsity, "updates_per_epoch": 1 if epochs > 10 else 4},
    )
    return pool(experiment.plan(), space, n)


def digits(space: dict[str, Any], *, n: int) -> Plan:
    """A GRU that reads scikit-learn's digits row by row."""
    data = load_digits()
    task = hp.SequenceClassification(data=(data.images / 16, data.target), hidden=48)
    train = hp.TrainConfig(epochs=40, lr=0.01, schedule="cosine", updates_per_epoch=1)
    return pool(supervised(task, train, 0.9), space, n)


def lorenz(space: dict[str, Any], *, n: int) -> Plan:
    """A GRU that forecasts the Lorenz system."""
    task = hp.Forecasting(data=lorenz_series(3000), window=25, horizon=25, hidden=48)
    train = hp.TrainConfig(epochs=30, lr=0.005, schedule="cosine", updates_per_epoch=1)
    return pool(supervised(task, train, 0.8), space, n)


def lorenz_series(steps: int, dt: float = 0.02) -> np.ndarray[Any, Any]:
    """The series (steps, 3) by the fourth-order Runge-Kutta method, every second step, after the transient."""

    def slope(s: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.array([10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]])

    state, found = np.ones(3), []
    for _ in range(2 * steps + 500):
        a = slope(state)
        b = slope(state + dt / 2 * a)
        c = slope(state + dt / 2 * b)
        state = state + dt / 6 * (a + 2 * b + 2 * c + slope(state + dt * c))
        found.append(state)
    return np.array(found)[500::2]


def supervised(task: Any, train: hp.TrainConfig, sparsity: float) -> Plan:
    """A plan whose space and rounds `pool` sets."""
    space = hp.SearchSpace({"drop_fraction": FloatRange(0.3, 0.5, 0.1)})
    spectrum = hp.SpectrumConfig(warmup=2)
    rounds: dict[str, Any] = {"n_candidates": 3, "rungs": (1,), "keep": (1,)}
    return Plan(task=task, dense_task=task, train=train, sparsity=sparsity, space=space, spectrum=spectrum, **rounds)


def pool(plan: Plan, space: dict[str, Any], n: int) -> Plan:
    """The plan of a pool: random configs, all trained to the end."""
    recorded = tuple(epoch for epoch in RECORDED if epoch <= plan.train.epochs)
    return replace(
        plan,
        space=hp.SearchSpace(space),
        spectrum=replace(plan.spectrum, averaged=True, epochs=recorded),
        n_candidates=n,
        ask_batch=n,
        sampler="random",
        criteria=("loss",),
        winner="best",
        rungs=(1,),
        keep=(1,),
        train_all=True,
        as_many_weights=False,
    )


SETTINGS = {
    "lm-long": lambda: language(METHOD, epochs=80, n=60),
    "lm-long-mixed": lambda: language(METHOD | LM_MIXED, epochs=80, n=60),
    "lm-long-no-random": lambda: language(NO_RANDOM, epochs=80, n=60, seed=100),
    "lm-long-fan-in": lambda: language(NO_RANDOM | FAN_IN, epochs=80, n=60, seed=200),
    "lm-short": lambda: language(NO_RANDOM, epochs=10, n=100),
    "lm-short-mixed": lambda: language(METHOD | LM_MIXED, epochs=10, n=100),
    "lm-sparse": lambda: language(NO_RANDOM | LM_MIXED, epochs=40, n=60, sparsity=0.95),
    "lm-sparse-fan-in": lambda: language(NO_RANDOM | LM_MIXED | FAN_IN, epochs=40, n=60, sparsity=0.95),
    "gru-lm": lambda: language(METHOD | LM_MIXED, epochs=40, n=60, cell="gru"),
    "lm-published": lambda: language(PUBLISHED, epochs=40, n=60),
    "digits": lambda: digits(METHOD, n=100),
    "digits-mixed": lambda: digits(METHOD | ADAM_MIXED, n=100),
    "lorenz-mixed": lambda: lorenz(METHOD | ADAM_MIXED, n=60),
}


def again(table: hp.Table) -> tuple[dict[str, Any], ...]:
    """The configs that are trained with more seeds: the best of the pool, and random others."""
    final = table.final_valid[:-1, 0]
    ended = sorted(np.flatnonzero(np.isfinite(final)).tolist(), key=lambda row: final[row])
    others = random.Random(0).sample(ended[BEST:], min(RANDOM, len(ended) - BEST))
    return tuple(table.configs[row] for row in [*ended[:BEST], *others])


def collect(name: str, workers: int, seeds: int) -> Path:
    """Train a pool and its seeds, and write its table; a pool that has a table or a run is not trained again."""
    plan, shipped, folders = SETTINGS[name](), TABLES / f"{name}.npz", []
    with process_pool(workers) as executor:
        if not shipped.exists():
            hp.hyperprune(plan, RUNS / name, executor=executor)
            TABLES.mkdir(exist_ok=True)
            hp.save_table(hp.table_of([RUNS / name], name), shipped)
        table = hp.load_table(shipped)
        configs = again(table)
        for seed in range(1, seeds + 1):
            folders.append(RUNS / f"{name}-s{seed}")
            space = replace(plan.space, fixed=configs)
            train = replace(plan.train, seed=plan.train.seed + seed)
            count = len(configs)
            hp.hyperprune(
                replace(plan, space=space, train=train, n_candidates=count, ask_batch=count),
                folders[-1],
                executor=executor,
            )
    if folders:
        hp.save_table(with_seeds(table, folders), shipped)
    return shipped


def check(name: str, workers: int, count: int = 3) -> bool:
    """Train random candidates of a shipped table again, and say how their curves differ."""
    plan, table = SETTINGS[name](), hp.load_table(TABLES / f"{name}.npz")
    rows = random.sample(range(len(table.configs)), count)
    space = replace(plan.space, fixed=tuple(table.configs[row] for row in rows))
    plan = replace(plan, space=space, n_candidates=count, ask_batch=count)
    with TemporaryDirectory() as folder, process_pool(workers) as executor:
        hp.hyperprune(plan, folder, executor=executor)
        again = hp.table_of([folder], name)
    equal = True
    for number, row in enumerate(rows):
        pairs = [(getattr(again, part)[number], getattr(table, part)[row]) for part in ("valid", "averaged", "spectra")]
        same = all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)
        largest = max(float(np.nanmax(np.abs(one - other))) for one, other in pairs[:2])
        said = "the same, bit for bit" if same else f"other numbers; losses differ by up to {largest:.2g} nats"
        print(f"{name}, candidate {row}: {said}")
        equal = equal and same
    return equal


def main() -> None:
    """Collect the settings that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SETTINGS, []], default=[], help="settings; default all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds beside the pool's own; default %(default)s")
    parser.add_argument("--check", action="store_true", help="train 3 random candidates of each shipped table again")
    given = parser.parse_args()
    if given.check:
        equal = [check(path.stem, given.workers) for path in sorted(TABLES.glob("*.npz"))]
        sys.exit(not all(equal))
    for name in given.names or SETTINGS:
        print(name, collect(name, given.workers, given.seeds), flush=True)
        sums = (
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(TABLES.glob("*.npz"))
        )
        (TABLES / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
