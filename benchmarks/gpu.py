"""Check everything that needs a GPU, and compare it with the CPU; writes one JSON. `make gpu` runs it.

    python benchmarks/gpu.py [--device cuda] [--sizes 512 1500] [--json FILE]

It needs torch, numpy and optuna; the tests also pytest, without which they are left out. Without a GPU it says so and
ends with the exit code 2; if a check fails, with 1. `--device cpu` runs all but the tests on the CPU, to try it out.

1. tests: those that have a case for a GPU.
2. search: the same small search on the CPU and on the device. Before training, losses must agree to 1e-4 (relative) and
   exponents to 1e-3 nats; after an epoch, losses to 2e-2, since rounding grows along a training.
3. resume: a search that is stopped within its trainings and continued has the same ledger, byte for byte.
4. side by side: two processes share the device; the ledger is the same, byte for byte.
5. spectra: seconds on the CPU and on the device at each H (2-layer LSTM, batch 2, 45 steps), the factor between them,
   the largest difference of two exponents, which must be at most 1e-2 nats, and the memory on the device.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hyperpruning as hp
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.search.driver import search
from hyperpruning.search.executors import process_pool
from hyperpruning.search.history import Epoch, Fact, History
from hyperpruning.search.ledger import LEDGER

NO_GPU = 2  # exit code
LOSS_BEFORE, LOSS_AFTER, EXPONENT, SPECTRUM = 1e-4, 2e-2, 1e-3, 1e-2  # tolerances, see above
TESTS = ("tests/test_kernels.py", "tests/contracts/test_method.py", "tests/training/test_recipes.py")


def plan_on(device: str) -> hp.Plan:
    """A search of four candidates: which of three random waves a sequence is."""
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=240)
    phase, time_steps = draw.random((240, 1)), np.arange(12)
    waves = np.sin((labels[:, None] + 1) * time_steps / 2 + 6 * phase) + 0.1 * draw.standard_normal((240, 12))
    task = hp.SequenceClassification(data=(waves[:, :, None].astype(np.float32), labels), hidden=16)
    return hp.Plan(
        task=task,
        dense_task=task,
        train=hp.TrainConfig(epochs=4, lr=0.01, device=device),
        sparsity=0.8,
        space=hp.SearchSpace({"method": ("rigl", "set", "mest", "snfs")}),
        n_candidates=4,
        ask_batch=4,
        rungs=(1,),
        keep=(2,),
        as_many_weights=False,
        spectrum=hp.SpectrumConfig(warmup=2),
    )


def tests_of(device: str) -> dict[str, Any]:
    """Run the tests that have a case for a GPU."""
    if device == "cpu" or importlib.util.find_spec("pytest") is None:
        return {"ok": True, "left out": "they need a GPU and pytest"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "cuda or gpu or device", *TESTS],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"ok": done.returncode == 0, "said": done.stdout.strip().splitlines()[-20:]}


def search_of(device: str, folder: Path) -> dict[str, Any]:
    """The same search on the CPU and on the device, record by record."""
    here = search(plan_on("cpu"), folder / "here", lock=False)
    return compared(here, search(plan_on(device), folder / "there", lock=False))


def compared(one: History, two: History) -> dict[str, Any]:
    """The largest differences of two searches before training and after an epoch, and whether they are tolerated."""
    names = [name for name in one.epochs if name in two.epochs]

    def loss(epoch: int) -> float:
        pairs = [(one.epochs[name][epoch].valid_loss, two.epochs[name][epoch].valid_loss) for name in names]
        return max(abs(a - b) / abs(a) for a, b in pairs)

    spectra = [(one.epochs[name][0].exponents, two.epochs[name][0].exponents) for name in names]
    exponent = max(abs(a - b) for pair in spectra for a, b in zip(*pair, strict=True))
    found = {"loss before": loss(0), "loss after": loss(1), "exponent": exponent}
    within = found["loss before"] <= LOSS_BEFORE and found["loss after"] <= LOSS_AFTER and exponent <= EXPONENT
    return {"ok": within, "networks": len(names), **found, "same winners": one.winners == two.winners}


class Stopped(Exception):
    """The search is stopped here on purpose."""


def resume_of(device: str, folder: Path) -> dict[str, Any]:
    """A search that is stopped after each third epoch, and continued."""
    plan, stops, count = plan_on(device), 0, 0

    def stop(fact: Fact) -> None:
        nonlocal count
        count += isinstance(fact, Epoch)
        if isinstance(fact, Epoch) and count % 3 == 0:
            raise Stopped

    search(plan, folder / "whole", lock=False)
    while True:
        try:
            search(plan, folder / "pieces", on_fact=stop, lock=False)
            break
        except Stopped:
            stops += 1
    same = (folder / "whole" / LEDGER).read_bytes() == (folder / "pieces" / LEDGER).read_bytes()
    return {"ok": same and stops > 0, "stops": stops}


def side_by_side(device: str, folder: Path) -> dict[str, Any]:
    """The search with two processes on the device; the ledger is that of `resume_of`."""
    started = time.perf_counter()
    with process_pool(2) as executor:
        search(plan_on(device), folder / "together", executor=executor, lock=False)
    same = (folder / "whole" / LEDGER).read_bytes() == (folder / "together" / LEDGER).read_bytes()
    return {"ok": same, "seconds": time.perf_counter() - started}


@torch.no_grad()
def spectra_of(device: str, size: int) -> dict[str, Any]:
    """The spectrum of a stack of two LSTM layers on both."""
    torch.manual_seed(0)
    network, inputs = nn.LSTM(size, size, 2), torch.randn(45, 2, size)
    exponents, seconds = [], []
    for one in ("cpu", device):
        network.to(one)
        job = lambda: lyapunov_spectrum(network, inputs.to(one), warmup=10).exponents.cpu()  # noqa: B023, E731
        if one != "cpu":
            job()  # the first call also prepares the device
            torch.cuda.reset_peak_memory_stats(one)
        started = time.perf_counter()
        exponents.append(job())
        seconds.append(time.perf_counter() - started)
    difference = float((exponents[0] - exponents[1]).abs().max())
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device != "cpu" else None
    return {
        "ok": difference <= SPECTRUM,
        "H": size,
        "cpu s": seconds[0],
        "device s": seconds[1],
        "factor": seconds[0] / seconds[1],
        "difference": difference,
        "MiB": memory,
    }


def main() -> int:
    """Run the checks, print a line for each, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1500])
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("A CUDA GPU must be there for this check, got none that torch sees. Run it on a machine with one.")
        return NO_GPU
    device = options.device
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checks: dict[str, Callable[[], dict[str, Any]]] = {
            "tests": lambda: tests_of(device),
            "search": lambda: search_of(device, folder),
            "resume": lambda: resume_of(device, folder),
            "side by side": lambda: side_by_side(device, folder),
            **{f"spectra, H = {size}": lambda size=size: spectra_of(device, size) for size in options.sizes},
        }
        found: dict[str, Any] = {}
        for check, run in checks.items():
            found[check] = run()
            values = ", ".join(f"{key} {value}" for key, value in found[check].items() if key != "ok")
            print(f"{'ok' if found[check]['ok'] else 'FAILED':<8}{check}: {values}", flush=True)
    machine = {"device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu", "torch": torch.__version__}
    options.json.write_text(json.dumps(machine | found, indent=1) + "\n")
    return 0 if all(one["ok"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
