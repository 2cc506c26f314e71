"""Measure the Lyapunov spectrum: time, error, threads, memory; optionally also those of the published code.

    python benchmarks/spectrum.py [--reference DIR] [--sizes 64 128 256 512 1500] [--json FILE]

DIR is a checkout of the published code (github FATE4869/hyperpruning), which is imported and timed. The network is a
2-layer LSTM of equal widths, batch 2, 10 + 35 steps, float32, one thread. Its weights have three times torch's initial
scale, so that its Jacobians are as badly conditioned as those of a trained network. All values of a row are measured
alternately in one run. The minimum over the repetitions is reported, in seconds of processor time (for the threads:
wall time), which depends least on other jobs. From H = 1500 on, the published code is timed over 3 steps and scaled.

Columns: seconds; seconds in float64; the published code's seconds and their ratio to ours; "floor", the QR bound as a
fraction of our time, i.e. the time in which this computer's float32 matrix product does 10/3 H^3 operations per layer,
sequence and step, the cost of a Householder QR at every step; the speed-up by computing only the top quarter of the
exponents, and by two threads; errors against float64, and the errors of rounding only the Jacobians to float32 (with a
QR in float64).
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import best, table
from torch import Tensor, nn

from hyperpruning.lyapunov.blocks import trajectory_chunks
from hyperpruning.lyapunov.networks import driven_map
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.models.rhn import RHNLayer

WARMUP, STEPS, BATCH, LAYERS, GAIN = 10, 35, 2, 2, 3.0


def lstm(size: int) -> tuple[nn.LSTM, Tensor]:
    """Return the network and its inputs (T, B, H)."""
    torch.manual_seed(0)
    network = nn.LSTM(size, size, LAYERS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(GAIN)
    return network, torch.randn(WARMUP + STEPS, BATCH, size)


class Published:
    """The published function, called as in its own script."""

    def __init__(self, folder: Path) -> None:
        sys.path.append(str(folder / "sources" if (folder / "sources").is_dir() else folder))
        warnings.simplefilter("ignore")  # it calls torch.qr, which is deprecated
        self.module = importlib.import_module("lyapunov")
        self.module.tqdm = lambda iterable, **_: iterable

    def __call__(self, network: nn.LSTM, inputs: Tensor, warmup: int) -> Tensor:
        """Return its exponents (B, K), in bits."""
        model = nn.Module()
        model.rnn = network
        start = inputs.new_zeros(LAYERS, inputs.shape[1], network.hidden_size)
        return self.module.calc_LEs_an(inputs, (start, start.clone()), model=model, warmup=warmup)[0]


def row(size: int, published: Published | None, threads: int) -> dict[str, float]:
    """Measure one width."""
    network, inputs = lstm(size)
    square = torch.randn(max(size, 512), max(size, 512))
    few = size >= 1000
    jobs: dict[str, Callable[[], Any]] = {
        "ours": lambda: lyapunov_spectrum(network, inputs),
        "float64": lambda: lyapunov_spectrum(network, inputs, dtype=torch.float64),
        "quarter": lambda: lyapunov_spectrum(network, inputs, k=size // 4),
    }
    if published is not None:
        jobs["published"] = lambda: published(network, inputs[:2] if few else inputs[WARMUP:], 1 if few else WARMUP)
    times = best(jobs, 1 if few else max(3, min(25, 2560 // size)))
    times |= best({"product": lambda: square @ square}, 7)
    floor = 10 / 3 * size**3 * LAYERS * BATCH * len(inputs) * times["product"] / (2 * len(square) ** 3)
    result = {"H": size, "seconds": times["ours"], "float64": times["float64"], "floor": floor / times["ours"]}
    if published is not None:
        result["published"] = times["published"] * (15 if few else 1)
        result["ratio"] = result["published"] / times["ours"]
    result["quarter"] = times["ours"] / times["quarter"]
    result["threads"] = thread_speed_up(jobs["ours"], threads, 1 if few else 4)
    if not few:
        exact = lyapunov_spectrum(network, inputs, dtype=torch.float64).per_sequence
        error = (lyapunov_spectrum(network, inputs).per_sequence - exact).abs()
        result["error"], result["mean error"] = error.max().item(), error.mean().item()
        rounded = (with_rounded_jacobians(network, inputs) - exact).abs()
        result["rounding"], result["mean rounding"] = rounded.max().item(), rounded.mean().item()
    if published is not None and size <= 256:
        exact = lyapunov_spectrum(network, inputs[WARMUP:], dtype=torch.float64, convention="published").per_sequence
        found = published(network, inputs[WARMUP:], WARMUP) * math.log(2)
        result["published error"] = (found - exact).abs().max().item()
    return result


@torch.no_grad()
def with_rounded_jacobians(network: nn.LSTM, inputs: Tensor) -> Tensor:
    """Return the exponents (B, K) of Jacobians that are computed in float32, and then multiplied in float64 by QR."""
    found = []
    stack = driven_map(network, inputs, None, None)
    for layer, (states, layer_inputs) in zip(stack.layers, next(trajectory_chunks(stack)), strict=True):
        terms = layer.jacobian_terms(states.flatten(0, 1), layer_inputs.flatten(0, 1))
        jacobians = layer.jacobian(terms, network.hidden_size)
        q, growth = torch.eye(network.hidden_size).double(), 0
        for step, jacobian in enumerate(jacobians.unflatten(0, (-1, BATCH)).double()):
            q, r = torch.linalg.qr(jacobian @ q)
            growth = growth + r.diagonal(dim1=-2, dim2=-1).abs().log() * (step >= WARMUP)
        found.append(growth / STEPS)
    return torch.cat(found, -1)


def thread_speed_up(job: Callable[[], Any], threads: int, repetitions: int) -> float:
    """Return the speed-up of the job on `threads` threads."""
    times = []
    for count in (1, threads):
        torch.set_num_threads(count)
        times.append(best({"job": job}, repetitions, time.perf_counter)["job"])
    torch.set_num_threads(1)
    return times[0] / times[1]


def compare_jacobians(size: int, depth: int) -> list[dict[str, Any]]:
    """Compare hand-written Jacobians with forward-mode AD, over a few steps."""
    torch.manual_seed(0)
    gru = nn.GRU(256, 256)
    highway = RHNLayer(size, size, depth=depth).requires_grad_(False)
    for weight in (highway.w, *highway.r):
        nn.init.normal_(weight, std=size**-0.5)
    for bias in highway.b:
        nn.init.zeros_(bias)[size:] = -2  # transform gates start nearly closed, as in the paper
    results = []
    for name, network, step, width, steps in (
        ("GRU 256", gru, lambda h, x: gru(x[None], h[None])[1][0], 256, 6),
        (f"RHN {size} x {depth}", [highway], highway.step, size, 2),
    ):
        inputs, start = torch.randn(steps, BATCH, width), torch.zeros(BATCH, width)
        times = best(
            {
                "ours": lambda n=network, x=inputs: lyapunov_spectrum(n, x, warmup=1),
                "AD": lambda s=step, x=inputs, h=start: lyapunov_spectrum(s, x, warmup=1, start=h),
            },
            2,
        )
        one = lyapunov_spectrum(network, inputs, warmup=1).exponents
        other = lyapunov_spectrum(step, inputs, warmup=1, start=start).exponents
        difference = (one - other).abs().max().item()
        per_step = {key: value / steps for key, value in times.items()}
        results.append({"cell": name, **per_step, "ratio": times["AD"] / times["ours"], "difference": difference})
    return results


def operation_fractions(size: int, k: int | None = None) -> dict[str, Any]:
    """Return the fractions of processor time of the most expensive operations, relative to the unprofiled run."""
    network, inputs = lstm(size)
    lyapunov_spectrum(network, inputs, k=k)
    start = time.process_time()
    lyapunov_spectrum(network, inputs, k=k)
    total = time.process_time() - start
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        lyapunov_spectrum(network, inputs, k=k)
    events = [(e.key.removeprefix("aten::"), e.self_cpu_time_total / 1e6 / total) for e in profile.key_averages()]
    heavy = sorted(events, key=lambda event: -event[1])[:6]
    return {"H": size, "k": k or size} | {name: f"{fraction:.0%}" for name, fraction in heavy}


def memory(size: int) -> dict[str, float]:
    """Return the peak memory of a separate process in MiB: before the spectrum (torch, weights), and in total."""
    folder = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import spectrum; spectrum.print_peak({size})"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    before, after = (int(kib) / 1024 for kib in out.split())
    return {"H": size, "before": before, "peak": after}


def print_peak(size: int) -> None:
    """Print the peak memory in KiB before and after a spectrum."""
    torch.set_num_threads(1)
    network, inputs = lstm(size)
    print(peak_kib())
    lyapunov_spectrum(network, inputs[:6], warmup=2)  # the peak does not grow with the steps
    print(peak_kib())


def peak_kib() -> str:
    """Return this process's peak memory in KiB; getrusage would include the parent's memory at the fork."""
    return next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="checkout of the published code")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1500])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rhn", type=int, nargs=2, default=[830, 10], metavar=("H", "DEPTH"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    published = Published(arguments.reference) if arguments.reference else None
    results: dict[str, list[dict[str, Any]]] = {"lstm": []}
    for size in arguments.sizes:
        results["lstm"].append(row(size, published, arguments.threads))
    table(results["lstm"])
    results["jacobians"] = compare_jacobians(*arguments.rhn)
    table(results["jacobians"])
    for size in arguments.sizes:
        for k in (None, size // 4):
            table([operation_fractions(size, k)])
    results["memory"] = [memory(max(arguments.sizes))]
    table(results["memory"])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
