"""What a decoder gains on this machine: bytes of the weights, microseconds of a step, how each matrix is multiplied."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hyperpruning.deploy.compiler import CompilerError
from hyperpruning.deploy.costs import compact_bytes
from hyperpruning.deploy.decoder import Decoder
from hyperpruning.deploy.model_folder import load
from hyperpruning.deploy.native import Kernel, NativeMatrix, Work
from hyperpruning.deploy.native_network import MatrixReport
from hyperpruning.deploy.packing import pack
from hyperpruning.deploy.parts import NetworkParts, network_parts

COLUMNS = 1024  # of the dense matrix whose product measures the bandwidth
DENSE = {"exact": "dense_fp32", "int8": "dense_int8"}


@dataclass(frozen=True)
class StepTime:
    """One way to compute a step.

    Attributes:
        name: "dense fp32", "exact", "dense int8" or "int8".
        microseconds: of the fastest step.
        bytes: of weights that a step reads.
        bandwidth: bytes a second that a dense product of as many bytes reads here; None without a kernel.
        matrices: how each matrix is multiplied.
    """

    name: str
    microseconds: float
    bytes: int
    bandwidth: float | None
    matrices: list[MatrixReport]

    @property
    def share(self) -> float | None:
        """The bytes a second of the step, as a fraction of `bandwidth`."""
        return None if self.bandwidth is None else self.bytes / (self.microseconds * 1e-6) / self.bandwidth


def benchmark(network: nn.Module, *, seconds: float = 2.0) -> list[StepTime]:
    """Measure the steps of a decoder, each way in turn, batch 1: dense fp32, exact, dense int8, int8.

    Without a compiled kernel only "exact" and "int8" are measured.

    Args:
        network: as of `Decoder`.
        seconds: that the measurement may take; it takes at least 5 rounds.
    """
    parts = network_parts(network)
    names = [linear.name for linear in parts.linears()]
    x = _input(parts)
    decoders = dict[str, Decoder]()
    for precision, dense in DENSE.items():
        decoder = Decoder(network, precision=precision)
        if decoder.instructions != "torch":
            decoders[dense.replace("_", " ")] = Decoder(
                network, precision=precision, formats=dict.fromkeys(names, dense)
            )
        decoders[precision] = decoder
    reports = {name: decoder.report() for name, decoder in decoders.items()}
    sizes = {name: sum(one.bytes for one in report) for name, report in reports.items()}
    jobs: dict[str, Callable[[], object]] = {name: _step(decoder, x) for name, decoder in decoders.items()}
    reads = {f"read {name}": job for name, size in sizes.items() if (job := _read(size)) is not None}
    times = _shortest(jobs | reads, seconds)
    found = []
    for name, report in reports.items():
        read = times.get(f"read {name}")
        found.append(StepTime(name, times[name] * 1e6, sizes[name], read and _read_bytes(sizes[name]) / read, report))
    return found


@dataclass(frozen=True)
class DeployedSize:
    """One network as it is deployed.

    Attributes:
        name: "dense, float32", "winner, float32" or "winner, int8".
        bytes: of the weights: 4 for each of the dense network, of the compact file of a model folder for the others.
        microseconds: of the fastest step of a `Decoder`, one sequence.
    """

    name: str
    bytes: int
    microseconds: float


def deployed_sizes(dense: Path | str, winner: Path | str, *, seconds: float = 1.0) -> list[DeployedSize]:
    """Compare a dense network with a sparse one that is deployed, exact and in int8.

    Args:
        dense: a model file or folder.
        winner: likewise.
        seconds: that the measurement of the steps may take; it takes at least 5 rounds.

    Raises:
        ModelFileError: there is no such network.
        TypeError: a network that the decoder does not know.
    """
    networks = {"dense, float32": load(dense), "winner, float32": load(winner), "winner, int8": load(winner)}
    jobs, sizes = dict[str, Callable[[], object]](), dict[str, int]()
    for name, network in networks.items():
        precision = "int8" if name.endswith("int8") else "exact"
        jobs[name] = _step(Decoder(network, precision=precision), _input(network_parts(network)))
        whole = 4 * sum(one.numel() for one in network.parameters())
        sizes[name] = whole if name.startswith("dense") else compact_bytes(network, precision)
    return [DeployedSize(name, sizes[name], time * 1e6) for name, time in _shortest(jobs, seconds).items()]


def step_microseconds(
    networks: Mapping[str, nn.Module], *, precision: str = "exact", seconds: float = 2.0
) -> dict[str, float]:
    """The microseconds of the fastest step of a `Decoder` of each network, one sequence, in turn.

    Args:
        networks: by name.
        precision: as of `Decoder`.
        seconds: that the measurement may take; it takes at least 5 rounds.

    Raises:
        TypeError: a network that the decoder does not know.
    """
    jobs = {
        name: _step(Decoder(network, precision=precision), _input(network_parts(network)))
        for name, network in networks.items()
    }
    return {name: time * 1e6 for name, time in _shortest(jobs, seconds).items()}


def product_microseconds(
    networks: Sequence[nn.Module], precision: str, *, seconds: float = 2.0
) -> list[tuple[float, dict[str, float]]]:
    """The microseconds of a step of each network, and of its product with each matrix by name, one sequence.

    Args:
        networks: as of `Decoder`.
        precision: as of `Decoder`.
        seconds: that the measurement of the steps may take; it takes at least 5 rounds.

    Raises:
        CompilerError: there is no compiled kernel.
        TypeError: a network that the decoder does not know.
    """
    Kernel()  # its error says why there is none
    decoders = [Decoder(network, precision=precision) for network in networks]
    inputs = [_input(network_parts(network)) for network in networks]
    steps = _shortest(
        {str(number): _step(*one) for number, one in enumerate(zip(decoders, inputs, strict=True))}, seconds
    )
    return [(1e6 * step, one.product_microseconds()) for step, one in zip(steps.values(), decoders, strict=True)]


def _input(parts: NetworkParts) -> torch.Tensor:
    """The input of one step: a token or a vector."""
    return (
        torch.zeros(1, dtype=torch.int64) if parts.embedding is not None else torch.linspace(-1, 1, parts.inputs)[None]
    )


def _step(decoder: Decoder, x: torch.Tensor) -> Callable[[], object]:
    return lambda: decoder.step(x)


def _read_bytes(size: int) -> int:
    return max(4, size // (4 * COLUMNS)) * 4 * COLUMNS


def _read(size: int) -> Callable[[], object] | None:
    """A product with a dense matrix of about so many bytes; None without a kernel."""
    try:
        kernel = Kernel()
    except CompilerError:
        return None
    matrix = NativeMatrix(pack(torch.ones(_read_bytes(size) // (4 * COLUMNS), COLUMNS), "dense_fp32"))
    work, x, y = Work([matrix.packed]), torch.ones(COLUMNS), torch.empty(matrix.packed.rows)
    return lambda: kernel.product(matrix, work, x, y)


def _shortest(jobs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Seconds of each job: the shortest of some rounds, in which each job runs 3 times and then the next."""
    times, end, rounds = dict.fromkeys(jobs, math.inf), time.perf_counter() + seconds, 0
    while rounds < 5 or time.perf_counter() < end:
        for name, job in jobs.items():
            for _ in range(3):
                start = time.perf_counter()
                job()
                times[name] = min(times[name], time.perf_counter() - start)
        rounds += 1
    return times
