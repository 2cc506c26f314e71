"""Packed formats of a weight matrix, as plain arrays with names: what kernel.c reads, and what a file can store.

- dense: padded to a multiple of 4 rows and of 16 (fp32) or 64 (int8) columns. 64 bytes of each of 4 rows alternate, so
  that a product reads the values one after the other.
- window: no structure needed. Rows sorted by their number of nonzeros; 16 rows are the lanes of a vector. One step
  takes of each row up to 4 of its next nonzeros inside a window of 64 inputs, which begins at the next nonzero of the
  row that is furthest behind. A step has one `bases` entry (first input), 64 `offsets` (input - base), and 64 `values`.
- block: 8 outputs x 4 inputs, each block that is not zero as a whole; `bases` counts in four inputs.

`starts` gives the first step or block of each group of rows, `order` the matrix row at each packed place. int8 formats
have a scale for each row: W_ij = scales_i * q_ij, scales_i = max_j |W_ij| / 127, q rounded to even; and `sums`, the sum
of each row's q.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpruning.settings import did_you_mean

Array = NDArray[Any]
LANES, SLOTS, WINDOW, BLOCK_ROWS, BLOCK_COLUMNS = 16, 4, 64, 8, 4
STEP, BLOCK, PAD, ALIGNMENT = LANES * SLOTS, BLOCK_ROWS * BLOCK_COLUMNS, 64, 64
MAX_COLUMNS = 65_535  # a base has 16 bits; sums of 255 * 127 * 65,535 fit 32 bits
FORMATS = ("dense_fp32", "dense_int8", "window_fp32", "window_int8", "block_fp32", "block_int8")
# the place of (slot, lane)'s value and offset in a step: a byte permute and an unpack give vectors of lanes
_SLOT, _LANE = np.divmod(np.arange(STEP), LANES)
_FP32_OFFSETS = np.argsort(_LANE // 4 * 16 + _SLOT * 4 + _LANE % 4)
_INT8 = np.argsort(_LANE * SLOTS + _SLOT)


@dataclass(frozen=True)
class Packed:
    """A packed matrix.

    Attributes:
        format: one of `FORMATS`.
        rows: outputs R of the matrix.
        columns: inputs C of the matrix, at most 65,535.
        arrays: its arrays by name, one-dimensional.
    """

    format: str
    rows: int
    columns: int
    arrays: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""
        return sum(array.nbytes for name, array in self.arrays.items() if name != "sums")

    @property
    def groups(self) -> int:
        """Groups of rows that `starts` tells apart; 0 for a dense format."""
        return _groups(self.format, self.rows)


def pack(weight: Tensor, format: str) -> Packed:
    """Pack a matrix.

    Args:
        weight: (R, C), finite, with any zeros.
        format: one of `FORMATS`. int8 rounds to 255 levels a row, fp32 is exact.

    Raises:
        ValueError: no such format, no finite matrix, or more than 65,535 columns.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.{did_you_mean(format, FORMATS)}")
    if weight.ndim != 2 or not 1 <= weight.shape[1] <= MAX_COLUMNS or not len(weight):
        raise ValueError(
            f"A matrix to pack must have 1 or more rows and 1 to {MAX_COLUMNS} columns, got shape "
            f"{tuple(weight.shape)}. Split it."
        )
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("A matrix to pack must be finite, got one with inf or nan. Train the network again.")
    values: Array = weight.detach().to("cpu", torch.float32).numpy()
    arrays: dict[str, Array] = {}
    if format.endswith("int8"):
        values, arrays["scales"] = quantised(values)
        arrays["sums"] = values.sum(1, dtype=np.int32)
    packed = _PACK[format.split("_")[0]](values, arrays)
    return Packed(format, weight.shape[0], weight.shape[1], {name: aligned(array) for name, array in packed.items()})


def unpack(packed: Packed) -> Tensor:
    """The matrix (R, C) in float32: exactly the packed one for fp32, the rounded one for int8."""
    values = _UNPACK[packed.format.split("_")[0]](packed)
    if (scales := packed.arrays.get("scales")) is not None:
        order = packed.arrays.get("order", np.arange(packed.rows))
        in_order = np.empty(packed.rows, np.float32)
        in_order[order] = scales
        values = values.astype(np.float32) * in_order[:, None]
    return torch.from_numpy(values)


def aligned(array: Array) -> Array:
    """The array at an address that is a multiple of 64, so that no vector crosses a cache line; a copy if it is not."""
    array = np.ascontiguousarray(array).reshape(-1)
    if array.ctypes.data % ALIGNMENT == 0:
        return array
    raw = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    copy = raw[start : start + array.nbytes].view(array.dtype)
    copy[:] = array
    return copy


def rounded_up(number: int, multiple: int) -> int:
    """The next multiple.

    >>> rounded_up(17, 16)
    32
    """
    return -(-number // multiple) * multiple


def _lengths(packed: Packed) -> Array:
    """Steps or blocks of each group of rows."""
    starts: Array = packed.arrays["starts"].astype(np.int64)
    return starts[1:] - starts[:-1]


def _groups(format: str, rows: int) -> int:
    return 0 if format.startswith("dense") else -(-rows // (LANES if format.startswith("window") else BLOCK_ROWS))


def quantised(values: Array) -> tuple[Array, Array]:
    """int8 values (R, C) and scales (R,) of a float32 matrix, as the head of this file says."""
    scales = np.abs(values).max(1) / np.float32(127)
    safe = np.where(scales < 1e-35, np.float32(1), scales)  # rows of zeros; 1 / scale stays finite
    return np.rint(values / safe[:, None]).clip(-127, 127).astype(np.int8), scales.astype(np.float32)


def _pack_dense(values: Array, arrays: dict[str, Array]) -> dict[str, Array]:
    panels, chunks, width = _dense_shape(values.dtype, *values.shape)
    padded = np.zeros((panels * 4, chunks * width), values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    return arrays | {"values": padded.reshape(panels, 4, chunks, width).swapaxes(1, 2)}


def _dense_shape(dtype: np.dtype[Any], rows: int, columns: int) -> tuple[int, int, int]:
    """Panels of four rows, chunks of 64 bytes of a row, and values in a chunk."""
    width = 64 // dtype.itemsize
    return -(-rows // 4), -(-columns // width), width


def _unpack_dense(packed: Packed) -> Array:
    values = packed.arrays["values"]
    panels, chunks, width = _dense_shape(values.dtype, packed.rows, packed.columns)
    padded = values.reshape(panels, chunks, 4, width).swapaxes(1, 2).reshape(panels * 4, -1)
    return padded[: packed.rows, : packed.columns].copy()


def _pack_window(values: Array, arrays: dict[str, Array]) -> dict[str, Array]:
    rows, counts = len(values), np.count_nonzero(values, axis=1)
    order = np.argsort(-counts, kind="stable")
    arrays = {name: array[order] for name, array in arrays.items()}
    parts = []
    chunk = 32 * LANES  # rows of similar counts, so that little of their common length is unused
    for start in range(0, rows, chunk):
        bases, offsets, taken, groups = _window_steps(values[order[start : start + chunk]])
        parts.append((bases, offsets, taken, groups + start // LANES))
    bases, offsets, taken, groups = (np.concatenate(part) for part in zip(*parts, strict=True))
    lengths = np.bincount(groups, minlength=_groups("window", rows))
    int8 = values.dtype == np.int8
    return arrays | {
        "values": (taken[:, _INT8] if int8 else taken).reshape(-1),
        "offsets": offsets[:, _INT8 if int8 else _FP32_OFFSETS].reshape(-1),
        "bases": bases,
        "starts": np.concatenate([[0], lengths.cumsum()]).astype(np.uint32),
        "order": order.astype(np.int32),
    }


def _window_steps(values: Array) -> tuple[Array, Array, Array, Array]:
    """Bases (S,), offsets and values (S, 64) in the order of slots and lanes, and groups (S,) of some rows' steps."""
    count, columns = len(values), values.shape[1]
    lanes = rounded_up(count, LANES)
    row, column = np.nonzero(values)
    each = np.bincount(row, minlength=lanes)
    place = np.arange(len(row)) - np.repeat(each.cumsum() - each, each)  # among the nonzeros of its row
    where = np.full((lanes, int(each.max(initial=0)) + SLOTS), columns + WINDOW, np.int64)  # no more nonzeros: beyond
    what = np.zeros(where.shape, values.dtype)
    where[row, place], what[row, place] = column, values[row, column]
    position, every, steps = np.zeros(lanes, np.int64), np.arange(lanes), []
    while True:
        base = where[every, position].reshape(-1, LANES).min(1)
        active = base < columns
        if not active.any():
            break
        slots = position[:, None] + np.arange(SLOTS)
        ahead = where[every[:, None], slots] - base.repeat(LANES)[:, None]  # (lanes, SLOTS), ascending
        inside = ahead < WINDOW
        inside[~active.repeat(LANES)] = False
        by_slot = (-1, LANES, SLOTS)
        offset = np.where(inside, ahead, 0).astype(np.uint8).reshape(by_slot).swapaxes(1, 2).reshape(-1, STEP)
        value = np.where(inside, what[every[:, None], slots], 0).reshape(by_slot).swapaxes(1, 2).reshape(-1, STEP)
        steps.append((base[active], offset[active], value[active], np.flatnonzero(active)))
        position += inside.sum(1)
    if not steps:
        none = np.zeros((0, STEP), np.uint8)
        return np.zeros(0, np.uint16), none, none.astype(values.dtype), np.zeros(0, np.int64)
    bases, offsets, taken, groups = (np.concatenate(part) for part in zip(*steps, strict=True))
    by_group = np.argsort(groups, kind="stable")
    return bases[by_group].astype(np.uint16), offsets[by_group], taken[by_group].astype(values.dtype), groups[by_group]


def _unpack_window(packed: Packed) -> Array:
    values, offsets = (packed.arrays[name].reshape(-1, STEP) for name in ("values", "offsets"))
    int8 = values.dtype == np.int8
    values = values[:, np.argsort(_INT8)] if int8 else values
    offsets = offsets[:, np.argsort(_INT8 if int8 else _FP32_OFFSETS)]
    bases = packed.arrays["bases"].astype(np.int64)
    group = np.repeat(np.arange(packed.groups), _lengths(packed))
    lane = group[:, None] * LANES + np.arange(STEP) % LANES  # (S, STEP)
    dense = np.zeros((packed.rows, packed.columns), values.dtype)
    kept = values != 0
    dense[packed.arrays["order"][lane[kept]], (bases[:, None] + offsets)[kept]] = values[kept]
    return dense


def _pack_block(values: Array, arrays: dict[str, Array]) -> dict[str, Array]:
    rows, columns = values.shape
    padded = np.zeros((rounded_up(rows, BLOCK_ROWS), rounded_up(columns, BLOCK_COLUMNS)), values.dtype)
    padded[:rows, :columns] = values
    blocks = padded.reshape(-1, BLOCK_ROWS, padded.shape[1] // BLOCK_COLUMNS, BLOCK_COLUMNS).swapaxes(1, 2)
    kept = blocks.any((2, 3))  # (groups, columns / 4)
    taken = blocks[kept]  # (N, 8, 4)
    return arrays | {
        "values": (taken if values.dtype == np.int8 else taken.swapaxes(1, 2)).reshape(-1),
        "bases": np.nonzero(kept)[1].astype(np.uint16),
        "starts": np.concatenate([[0], kept.sum(1).cumsum()]).astype(np.uint32),
    }


def _unpack_block(packed: Packed) -> Array:
    values, bases = packed.arrays["values"], packed.arrays["bases"]
    int8 = values.dtype == np.int8
    shape = (-1, BLOCK_ROWS, BLOCK_COLUMNS) if int8 else (-1, BLOCK_COLUMNS, BLOCK_ROWS)
    taken = values.reshape(shape) if int8 else values.reshape(shape).swapaxes(1, 2)
    group = np.repeat(np.arange(packed.groups), _lengths(packed))
    across = rounded_up(packed.columns, BLOCK_COLUMNS) // BLOCK_COLUMNS
    blocks = np.zeros((packed.groups, across, BLOCK_ROWS, BLOCK_COLUMNS), values.dtype)
    blocks[group, bases] = taken
    padded = blocks.swapaxes(1, 2).reshape(packed.groups * BLOCK_ROWS, -1)
    return padded[: packed.rows, : packed.columns].copy()


_PACK: dict[str, Callable[[Array, dict[str, Array]], dict[str, Array]]] = {
    "dense": _pack_dense,
    "window": _pack_window,
    "block": _pack_block,
}
_UNPACK: dict[str, Callable[[Packed], Array]] = {
    "dense": _unpack_dense,
    "window": _unpack_window,
    "block": _unpack_block,
}
