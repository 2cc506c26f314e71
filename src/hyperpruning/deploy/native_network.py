"""A network in the compiled kernel: each matrix in the format that is fastest here, and one call for each step."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperpruning.deploy.native import Kernel, LayerStruct, MatrixStruct, NativeMatrix, PlanStruct, Work
from hyperpruning.deploy.packing import BLOCK_COLUMNS, BLOCK_ROWS, Packed, pack, rounded_up
from hyperpruning.deploy.parts import CELLS, Layer, Linear, NetworkParts

CANDIDATES = {
    "exact": ("dense_fp32", "window_fp32", "block_fp32"),
    "int8": ("dense_int8", "window_int8", "block_int8"),
}
ROUNDS = 9  # of the timing of a format
CALL_SECONDS = 2e-5  # that a round of it takes at least


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
        for linear in parts.linears():
            matrix, report = choose_format(linear, precision, kernel, formats.get(linear.name))
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


def choose_format(
    linear: Linear, precision: str, kernel: Kernel, format: str | None
) -> tuple[NativeMatrix, MatrixReport]:
    """Pack a matrix in the format that is fastest on this processor, or in a given one."""
    weight = linear.weight
    names = likely_formats(weight, precision) if format is None else [format]
    matrices = {name: NativeMatrix(pack(weight, name)) for name in names}
    times = measure(kernel, list(matrices.values())) if len(names) > 1 else [math.nan]
    best = min(zip(times, names, strict=True))[1]
    matrix = matrices[best]
    sparsity = float((weight == 0).double().mean())
    microseconds = {name: seconds * 1e6 for name, seconds in zip(names, times, strict=True)}
    return matrix, MatrixReport(
        linear.name, matrix.packed.rows, matrix.packed.columns, sparsity, best, matrix.packed.nbytes, microseconds
    )


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


def measure(kernel: Kernel, matrices: Sequence[NativeMatrix]) -> list[float]:
    """Seconds of one product with each matrix: the shortest of some rounds, in turn."""
    packed = [matrix.packed for matrix in matrices]
    work, x = Work(packed), torch.linspace(-1, 1, packed[0].columns)
    y = torch.empty(packed[0].rows)
    calls = [_call(kernel, matrix, work, x, y) for matrix in matrices]
    return shortest(calls)


def _call(kernel: Kernel, matrix: NativeMatrix, work: Work, x: Tensor, y: Tensor) -> Callable[[], None]:
    return lambda: kernel.product(matrix, work, x, y)


def shortest(calls: Iterable[Callable[[], object]]) -> list[float]:
    """Seconds of each call: the shortest of some rounds, in turn, after one that is not counted."""
    calls = list(calls)
    counts, times = [], [math.inf] * len(calls)
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        counts.append(max(1, math.ceil(CALL_SECONDS / max(1e-9, time.perf_counter() - start))))
    for _ in range(ROUNDS):
        for number, (call, count) in enumerate(zip(calls, counts, strict=True)):
            start = time.perf_counter()
            for _ in range(count):
                call()
            times[number] = min(times[number], (time.perf_counter() - start) / count)
    return times


def total_bytes(packed: Iterable[Packed]) -> int:
    """Bytes that one step reads of these matrices."""
    return sum(one.nbytes for one in packed)
