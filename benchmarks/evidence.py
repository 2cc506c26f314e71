"""The evidence of docs/results.md, from the tables in benchmarks/tables: `make evidence`.

    python benchmarks/evidence.py            # everything: benchmarks/results/evidence.json, then the page and figures
    python benchmarks/evidence.py --page     # the page and figures only, from the json
    python benchmarks/evidence.py --taskset FILE.npz  # first the curves of TaskSet, from a file

For each table: what early values say about the final loss (Spearman's correlation, with what the spectrum adds to the
settings and the loss), and the regret of searches replayed on random parts of the pool by the search's own `decide`.
Intervals are 95 % bootstrap intervals: over candidates for correlations, over the replayed searches for regrets.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from evidence_page import write_page

import hyperpruning as hp
from hyperpruning.files import write_atomic
from hyperpruning.lyapunov.distances import DISTANCES, spectrum_distance
from hyperpruning.report.nearest import POOLS, features
from hyperpruning.search.criteria import CRITERIA, Rung
from hyperpruning.search.ranking import ranks, spearman
from hyperpruning.search.regression import residuals_of, ridge, standardised, terms_of
from hyperpruning.search.replay import regret_of
from hyperpruning.search.tables import Array, Table
from hyperpruning.training.record import EpochRecord

HERE = Path(__file__).parent
TABLES, PUBLISHED, RESULTS = HERE / "tables", HERE / "published", HERE / "results" / "evidence.json"
TASKSET = RESULTS.with_name("taskset.json")
OTHERS = ("frontier", "taskset", "probe", "baselines", "own_dense")  # results of other scripts
SEARCHES, CANDIDATES, DRAWS = 100, 24, 500
# rungs as fractions of the training, and the candidates of 24 that are kept
SCHEDULES = {
    "early": ((0.0125, 0.0375, 0.1), (12, 6, 2)),
    "middle": ((0.025, 0.0625, 0.1875), (16, 8, 2)),
    "constant 5 %": ((0.05,), (2,)),
    "constant 10 %": ((0.1,), (2,)),
    "constant 20 %": ((0.2,), (2,)),
    "late": ((0.1, 0.25), (8, 3)),
    "published": ((0.03, 0.06, 0.09, 0.12, 0.15), (13, 8, 5, 3, 2)),
}
# schedulers whose rungs are not among the epochs with spectra: for losses only
SCHEDULERS = {
    name: {"scheduler": name, "min_epochs": 1, "reduction_factor": 3} for name in ("halving", "hyperband", "asha")
}
RULES = (
    *("loss", "min_loss", "averaged_loss", "extrapolated_loss", "ls", "conditional_ls", "rank_sum", "blend"),
    *("conditional_ls + averaged_loss", "calibrated", "surrogate", "config_surrogate", "drop_fraction", "first"),
    # chosen of 13 rules on the five tables in CHOSEN_ON, before the others were looked at
    (FIRST_BOTH := "conditional_ls + averaged_loss then averaged_loss"),
)
# criteria side by side on shared trainings; the first was the default until these tables
TOGETHER = (
    *(("ls", "loss", "rank_sum"), ("ls", "loss"), ("ls", "averaged_loss"), ("loss", "averaged_loss")),
    ("ls", "loss", "averaged_loss"),
)
CHOSEN_ON = ("digits", "digits-mixed", "lm-long", "lm-short-mixed", "lorenz-mixed")
LOSSES = ("loss", "averaged_loss")
BASELINES = ("loss", "ls")  # a default must not be worse than the better one
FOLLOWED = {"calibrated", "surrogate", "config_surrogate"}
EARLY = ("loss", "averaged_loss", "ls", "conditional_ls", "averaged_ls", "ls_end", "rank_sum", "blend", "drop_fraction")
REGRET = 0.15  # that a cheap search must reach


def rung_of(table: Table, epoch: int, names: Sequence[str], distance: str = "l2") -> Rung:
    """All candidates of a table at an epoch, as a criterion sees them."""
    records: dict[str, Mapping[int, EpochRecord]] = {name: table.records[int(name)] for name in names}

    def between(one: Sequence[float], two: Sequence[float]) -> float:
        return float(spectrum_distance(list(one), list(two), kind=distance))

    configs = {name: table.configs[int(name)] for name in names}
    return Rung(epoch, table.epochs, records, table.records[-1], configs, between)


def whole(table: Table) -> list[str]:
    """The rows that trained to the end."""
    return [str(row) for row in range(len(table.configs)) if math.isfinite(table.mean_final[row])]


def interval(one: Sequence[float], two: Sequence[float]) -> list[float]:
    """Spearman's correlation and its bootstrap interval over pairs."""
    a, b = np.asarray(one), np.asarray(two)
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        drawn = rng.integers(len(a), size=len(a))
        x, y = ranks(a[drawn].tolist()), ranks(b[drawn].tolist())
        spread = x.std() * y.std()
        found.append(float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else 0.0)
    low, high = np.quantile(found, (0.025, 0.975))
    return [spearman(one, two) or 0.0, float(low), float(high)]


def partial(one: Sequence[float], two: Sequence[float], given: Sequence[float]) -> list[float]:
    """The correlation of two rankings, both freed of a third one, with its interval."""
    terms = [column for column in [standardised(ranks(given).tolist())] if column is not None]
    return interval(*(residuals_of(ranks(values).tolist(), terms) for values in (one, two)))


def left_out(columns: Sequence[np.ndarray[Any, Any]], final: Sequence[float]) -> list[float]:
    """How well a ridge regression foretells each candidate from the others: Spearman, with its interval."""
    known: list[float | None] = ranks(final).tolist()
    foretold = []
    for row in range(len(known)):
        foretold.append(ridge(columns, [None if other == row else value for other, value in enumerate(known)])[row])
    return interval(foretold, final)


def early(table: Table, epoch: int, names: Sequence[str]) -> dict[str, list[float]]:
    """Correlations of early values of some candidates with their final validation losses."""
    rung, final = rung_of(table, epoch, names), [float(table.mean_final[int(name)]) for name in names]
    return {name: interval(list(CRITERIA[name](rung).values()), final) for name in EARLY}


def without_random(table: Table) -> dict[str, Any]:
    """The same among candidates whose new weights do not start at random values; empty if these are all."""
    names = whole(table)
    calm = [name for name in names if table.configs[int(name)].get("regrowth_init") != "random"]
    if len(calm) == len(names):
        return {}
    epochs = [epoch for epoch in table.spectrum_epochs if 0 < epoch <= 0.25 * table.epochs]
    return {"candidates": len(calm), "epochs": {str(epoch): early(table, epoch, calm) for epoch in epochs}}


def correlations(table: Table) -> dict[str, Any]:
    """What values known after an epoch say about the final validation loss."""
    names = whole(table)
    final = [float(table.mean_final[int(name)]) for name in names]
    found: dict[str, Any] = {}
    config = terms_of([table.configs[int(name)] for name in names])
    for epoch in (epoch for epoch in table.spectrum_epochs if 0 < epoch <= max(0.5 * table.epochs, 5)):
        rung = rung_of(table, epoch, names)
        scores = {name: list(CRITERIA[name](rung).values()) for name in EARLY}
        here = early(table, epoch, names)
        for kind in DISTANCES:
            here[f"ls, {kind}"] = interval(list(CRITERIA["ls"](rung_of(table, epoch, names, kind)).values()), final)
        judge = scores["conditional_ls"]
        here["given the drop fraction"] = partial(judge, final, scores["drop_fraction"])
        here["given the averaged loss"] = partial(judge, final, scores["averaged_loss"])
        loss, spectrum = (standardised(ranks(values).tolist()) for values in (scores["averaged_loss"], judge))
        assert loss is not None
        assert spectrum is not None
        here["settings"] = left_out(config, final)
        here["settings and loss"] = left_out([*config, loss], final)
        here["settings, loss and spectrum"] = left_out([*config, loss, spectrum], final)
        found[str(epoch)] = here
    return found


def schedule(table: Table, name: str) -> dict[str, Any]:
    """Rungs of a schedule in epochs at which spectra are recorded; of rungs that coincide the last is taken."""
    fractions, keep = SCHEDULES[name]
    recorded = [epoch for epoch in table.spectrum_epochs if epoch] or list(range(1, table.epochs))
    nearest = [min(recorded, key=lambda epoch, f=f: abs(epoch - f * table.epochs)) for f in fractions]  # type: ignore[misc]
    kept = dict(zip(nearest, keep, strict=True))
    return {"rungs": tuple(kept), "keep": tuple(kept.values())}


def searches(table: Table, settings: Mapping[str, Any], rules: Sequence[str]) -> dict[str, Any]:
    """Replayed searches on the same random parts of a pool, by each rule; differences from rules are in pairs."""
    done = {}
    for rule in rules:
        found = [
            hp.replay(
                table,
                seed=seed,
                n_candidates=CANDIDATES,
                criteria=(rule,),
                n_followed=8 if rule in FOLLOWED else 0,
                **settings,
            )
            for seed in range(SEARCHES)
        ]
        done[rule] = [(one.regret[rule], one.epochs) for one in found]
    return summary(done)


def summary(done: Mapping[str, Sequence[tuple[float, int]]]) -> dict[str, Any]:
    """Means by each rule, from (regret, epochs) of searches on the same pools; differences are in pairs."""
    regrets = {rule: np.array([regret for regret, _ in each]) for rule, each in done.items()}
    found = {
        rule: {
            "epochs": float(np.mean([epochs for _, epochs in each])),
            "regret": mean_interval(regrets[rule]),
            "best": float((regrets[rule] < 1e-9).mean()),
        }
        for rule, each in done.items()
    }
    for rule, base in product(found, BASELINES):
        if base in regrets:
            found[rule][f"minus {base}"] = mean_interval(regrets[rule] - regrets[base])
    return found


def together(table: Table, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replayed searches by several criteria side by side, which export the best of their winners by its own training.

    The epochs are those of all criteria together.
    """
    found = {}
    for criteria in TOGETHER:
        regrets, epochs = [], []
        for seed in range(SEARCHES):
            done = hp.replay(table, seed=seed, n_candidates=CANDIDATES, criteria=criteria, **settings)
            best = min(criteria, key=lambda name: table.final_valid[done.chosen[name], 0])
            regrets.append(done.regret[best])
            epochs.append(done.epochs)
        found[", ".join(criteria)] = {"epochs": float(np.mean(epochs)), "regret": mean_interval(np.array(regrets))}
    return found


def mean_interval(values: np.ndarray[Any, Any]) -> list[float]:
    """The mean and its bootstrap interval."""
    draws = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(1), (0.025, 0.975))
    return [float(values.mean()), float(low), float(high)]


def random_choice(table: Table, count: int) -> list[float]:
    """The regret of training some random candidates of 24 to the end: mean, interval."""
    found, one_seed = [], np.where(np.isfinite(table.final_valid[:-1, 0]), table.final_valid[:-1, 0], np.inf)
    for seed in range(10 * SEARCHES):
        pool = np.random.default_rng(seed).permutation(len(table.configs))[:CANDIDATES]
        row = min(pool[:count], key=lambda each: one_seed[each])
        found.append(regret_of(table, pool.tolist(), row))
    return mean_interval(np.array(found))


def noise(table: Table, unit: float) -> float | None:
    """The deviation of one training over seeds, without what a seed does to all; None for a pool with one seed."""
    known = np.isfinite(table.final_valid[:-1])
    several = table.final_valid[:-1][known.all(1)].astype(float)
    if several.shape[1] < 2 or len(several) < 2:
        return None
    freed = several - several.mean(0) - several.mean(1, keepdims=True) + several.mean()
    degrees = (several.shape[0] - 1) * (several.shape[1] - 1)
    return math.sqrt(float((freed**2).sum()) / degrees) / unit


def facts(table: Table) -> dict[str, Any]:
    """The pool in numbers; `noise` is the deviation of one training over seeds, in units of regret."""
    final = table.mean_final[np.isfinite(table.mean_final)]
    best, median, worst = (float(np.quantile(final, part)) for part in (0, 0.5, 0.9))
    return {
        "candidates": len(table.configs),
        "failed": len(table.configs) - len(final),
        "seeds": int(table.final_valid.shape[1]),
        "epochs": table.epochs,
        "best": best,
        "median": median,
        "worst decile": worst,
        "dense": float(table.final_valid[-1, 0]),
        "noise": noise(table, median - best),
        "random": {str(count): random_choice(table, count) for count in (1, 2, 3, 6, 12)},
    }


def evidence_of(path: Path) -> tuple[str, dict[str, Any]]:
    """Everything that is computed from one table."""
    table = hp.load_table(path)
    rules = {name: searches(table, schedule(table, name), RULES) for name in SCHEDULES}
    rules |= {name: searches(table, settings, LOSSES) for name, settings in SCHEDULERS.items()}
    several = {name: together(table, schedule(table, name)) for name in ("early", "middle")}
    return table.name, {
        "facts": facts(table),
        "correlations": correlations(table),
        "without random": without_random(table),
        "searches": rules,
        "together": several,
    }


def published_pool() -> dict[str, list[float]]:
    """Correlations in the 26 published candidates: of the distance and of the loss after epoch 3 with the end."""
    with (PUBLISHED / "stacked_lstm_ptb_candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    groups = {
        "all": rows,
        "without SET": [row for row in rows if row["drop"] != "SET"],
        "without SET and threshold": [row for row in rows if row["drop"] not in ("SET", "threshold")],
    }
    found = {}
    for name, group in groups.items():
        final = [float(row["final_test_ppl"]) for row in group]
        early = ([float(row[key]) for row in group] for key in ("ls_distance_epoch3_log2", "valid_ppl_epoch3"))
        found[name] = [len(group), *(spearman(values, final) for values in early)]
    return found


def curves(name: str, valid: Array, train: Array, test: Array) -> Table:
    """Recorded losses (N, epochs) as a table without spectra; epoch 0 is not recorded, and repeats epoch 1."""
    whole = np.isfinite(valid).all(1)  # what diverged is left out
    valid, train, test = (np.concatenate([values[whole, :1], values[whole]], 1) for values in (valid, train, test))
    best = valid[:, 1:].argmin(1) + 1
    rows = [
        *range(len(valid)),
        0,
    ]  # there is no dense reference: the first row stands for it; no rule of losses reads it
    plan = replace(
        hp.Experiment(training={"epochs": valid.shape[1] - 1}).plan(), n_candidates=len(valid), criteria=("loss",)
    )
    missing = np.zeros((len(rows), 0, 0), np.float32)
    return Table(
        name=name,
        identity=plan.identity(),
        configs=tuple({"setting": number} for number in range(len(valid))),
        valid=valid[rows],
        averaged=np.full_like(valid[rows], np.nan),
        train=train[rows],
        spectrum_epochs=(),
        spectra=missing,
        averaged_spectra=missing,
        final_valid=valid[rows, best[rows]][:, None],
        final_test=test[rows, best[rows]][:, None],
        active=(0,) * len(valid),
    )


def nasbench() -> Table:
    """NAS-Bench-NLP: losses of 341 recurrent cells on WikiText-2."""
    with np.load(PUBLISHED / "nasbench_nlp.npz") as found:
        return curves("nasbench-nlp", *(found[part] for part in ("valid", "train", "test")))


def taskset(path: Path) -> list[Table]:
    """The recurrent tasks of TaskSet: losses of 1,000 settings of the optimizer each; index 0 is untrained."""
    with np.load(path) as found:
        names = sorted(name.removesuffix("/valid") for name in found if name.endswith("/valid"))
        return [
            curves(name, *(found[f"{name}/{part}"][:, 1:] for part in ("valid", "train", "test"))) for name in names
        ]


CURVE_RULES = {
    "constant 3, keep 1": {"rungs": (3,), "keep": (1,)},
    "constant 3, keep 2": {"rungs": (3,), "keep": (2,)},
    "constant 5, keep 2": {"rungs": (5,), "keep": (2,)},
    "rungs 1, 3, 9, 27": {"rungs": (1, 3, 9, 27), "keep": (14, 5, 2, 1)},
    "rungs 3, 6, 9, 12, 15": {"rungs": (3, 6, 9, 12, 15), "keep": (20, 10, 5, 3, 2)},
}


def curve_searches(tables: Sequence[Table]) -> dict[str, Any]:
    """Searches in pools of 40 rows, as many in each table."""
    found = {}
    for name, settings in CURVE_RULES.items():
        for rule in ("loss", "min_loss", "extrapolated_loss"):
            done = [
                hp.replay(table, seed=seed, n_candidates=40, criteria=(rule,), **settings)
                for table in tables
                for seed in range(SEARCHES)
            ]
            regrets = np.array([one.regret[rule] for one in done])
            found[f"{name}; {rule}"] = {
                "epochs": float(np.mean([one.epochs for one in done])),
                "regret": mean_interval(regrets),
                "best": float((regrets < 1e-9).mean()),
            }
    return found


def main() -> None:
    """Compute the evidence, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--taskset", type=Path, metavar="NPZ", help="recorded curves, which the project does not have")
    given = parser.parse_args()
    if given.taskset is not None:
        found = rounded(curve_searches(taskset(given.taskset)))
        TASKSET.write_text(json.dumps(found, sort_keys=True) + "\n")
    if not given.page and given.taskset is None:
        with ProcessPoolExecutor(given.workers, mp_context=get_context("forkserver")) as executor:
            outside = executor.submit(curve_searches, [nasbench()])
            tables = dict(executor.map(evidence_of, sorted(TABLES.glob("*.npz"))))
            found = {"tables": tables, "published": published_pool(), "nasbench": outside.result()}
        RESULTS.write_text(json.dumps(rounded(found), sort_keys=True) + "\n")
    write_atomic(POOLS, (json.dumps(pools(results()["tables"]), indent=1) + "\n").encode())
    write_page(results(), sorted(TABLES.glob("*.npz")))


def pools(tables: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of the nearest table: features, and correlations up to a quarter of the training."""
    found = {}
    for name, table in tables.items():
        epochs = [epoch for epoch in table["correlations"] if int(epoch) <= 0.25 * table["facts"]["epochs"]]
        judged = {epoch: {one: table["correlations"][epoch][one][0] for one in EARLY} for epoch in epochs}
        pool = {"candidates": table["facts"]["candidates"], "correlations": judged}
        found[name] = features(hp.load_table(TABLES / f"{name}.npz").identity) | pool
    return found


def results() -> dict[str, Any]:
    """What the page is made of: the evidence, the curves of TaskSet, and what the other scripts found."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    more = {name: json.loads(RESULTS.with_name(f"{name}.json").read_text()) for name in OTHERS}
    return found | more | {"chosen_on": CHOSEN_ON}


def rounded(value: Any) -> Any:
    """Numbers with four digits, so that the file is small."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
