"""How long must the probe be? Spectra of candidates of a table with several numbers of sequences and of steps.

    python benchmarks/probe.py          # what runs/probe lacks, then benchmarks/results/probe.json

Random candidates of lm-long and its dense network are trained again, to an early epoch. After some epochs their spectra
are taken with each probe. The results, for each, are Spearman's correlations of the l2 distance to the dense network
with the candidates' final validation loss (from the table) and with the distance by the longest probe, and the
processor time of one spectrum. `python benchmarks/evidence.py --page` writes them into docs/results.md. It can be
stopped at any moment.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from collect_tables import RUNS, SETTINGS, TABLES
from evidence import interval, rounded, whole

import hyperpruning as hp
from hyperpruning.files import write_atomic
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.search.configured import configured
from hyperpruning.search.plan import Plan
from hyperpruning.training.checks import recurrent_part
from hyperpruning.training.device import threads
from hyperpruning.training.epochs import epochs
from hyperpruning.training.state import Training

TABLE, RESULTS = "lm-long", Path(__file__).parent / "results" / "probe.json"
FOLDER = RUNS.parent / "probe"
CANDIDATES, EPOCHS, SEQUENCES, STEPS = 40, (2, 8, 15), (1, 2, 4, 8), (20, 60, 120, 240)


def spectra(training: Training, warmup: int) -> dict[str, Any]:
    """Exponents, and processor seconds, of the network with each probe; the steps are those that are measured."""
    found = {}
    for sequences in SEQUENCES:
        for steps in STEPS:
            task = replace(training.task, probe_batch=sequences, probe_steps=warmup + steps)
            start = time.process_time()
            with training.evaluated() as network:
                exponents = lyapunov_spectrum(*recurrent_part(task, network), warmup=warmup).exponents
            found[f"{sequences} x {steps}"] = {"seconds": time.process_time() - start, "exponents": exponents.tolist()}
    return found


def measured(plan: Plan, name: str, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The spectra of one network by epoch; trained unless its file is there. Without a config it is the dense one."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        if config is None:
            training = Training(plan.dense_task, plan.train, None, sparsity=0.0)
        else:
            one = configured(plan, config)
            training = Training(one.task, one.train, one.method, sparsity=one.sparsity)
        with threads(plan.train.threads):
            found = {
                str(record.epoch): spectra(training, plan.spectrum.warmup)
                for record in epochs(training, max(EPOCHS))
                if record.epoch in EPOCHS
            }
        write_atomic(path, json.dumps(found).encode())
    known: dict[str, Any] = json.loads(path.read_text())
    return known


def main() -> None:
    """Train what is missing, and write the results."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    plan, table = SETTINGS[TABLE](), hp.load_table(TABLES / f"{TABLE}.npz")
    rows = sorted(int(row) for row in random.Random(0).sample(whole(table), CANDIDATES))
    final = [float(table.mean_final[row]) for row in rows]
    dense, networks = measured(plan, "dense", None), []
    for row in rows:
        networks.append(measured(plan, f"c{row:02d}", table.configs[row]))
        print(f"candidate {row} is measured", flush=True)
    found: dict[str, Any] = {"table": TABLE, "epochs": table.epochs, "candidates": len(rows), "looks": {}}
    for epoch in map(str, EPOCHS):
        distances = {
            probe: [hp.spectrum_distance(each[epoch][probe]["exponents"], one["exponents"]) for each in networks]
            for probe, one in dense[epoch].items()
        }
        longest = list(distances.values())[-1]
        found["looks"][epoch] = {
            probe: {
                "final": interval(values, final),
                "longest": interval(values, longest),
                "seconds": float(np.median([each[epoch][probe]["seconds"] for each in networks])),
            }
            for probe, values in distances.items()
        }
    write_atomic(RESULTS, (json.dumps(rounded(found), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
