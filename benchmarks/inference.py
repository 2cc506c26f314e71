"""How fast is a pruned network? One token, batch 1, one thread: python benchmarks/inference.py [--quick] [--only NAME].

Every contestant computes the same step of the same network with random weights and random masks (for the block formats:
random masks of blocks). All of them run in turn, again and again, in one process, several steps a turn; the first step
of a turn brings the weights back to the caches and is not counted. Reads of as many bytes as a format has give the
bandwidth that was there in the same minutes. The table is printed, and goes to benchmarks/results/inference_BUILD.json.

- `nn.LSTM` packs its weights again at every call: no fair baseline, and here for that reason.
- `addmv`: one dense matrix [W R] for each layer, the baseline of "times".
- ONNX Runtime: one MatMul for each layer; int8 by its own dynamic quantisation.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import torch
from inference_onnx import session
from torch import Tensor, nn

from hyperpruning.deploy.compiler import find_compiler
from hyperpruning.deploy.decoder import Decoder
from hyperpruning.deploy.native import Kernel, NativeMatrix, Work
from hyperpruning.deploy.packing import FORMATS, pack
from hyperpruning.deploy.parts import network_parts

RESULTS = Path(__file__).parent / "results"
SPARSITIES = (0.0, 0.67, 0.8, 0.9, 0.95)
Job = Callable[[], object]

READ = "unsigned long sum(const unsigned long *p, long n) { unsigned long s = 0; while (n--) s += *p++; return s; }"


@dataclass(frozen=True)
class Network:
    """A network of the table: `layers` layers of `hidden` units, or for "softmax" a matrix (outputs, hidden)."""

    cell: str
    hidden: int
    layers: int = 1
    outputs: int = 0


NETWORKS = {
    "2 x LSTM 256": Network("lstm", 256, 2),
    "2 x LSTM 650": Network("lstm", 650, 2),
    "2 x LSTM 1500": Network("lstm", 1500, 2),
    "GRU 384": Network("gru", 384),
    "softmax 10k x 1500": Network("softmax", 1500, 1, 10_000),
}
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "softmax": nn.Linear}


def pruned(network: Network, sparsity: float, block: tuple[int, int]) -> nn.Module:
    """The network with random weights, and zeros by blocks; (1, 1) is unstructured."""
    torch.manual_seed(0)
    sizes = (network.hidden, network.outputs) if network.cell == "softmax" else (network.hidden,) * 2
    more = {} if network.cell == "softmax" else {"num_layers": network.layers}
    module = CELLS[network.cell](*sizes, **more).eval()
    for value in module.parameters():
        if value.ndim == 2:
            rows, columns = (-(-n // b) for n, b in zip(value.shape, block, strict=True))
            mask = torch.rand(rows, columns) >= sparsity
            value.data *= mask.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[
                : len(value), : value.shape[1]
            ]
    return module


def layers_of(module: nn.Module) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """W, R and both biases of each layer."""
    return [tuple(p.detach() for p in weights) for weights in module.all_weights]  # type: ignore[misc]


def torch_step(network: Network, products: list[tuple[Callable[[Tensor], Tensor], ...]], x: Tensor) -> Job:
    """A step in torch: `products` has, for each layer, the product by [W R] (for a GRU: by W and by R)."""
    h = [torch.zeros(network.hidden) for _ in products]
    c = [torch.zeros(network.hidden) for _ in products]

    def lstm() -> Tensor:
        below = x
        for number, (product,) in enumerate(products):
            i, f, g, o = product(torch.cat([below, h[number]])).chunk(4)
            c[number] = torch.sigmoid(f) * c[number] + torch.sigmoid(i) * torch.tanh(g)
            below = h[number] = torch.sigmoid(o) * torch.tanh(c[number])
        return below

    def gru() -> Tensor:
        below = x
        for number, (from_x, from_h) in enumerate(products):
            (r, z, n), (hr, hz, hn) = from_x(below).chunk(3), from_h(h[number]).chunk(3)
            fresh = torch.tanh(n + torch.sigmoid(r + hr) * hn)
            below = h[number] = torch.lerp(fresh, h[number], torch.sigmoid(z + hz))
        return below

    def softmax() -> Tensor:
        return products[0][0](x)

    return {"lstm": lstm, "gru": gru, "softmax": softmax}[network.cell]


def matrices(network: Network, module: nn.Module) -> list[list[tuple[Tensor, Tensor]]]:
    """For each layer the matrices that are multiplied, with their biases."""
    if network.cell == "softmax":
        return [[(module.weight.detach(), module.bias.detach())]]
    if network.cell == "gru":
        return [[(w, b), (r, d)] for w, r, b, d in layers_of(module)]
    return [[(torch.cat([w, r], 1), b + d)] for w, r, b, d in layers_of(module)]


def addmv(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """Dense fp32."""
    return lambda x: torch.addmv(bias, weight, x)


def csr(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """torch's CSR, which MKL multiplies."""
    sparse = weight.to_sparse_csr()
    return lambda x: torch.addmv(bias, sparse, x)


def dynamic_int8(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """torch's dynamic quantisation of a linear layer; 7 bits, since AVX2 saturates its sums of 8 bits."""
    scales = weight.abs().amax(1).clamp_min(1e-9).double() / 63
    quantised = torch.quantize_per_channel(weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8)
    prepacked = torch.ops.quantized.linear_prepack(quantised, bias)
    return lambda x: torch.ops.quantized.linear_dynamic(x[None], prepacked)[0]


def dense_contestants(network: Network) -> tuple[dict[str, Job], dict[str, int]]:
    """The jobs by name, and the bytes of weights that one step reads: their times do not depend on zeros."""
    module, x = pruned(network, 0.0, (1, 1)), inputs(network)
    layers = matrices(network, module)
    weights = sum(weight.numel() for layer in layers for weight, _ in layer)
    jobs, read = dict[str, Job](), dict[str, int]()
    if network.cell != "softmax":
        sequence, state = x[None, None], torch.zeros(network.layers, 1, network.hidden)
        start = (state, state) if network.cell == "lstm" else state
        jobs["torch.nn"], read["torch.nn"] = lambda: module(sequence, start), 4 * weights
    for name, product, size in (("addmv", addmv, 4 * weights), ("torch int8", dynamic_int8, weights)):
        jobs[name] = torch_step(network, [tuple(product(*pair) for pair in layer) for layer in layers], x)
        read[name] = size
    for name, size in (("ORT fp32", 4 * weights), ("ORT int8", weights)):
        jobs[name], read[name] = session(network.cell, layers, x, int8=name.endswith("8")), size
    for format in FORMATS[:2]:
        jobs[format], read[format] = ours(network, module, format, x)
    return jobs, read


def sparse_contestants(network: Network, sparsity: float) -> tuple[dict[str, Job], dict[str, int]]:
    """The same for what makes use of zeros."""
    module, x = pruned(network, sparsity, (1, 1)), inputs(network)
    layers = matrices(network, module)
    jobs, read = dict[str, Job](), dict[str, int]()
    if sparsity:
        jobs["torch CSR"] = torch_step(network, [tuple(csr(*pair) for pair in layer) for layer in layers], x)
        read["torch CSR"] = sum(12 * int(torch.count_nonzero(weight)) for layer in layers for weight, _ in layer)
    blocks = pruned(network, sparsity, (8, 4))
    for format in FORMATS[2:]:
        jobs[format], read[format] = ours(network, blocks if format.startswith("block") else module, format, x)
    return jobs, read


def inputs(network: Network) -> Tensor:
    """The input of the step, always the same."""
    return torch.randn(network.hidden, generator=torch.Generator().manual_seed(1))


def ours(network: Network, module: nn.Module, format: str, x: Tensor) -> tuple[Job, int]:
    """A step with all matrices in one format."""
    if network.cell == "softmax":
        kernel, matrix = Kernel(), NativeMatrix(pack(module.weight, format))
        work, y, bias = Work([matrix.packed]), torch.empty(network.outputs), module.bias.detach()

        def product() -> Tensor:
            kernel.product(matrix, work, x, y)
            return y.add_(bias)

        return product, matrix.packed.nbytes
    names = [linear.name for linear in network_parts(module).linears()]
    decoder = Decoder(
        module, precision="int8" if format.endswith("8") else "exact", formats=dict.fromkeys(names, format)
    )
    one = x[None]
    return lambda: decoder.step(one), sum(report.bytes for report in decoder.report())


def reader() -> Callable[[int], Job]:
    """A maker of jobs that read a number of bytes."""
    folder = Path(tempfile.mkdtemp())
    (folder / "read.c").write_text(READ)
    flags = ["-O3", "-funroll-loops", "-shared", "-fPIC", *(["-mavx2"] if platform.machine() == "x86_64" else [])]
    subprocess.run([*find_compiler(), *flags, str(folder / "read.c"), "-o", str(folder / "read.so")], check=True)
    function = ctypes.CDLL(str(folder / "read.so")).sum
    function.argtypes = [ctypes.c_void_p, ctypes.c_long]

    def read(size: int) -> Job:
        buffer = torch.zeros(max(1, size // 8), dtype=torch.int64)
        return lambda: function(buffer.data_ptr(), len(buffer))

    return read


def in_turn(jobs: Mapping[Any, Job], seconds: float) -> dict[Any, list[float]]:
    """Seconds of single steps of each job; every job has a turn in every round, and a slow one has a short turn."""
    steps, times = {}, {name: list[float]() for name in jobs}
    for name, job in jobs.items():
        job()
        start = time.perf_counter()
        job()
        steps[name] = 0.002 / max(1e-9, time.perf_counter() - start)
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 5 or time.perf_counter() < end:
        for name, job in jobs.items():
            if steps[name] > 0.05:
                job()
            count = max(1, min(200, int(steps[name])))
            for _ in range(3 if steps[name] > 0.5 else 1):
                start = time.perf_counter()
                for _ in range(count):
                    job()
                times[name].append((time.perf_counter() - start) / count)
        rounds += 1
    return times


def measured(network: Network, sparsities: Sequence[float], seconds: float) -> list[dict[str, Any]]:
    """The rows of one network: each dense contestant once, the sparse ones at each sparsity, all in one run."""
    read, jobs, sizes = reader(), dict[tuple[str, float | None], Job](), dict[tuple[str, float | None], int]()
    for sparsity in (None, *sparsities):
        found = dense_contestants(network) if sparsity is None else sparse_contestants(network, sparsity)
        jobs |= {(name, sparsity): job for name, job in found[0].items()}
        sizes |= {(name, sparsity): size for name, size in found[1].items()}
    reads = {("read " + name, sparsity): read(size) for (name, sparsity), size in sizes.items() if name in FORMATS}
    with torch.no_grad():
        times = in_turn(jobs | reads, seconds)
    best = {key: min(values) for key, values in times.items()}
    rows = []
    for (name, sparsity), size in sizes.items():
        lowest = best[name, sparsity]
        row = {"contestant": name, "sparsity": sparsity, "us": lowest * 1e6}
        row |= {"median us": median(times[name, sparsity]) * 1e6, "bytes": size, "GB/s": size / lowest / 1e9}
        row |= {"times addmv": best["addmv", None] / lowest, "times ORT int8": best["ORT int8", None] / lowest}
        if name in FORMATS:
            row["share of bandwidth"] = best["read " + name, sparsity] / lowest
        rows.append(row)
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows of a network."""
    print(f"\n{title}")
    titles = ("us", "median us", "times addmv", "times ORT int8", "bytes", "GB/s", "share of bandwidth")
    print(f"{'':12} {'sparsity':>9}" + "".join(f"{title:>19}" for title in titles))
    for row in sorted(rows, key=lambda row: row["sparsity"] or -1):
        sparsity = "any" if row["sparsity"] is None else f"{row['sparsity']:.0%}"
        cells = [f"{row[key]:,.0f}" if key == "bytes" else f"{row[key]:.2f}" if key in row else "" for key in titles]
        print(f"{row['contestant']:12} {sparsity:>9}" + "".join(f"{cell:>19}" for cell in cells), flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--quick", action="store_true", help="two small networks, two sparsities, nothing written")
    parser.add_argument("--only", choices=list(NETWORKS), help="one network; the file keeps the others' rows")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # ONNX Runtime's advice to preprocess the graph
    warnings.filterwarnings("ignore", message=".*(Sparse CSR|quantiz).*")
    names = ["2 x LSTM 256", "GRU 384"] if options.quick else [options.only] if options.only else list(NETWORKS)
    file = RESULTS / f"inference_{Kernel().build}.json"  # one for each build of the kernel: other processors
    tables = json.loads(file.read_text())["networks"] if file.is_file() else {}
    for name in names:
        sparsities, seconds = ((0.0, 0.9), 1.0) if options.quick else (SPARSITIES, options.seconds)
        tables[name] = measured(NETWORKS[name], sparsities, seconds)
        show(name, tables[name])
        if not options.quick:
            versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "kernel": Kernel().build}
            content = {"processor": processor(), **versions, "networks": tables}
            file.write_text(json.dumps(content, indent=1) + "\n")


def markdown(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table of docs/results.md."""
    columns = ["network", "sparsity", "dense fp32 (`addmv`)", "ONNX Runtime int8", "exact, unstructured"]
    columns += ["int8, unstructured", "int8, blocks 8 x 4"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, rows in tables.items():
        found = {(row["contestant"], row["sparsity"]): row for row in rows}
        dense = [_three(found[one, None]["us"]) for one in ("addmv", "ORT int8")]
        for sparsity in SPARSITIES[1:]:
            ours = [found[format, sparsity] for format in ("window_fp32", "window_int8", "block_int8")]
            cells = [f"{_three(r['us'])} ({r['times addmv']:.1f}; {r['times ORT int8']:.1f})" for r in ours]
            lines.append(f"| {' | '.join([name, f'{sparsity:.0%}'.replace('%', ' %'), *dense, *cells])} |")
    return "\n".join(lines)


def _three(number: float) -> str:
    """Three digits, or whole numbers."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
