"""One dense network for each setting: is the distance to a dense network with the candidate's own settings better?

    python benchmarks/own_dense.py                 # all mixed tables, then benchmarks/results/own_dense.json
    python benchmarks/own_dense.py gru-lm --workers 2

In a mixed pool the published distance compares all candidates with one dense network, also those that have another
learning rate, weight decay or dropout. Here each candidate of a table gets a dense network of its own, which has its
settings of training and task; it is trained only as far as early rungs need it. The results are Spearman's correlations
with the final validation loss, and the regret of replayed searches, beside those of one dense network and of the freed
distance. `python benchmarks/evidence.py --page` writes them into docs/results.md. It can be stopped at any moment.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from collect_tables import RUNS, SETTINGS, TABLES
from evidence import CANDIDATES, SEARCHES, interval, mean_interval, rounded, rung_of, schedule, whole

import hyperpruning as hp
from hyperpruning.files import write_atomic
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.search.configured import configured
from hyperpruning.search.criteria import CRITERIA, Criterion, Rung
from hyperpruning.search.tables import Table
from hyperpruning.training.checks import recurrent_part
from hyperpruning.training.device import threads
from hyperpruning.training.epochs import epochs
from hyperpruning.training.state import DivergedError, Training

RESULTS = Path(__file__).parent / "results" / "own_dense.json"
FOLDER = RUNS.parent / "own_dense"
SCHEDULE, JUDGES = "middle", ("ls", "conditional_ls", "averaged_loss", "own_dense")
Spectra = dict[str, list[float]]


def measured(name: str, row: int, looks: tuple[int, ...]) -> Spectra:
    """Exponents by epoch of a dense network with the settings of a candidate; trained unless its file is there.

    One that diverges has no spectra from there on.
    """
    path = FOLDER / name / f"c{row:03d}.json"
    if not path.exists():
        plan = SETTINGS[name]()
        one = configured(plan, hp.load_table(TABLES / f"{name}.npz").configs[row])
        training, found = Training(one.task, one.train, None, sparsity=0.0), {}
        with threads(plan.train.threads):
            try:
                for record in epochs(training, max(looks)):
                    if record.epoch in looks:
                        with training.evaluated() as network:
                            part = recurrent_part(one.task, network)
                            spectrum = lyapunov_spectrum(*part, warmup=plan.spectrum.warmup)
                        found[str(record.epoch)] = spectrum.exponents.tolist()
            except DivergedError:
                pass
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(found).encode())
    known: Spectra = json.loads(path.read_text())
    return known


def to_own_dense(spectra: dict[str, Spectra]) -> Criterion:
    """The criterion: the distance to the candidate's own dense network; one whose network diverged comes last."""

    def own_dense(rung: Rung) -> dict[str, float]:
        found = {}
        for name, record in rung.now().items():
            own = spectra[key(rung.configs[name])].get(str(rung.epoch))
            found[name] = rung.distance(record.exponents, own) if own is not None else float("inf")
        return found

    return own_dense


def key(config: Any) -> str:
    """A config as a key."""
    return json.dumps(config, sort_keys=True)


def result(table: Table, spectra: dict[str, Spectra], looks: tuple[int, ...]) -> dict[str, Any]:
    """Correlations at each look, and regrets of searches on the same pools."""
    CRITERIA["own_dense"] = to_own_dense(spectra)
    names = [name for name in whole(table) if len(spectra[key(table.configs[int(name)])]) == len(looks)]
    final = [float(table.mean_final[int(name)]) for name in names]
    correlations = {}
    for epoch in looks:
        rung = rung_of(table, epoch, names)
        correlations[str(epoch)] = {name: interval(list(CRITERIA[name](rung).values()), final) for name in JUDGES}
    settings, regrets = schedule(table, SCHEDULE), {}
    for name in JUDGES:
        done = [
            hp.replay(table, seed=seed, n_candidates=CANDIDATES, criteria=(name,), **settings)
            for seed in range(SEARCHES)
        ]
        regrets[name] = mean_interval(np.array([one.regret[name] for one in done]))
    return {
        "epochs": table.epochs,
        "candidates": len(names),
        "diverged": len(whole(table)) - len(names),
        "correlations": correlations,
        "regrets": regrets,
    }


def main() -> None:
    """Train what is missing, and write the results."""
    mixed = [path.stem for path in sorted(TABLES.glob("*.npz")) if "training.lr" in hp.load_table(path).configs[0]]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*mixed, []], default=[], help="tables; default all that are mixed")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    for name in given.names or mixed:
        table = hp.load_table(TABLES / f"{name}.npz")
        looks = schedule(table, SCHEDULE)["rungs"]
        count = len(table.configs)
        with ProcessPoolExecutor(given.workers, mp_context=get_context("forkserver")) as executor:
            networks = executor.map(measured, [name] * count, range(count), [looks] * count)
            spectra = {key(config): one for config, one in zip(table.configs, networks, strict=True)}
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found[name] = rounded(result(table, spectra, looks))
        write_atomic(RESULTS, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
        print(name, "is measured", flush=True)


if __name__ == "__main__":
    main()
