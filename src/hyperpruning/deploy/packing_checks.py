"""Checks of a packed matrix from anywhere: the C code reads what they accept within its arrays alone."""

from __future__ import annotations

import numpy as np

from hyperpruning.deploy.packing import (
    BLOCK,
    BLOCK_COLUMNS,
    FORMATS,
    MAX_COLUMNS,
    STEP,
    WINDOW,
    Array,
    Packed,
    rounded_up,
)

MAX_ROWS = 2**24
_TYPES = {
    "offsets": np.uint8,
    "bases": np.uint16,
    "starts": np.uint32,
    "order": np.int32,
    "scales": np.float32,
    "sums": np.int32,
}
_INDICES = {"dense": (), "window": ("offsets", "bases", "starts", "order"), "block": ("bases", "starts")}


def check_packed(packed: Packed) -> None:
    """Check the types, sizes and indices of a packed matrix, and the sums of its rows.

    Raises:
        ValueError: it could not have come from `pack`; the message names the array.
    """
    format = packed.format
    if format not in FORMATS:
        raise ValueError(_sentence("format", f"be one of {', '.join(FORMATS)}", format))
    for name, size, most in (("rows", packed.rows, MAX_ROWS), ("columns", packed.columns, MAX_COLUMNS)):
        if type(size) is not int or not 1 <= size <= most:
            raise ValueError(_sentence(name, f"be 1 to {most}", size))
    kind, int8 = format.split("_")[0], format.endswith("int8")
    types = {name: _TYPES[name] for name in _INDICES[kind]} | {"values": np.int8 if int8 else np.float32}
    types |= {"scales": np.float32, "sums": np.int32} if int8 else {}
    if packed.arrays.keys() != types.keys():
        raise ValueError(_sentence("arrays", f"be {', '.join(sorted(types))}", ", ".join(sorted(packed.arrays))))
    for name, array in packed.arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype != types[name] or array.ndim != 1:
            raise ValueError(_sentence(name, f"be a vector of {np.dtype(types[name])}", f"{array!r:.40}"))
    for name, size in _sizes(packed, kind, int8).items():
        if len(packed.arrays[name]) != size:
            raise ValueError(_sentence(name, f"have {size} entries", len(packed.arrays[name])))
    _check_indices(packed, kind)
    if int8:
        _check_int8(packed, kind)


def _sizes(packed: Packed, kind: str, int8: bool) -> dict[str, int]:
    """The length that each array must have."""
    rows = {"scales": packed.rows, "sums": packed.rows} if int8 else {}
    if kind == "dense":
        return rows | {"values": rounded_up(packed.rows, 4) * rounded_up(packed.columns, 64 if int8 else 16)}
    steps = len(packed.arrays["bases"])
    sizes = rows | {"starts": packed.groups + 1, "values": steps * (STEP if kind == "window" else BLOCK)}
    return sizes | ({"offsets": steps * STEP, "order": packed.rows} if kind == "window" else {})


def _check_indices(packed: Packed, kind: str) -> None:
    if kind == "dense":
        return
    starts, bases = packed.arrays["starts"].astype(np.int64), packed.arrays["bases"]
    if starts[0] != 0 or starts[-1] != len(bases) or (np.diff(starts) < 0).any():
        raise ValueError(_sentence("starts", f"ascend from 0 to {len(bases)}", f"{starts!r:.60}"))
    most = packed.columns if kind == "window" else rounded_up(packed.columns, BLOCK_COLUMNS) // BLOCK_COLUMNS
    if bases.max(initial=0) >= most:
        raise ValueError(_sentence("bases", f"be below {most}", bases.max()))
    if kind == "window":
        if (most := packed.arrays["offsets"].max(initial=0)) >= WINDOW:
            raise ValueError(_sentence("offsets", f"be below {WINDOW}", most))
        order = packed.arrays["order"]
        if not np.array_equal(np.sort(order), np.arange(packed.rows)):
            raise ValueError(_sentence("order", f"name each of the rows 0 to {packed.rows - 1} once", f"{order!r:.60}"))


def _check_int8(packed: Packed, kind: str) -> None:
    """The AVX2 kernel multiplies without loss if no value is -128; AVX-512 needs the right sums."""
    values = packed.arrays["values"]
    if values.min(initial=0) < -127:
        raise ValueError(_sentence("values", "be -127 to 127", values.min()))
    if not np.array_equal(_row_sums(packed, kind, values), packed.arrays["sums"]):
        raise ValueError(_sentence("sums", "be the sums of the rows' values", "others"))


def _row_sums(packed: Packed, kind: str, values: Array) -> Array:
    if kind == "dense":
        panels = values.reshape(-(-packed.rows // 4), -1, 4, 64).sum((1, 3), dtype=np.int32)
        return np.asarray(panels.reshape(-1)[: packed.rows])
    lanes = STEP // 4 if kind == "window" else 8
    steps = values.reshape(-1, lanes, 4).sum(2, dtype=np.int32)
    ends = np.concatenate([np.zeros((1, lanes), np.int32), steps.cumsum(0, dtype=np.int32)])
    starts = packed.arrays["starts"].astype(np.int64)
    return np.asarray((ends[starts[1:]] - ends[starts[:-1]]).reshape(-1)[: packed.rows])


def _sentence(name: str, rule: str, given: object) -> str:
    return f"{name} of a packed matrix must {rule}, got {given}. Export the network again."
