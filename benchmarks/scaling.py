"""Measure how a search scales over processes, and what share of its time is not training.

    python benchmarks/scaling.py [--workers 1 2] [--candidates 8] [--epochs 3] [--hidden H] [--json FILE]

The network and the text are those of the default search. First the same search runs with each number of processes, one
thread in each: wall-clock time, candidates per minute, and the speed-up against one process; the ledgers must be equal
byte for byte.
By default the numbers of processes are 1, 2, 4, ... up to the cores of this machine. Then the search runs once in this
process, and the processor time of its parts is measured: the search itself (decisions, suggestions, observations), the
ledger, the averages of the weights (their updates, and their validation loss) and the spectra; the rest is training,
validation and checkpoints. The goals: 1.8 times the candidates per minute with 2 processes on 2 cores, and at most 5 %
for these four parts together (1 % with --hidden 650). Run it on a machine without other jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from measuring import table

from hyperpruning.experiment import Experiment
from hyperpruning.search import driver, worker
from hyperpruning.search.executors import process_pool
from hyperpruning.search.ledger import LEDGER, Ledger
from hyperpruning.search.plan import Plan
from hyperpruning.training import averaging
from hyperpruning.training.state import Training

# what is measured: the part of a search, and the functions in which its time is spent
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "search": ((driver, "decide"), (driver, "ask"), (driver, "observations")),
    "ledger": ((Ledger, "append"),),
    "averages": ((averaging, "_update_moving"), (Training, "_moving_loss")),
    "spectra": ((worker, "_spectrum"),),
}


def plan_of(*, candidates: int, epochs: int, hidden: int | None) -> Plan:
    """The search: all candidates to the first epoch, a third of them further, two to the end."""
    model = {} if hidden is None else {"hidden": hidden, "embedding": hidden}
    return Experiment(
        model=model,
        training={"epochs": epochs, "threads": 1, "device": "cpu"},
        search={"n_candidates": candidates, "ask_batch": candidates, "rungs": (1,), "keep": (2,), "criteria": ("ls",)},
    ).plan()


def timed_search(plan: Plan, workers: int, folder: Path) -> dict[str, Any]:
    """Run a search in a pool of processes, which are started before the clock."""
    with process_pool(workers, threads=1) as executor:
        for future in [executor.submit(os.getpid) for _ in range(workers)]:
            future.result()
        started = time.perf_counter()
        driver.search(plan, folder, executor=executor, lock=False)
        seconds = time.perf_counter() - started
    return {"processes": workers, "seconds": seconds, "candidates/min": 60 * plan.n_candidates / seconds}


@contextmanager
def stopwatches() -> Iterator[dict[str, float]]:
    """Within the block, the processor time of each part is added up, in seconds."""
    spent, before = dict.fromkeys(PARTS, 0.0), []

    def watched(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.process_time() - started

        return call

    for part, places in PARTS.items():
        for owner, name in places:
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, watched(part, getattr(owner, name)))
    try:
        yield spent
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def shares(plan: Plan, folder: Path) -> dict[str, float]:
    """The shares of the processor time of a search in this process, in percent; "together" is that of all parts."""
    torch.set_num_threads(1)
    started = time.process_time()
    with stopwatches() as spent:
        driver.search(plan, folder, lock=False)
    whole = time.process_time() - started
    found = {part: 100 * seconds / whole for part, seconds in spent.items()}
    return {"cpu s": whole, **found, "together": sum(found.values())}


def main() -> None:
    """Measure, print, and write the numbers if asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    powers = [2**power for power in range(cores.bit_length()) if 2**power <= cores]
    parser.add_argument("--workers", type=int, nargs="+", default=powers)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    plan = plan_of(candidates=options.candidates, epochs=options.epochs, hidden=options.hidden)
    load = os.getloadavg()[0]
    print(f"{cores} cores, load {load:.1f} before the first search (other jobs make all numbers worse)")
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(workers) for workers in options.workers]
        rows = [timed_search(plan, *one) for one in zip(options.workers, folders, strict=True)]
        ledgers = {(folder / LEDGER).read_bytes() for folder in folders}
        if len(ledgers) != 1:
            raise SystemExit("The ledgers must be the same with any number of processes, got different ones.")
        parts = shares(plan, Path(name) / "here")
    for row in rows:
        row["speed-up"] = rows[0]["seconds"] / row["seconds"]
    table(rows)
    table([parts])
    if options.json:
        machine = {"cores": cores, "load": load, "machine": platform.machine(), "torch": torch.__version__}
        settings = {"candidates": options.candidates, "epochs": options.epochs, "hidden": options.hidden}
        found = {"machine": machine, "settings": settings, "scaling": rows, "percent of processor time": parts}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
