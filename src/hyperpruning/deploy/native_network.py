"""A network in the compiled kernel: each matrix in the format that is fastest here, and one call for each step."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperpruning.deploy.native import Kernel, LayerStruct, MatrixStruct, NativeMatrix, PlanStruct, Work
from hyperpruning.deploy.packing import BLOCK_COLUMNS, BLOCK_ROWS, pack, rounded_up
from hyperpruning.deploy.parts import CELLS, Layer, Linear, NetworkParts

CANDIDATES = {
    "exact": ("dense_fp32", "window_fp32", "block_fp32"),
    "int8": ("dense_int8", "window_int8", "block_int8"),
}
MEASURED_SECONDS = 0.1  # for the choice of all formats of a network, as long as it is
MIN_ROUNDS, MAX_ROUNDS = 5, 200


@dataclass(frozen=True)
class MatrixReport:
    """How a decoder multiplies by one matrix.

    Attributes:
        name: of the weight in the network.
        rows: of the matrix.
        columns: of the matrix.
        sparsity: fraction of zeros.
        format: the chosen one.
        bytes: that one product reads.
        microseconds: of one product, by format; formats that read too much to win are not measured.
    """

    name: str
    rows: int
    columns: int
    sparsity: float
    format: str
    bytes: int
    microseconds: dict[str, float]


class NativeNetwork:
    """A network that runs in kernel.c.

    Args:
        parts: of the network.
        precision: "exact" or "int8".
        kernel: the compiled kernel.
        formats: the format of each matrix by name; one that is missing is chosen by timing.
    """

    def __init__(self, parts: NetworkParts, precision: str, kernel: Kernel, formats: dict[str, str]) -> None:
        self.kernel, self.reports = kernel, list[MatrixReport]()
        self.matrices: dict[str, NativeMatrix] = {}
        linears = list(parts.linears())
        chosen = choose_formats(linears, precision, kernel, formats)
        for linear, (matrix, report) in zip(linears, chosen, strict=True):
            self.matrices[linear.name] = matrix
            self.reports.append(report)
        self.work = Work(matrix.packed for matrix in self.matrices.values())
        self._kept: list[Any] = []  # what the structs point to
        self.direct = isinstance(parts.head, Linear) and not parts.pooled
        self.outputs = len(parts.head.bias) if self.direct and isinstance(parts.head, Linear) else parts.hidden
        self.plan = self._plan(parts)
        self._address = ctypes.addressof(self.plan)

    def bound(self, state: Tensor) -> Callable[[Tensor], Tensor]:
        """A step that advances a state (B, S) in place: contiguous inputs (B,) or (B, I) -> (B, `outputs`).

        It raises IndexError for a token outside the vocabulary.
        """
        step, address, batch, outputs = self.kernel.library.hp_step, self._address, len(state), self.outputs
        pointer, most, empty = state.data_ptr(), self.plan.vocabulary - 1, torch.empty

        def run(x: Tensor) -> Tensor:
            output = empty(batch, outputs)
            if step(address, batch, x.data_ptr(), pointer, output.data_ptr()):
                raise IndexError(f"Tokens must be 0 to {most}, got {x.tolist()}. Use the vocabulary of the network.")
            return output

        return run

    def product_seconds(self) -> dict[str, float]:
        """Seconds of one product with each matrix in its format, by the name of the weight, called from Python."""
        formats = {one.name: one.format for one in self.reports}
        times = measure(self.kernel, [{formats[name]: matrix} for name, matrix in self.matrices.items()])
        return {name: min(one.values()) for name, one in zip(self.matrices, times, strict=True)}

    def product(self, linear: Linear, x: Tensor) -> Tensor:
        """W x + b for each of N vectors, (N, C) -> (N, R)."""
        x = x.contiguous()
        y = torch.empty(len(x), len(linear.bias))
        for one, result in zip(x, y, strict=True):
            self.kernel.product(self.matrices[linear.name], self.work, one, result)
        return y.add_(linear.bias)

    def _plan(self, parts: NetworkParts) -> PlanStruct:
        layers = (LayerStruct * len(parts.layers))(*[self._layer(layer) for layer in parts.layers])
        self._kept.append(layers)
        rows = max(len(layer.input.weight) for layer in parts.layers)
        head = parts.head if self.direct and isinstance(parts.head, Linear) else None
        return PlanStruct(
            build=self.kernel.number,
            layers=len(layers),
            inputs=parts.inputs,
            outputs=self.outputs,
            state=parts.state_size,
            vocabulary=0 if parts.embedding is None else len(parts.embedding),
            embedding=self._pointer(parts.embedding),
            mean=self._pointer(parts.mean),
            deviation=self._pointer(parts.deviation),
            layer=layers,
            head=ctypes.pointer(self.matrices[head.name].struct) if head else None,
            head_bias=self._pointer(head.bias) if head else None,
            vector=self._pointer(torch.zeros(parts.inputs)),
            from_input=self._pointer(torch.zeros(rows)),
            from_state=self._pointer(torch.zeros(rows)),
            work=self.work.struct,
        )

    def _layer(self, layer: Layer) -> LayerStruct:
        recurrent = (MatrixStruct * len(layer.recurrent))(*[self.matrices[r.name].struct for r in layer.recurrent])
        self._kept.append(recurrent)
        return LayerStruct(
            CELLS.index(layer.cell),
            layer.input.weight.shape[1],
            layer.hidden,
            len(layer.recurrent),
            ctypes.pointer(self.matrices[layer.input.name].struct),
            recurrent,
            self._pointer(layer.input.bias),
            self._pointer(torch.cat([r.bias for r in layer.recurrent])),
        )

    def _pointer(self, value: Tensor | None) -> int | None:
        if value is None:
            return None
        value = value.contiguous()
        self._kept.append(value)
        return value.data_ptr()


def choose_formats(
    linears: Sequence[Linear], precision: str, kernel: Kernel, formats: Mapping[str, str]
) -> list[tuple[NativeMatrix, MatrixReport]]:
    """Pack each matrix in the format that is fastest on this processor, or in the given one."""
    candidates = []
    for linear in linears:
        given = formats.get(linear.name)
        names = likely_formats(linear.weight, precision) if given is None else [given]
        candidates.append({name: NativeMatrix(pack(linear.weight, name)) for name in names})
    times = measure(kernel, candidates) if any(len(one) > 1 for one in candidates) else [{}] * len(linears)
    chosen = []
    for linear, matrices, seconds in zip(linears, candidates, times, strict=True):
        best = min(matrices, key=lambda name: seconds.get(name, 0.0))
        sparsity = float((linear.weight == 0).double().mean())
        microseconds = {name: value * 1e6 for name, value in seconds.items()}
        packed = matrices[best].packed
        report = MatrixReport(linear.name, packed.rows, packed.columns, sparsity, best, packed.nbytes, microseconds)
        chosen.append((matrices[best], report))
    return chosen


def likely_formats(weight: Tensor, precision: str) -> list[str]:
    """The formats that could be the fastest: dense, and sparse ones that read at most 1.3 times as much."""
    dense, window, block = CANDIDATES[precision]
    value = 1 if precision == "int8" else 4
    size = weight.numel() * value
    bytes_window = 1.05 * int(torch.count_nonzero(weight)) * (value + 1)
    bytes_block = _blocks(weight) * (BLOCK_ROWS * BLOCK_COLUMNS * value + 2)
    return [dense, *[name for name, read in ((window, bytes_window), (block, bytes_block)) if read <= 1.3 * size]]


def _blocks(weight: Tensor) -> int:
    """Blocks that have a nonzero."""
    rows, columns = (rounded_up(n, b) for n, b in zip(weight.shape, (BLOCK_ROWS, BLOCK_COLUMNS), strict=True))
    padded = torch.zeros(rows, columns, dtype=torch.bool)
    padded[: weight.shape[0], : weight.shape[1]] = weight != 0
    blocks = padded.view(rows // BLOCK_ROWS, BLOCK_ROWS, columns // BLOCK_COLUMNS, BLOCK_COLUMNS)
    return int(blocks.any(3).any(1).sum())


def measure(kernel: Kernel, candidates: Sequence[Mapping[str, NativeMatrix]]) -> list[dict[str, float]]:
    """Seconds of one product with each matrix in each of its formats: the shortest of some rounds.

    A round goes through all matrices of the network in one format, then in the next: the caches hold as much of a
    matrix as they would in a step.
    """
    packed = [matrix.packed for matrices in candidates for matrix in matrices.values()]
    work, x = Work(packed), torch.linspace(-1, 1, max(one.columns for one in packed))
    y = torch.empty(max(one.rows for one in packed))
    times = [dict.fromkeys(matrices, math.inf) for matrices in candidates]
    end, rounds = time.perf_counter() + MEASURED_SECONDS, 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() < end):
        for position in range(max(map(len, candidates))):
            for matrices, shortest in zip(candidates, times, strict=True):
                name = list(matrices)[min(position, len(matrices) - 1)]
                start = time.perf_counter()
                kernel.product(matrices[name], work, x, y)
                shortest[name] = min(shortest[name], time.perf_counter() - start)
        rounds += 1
    return times
