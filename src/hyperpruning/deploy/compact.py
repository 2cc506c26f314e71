"""Tensors with zeros as few bytes: which entries are not zero, and the bytes of those, by the standard library's zlib.

The positions are a bit mask or the gaps between nonzeros, whichever is shorter. The values' first bytes stand together,
then their second bytes, and so on (byte planes): signs and exponents of trained weights compress, mantissas do not.
-0.0, which a mask makes of a negative weight, becomes 0.0. The round trip is exact to the bit for all else, and NaN.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpruning.deploy.packing import quantised
from hyperpruning.settings import did_you_mean

Bytes = NDArray[np.uint8]
PRECISIONS = ("exact", "fp16", "int8")
INDICES = ("none", "mask", "gaps")
DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ESCAPE = 255  # in gaps: 255 zeros, and no nonzero after them
ENTRIES_PER_BYTE, FREE_ENTRIES = 1000, 1 << 20  # more entries than this for a byte of a file are no trained network


def encode(value: Tensor, precision: str = "exact") -> tuple[dict[str, Any], bytes]:
    """A tensor as bytes.

    Args:
        value: any shape.
        precision: "exact"; "fp16" or "int8" for a float32 tensor: int8 with a scale for each row of a matrix, W_ij =
            scale_i q_ij, scale_i = max_j |W_ij| / 127, and exact for anything that is no matrix.

    Returns:
        what `decode` must know of it, in JSON types, and the bytes.

    Raises:
        ValueError: no such precision, a dtype that cannot be stored, or a value too large for fp16.
    """
    check_precision(precision)
    value = value.detach().cpu().contiguous()
    if value.dtype not in NAMES:
        raise ValueError(f"A tensor of a model folder must be of {', '.join(DTYPES)}, got {value.dtype}. Convert it.")
    if value.is_floating_point():
        value = torch.where(value == 0, torch.zeros((), dtype=value.dtype), value)
    about: dict[str, Any] = {"shape": list(value.shape), "dtype": NAMES[value.dtype], "precision": "exact"}
    stored, scales = value, None
    if (
        precision != "exact"
        and value.dtype is torch.float32
        and (precision == "fp16" or (value.ndim == 2 and value.numel()))
    ):
        stored, scales = _rounded(value, precision)
        about["precision"] = precision
    flat = _bytes_of(stored)  # (N, bytes of an entry)
    nonzero = np.flatnonzero(flat.any(1))
    index, positions = _shortest_index(nonzero, len(flat))
    kept = flat if index == "none" else flat[nonzero]
    sections = [positions] if index != "none" else []
    sections += [_shortest(plane.tobytes()) for plane in kept.T]
    if scales is not None:
        sections += [_shortest(plane.tobytes()) for plane in _bytes_of(scales).T]
    about |= {"nonzeros": len(nonzero), "index": index, "sections": [len(section) for section in sections]}
    return about, b"".join(sections)


def decode(about: Mapping[str, Any], content: bytes) -> Tensor:
    """The tensor of `encode`; the sizes are checked before anything is decompressed.

    Raises:
        ValueError: the bytes are not those of such a tensor; the message is the end of a sentence.
    """
    shape, dtype, precision, index, sections = checked(about)
    if sum(sections) != len(content):
        raise ValueError("a tensor has another number of bytes")
    entries, nonzeros = prod(shape), int(about["nonzeros"])
    ends = np.cumsum([0, *sections])
    parts = [content[start:end] for start, end in pairwise(ends)]
    where = slice(None) if index == "none" else _positions(index, parts.pop(0), entries, nonzeros)
    size = _stored(dtype, precision).itemsize
    flat = np.zeros((entries, size), np.uint8)
    kept = entries if index == "none" else nonzeros
    for plane, part in enumerate(parts[:size]):
        flat[where, plane] = np.frombuffer(_inflated(part, kept), np.uint8)
    value = _from_bytes(flat, _stored(dtype, precision)).reshape(shape)
    if precision == "int8":
        planes = [np.frombuffer(_inflated(part, shape[0]), np.uint8) for part in parts[size:]]
        value = value.to(torch.float32) * _from_bytes(np.stack(planes, 1), torch.float32)[:, None]
    return value.to(dtype)


def checked(about: Mapping[str, Any]) -> tuple[tuple[int, ...], torch.dtype, str, str, list[int]]:
    """Shape, dtype, precision, index and sizes of the sections in what `encode` returned.

    Raises:
        ValueError: one of them is missing or out of range; the message is the end of a sentence.
    """
    shape, sections, nonzeros = about.get("shape"), about.get("sections"), about.get("nonzeros")
    dtype, precision, index = about.get("dtype"), about.get("precision"), about.get("index")
    numbers = [shape, sections, [nonzeros]]
    if not all(isinstance(row, list) and all(type(n) is int and n >= 0 for n in row) for row in numbers):
        raise ValueError("the sizes of a tensor are no whole numbers")
    assert isinstance(shape, list)
    assert isinstance(sections, list)
    if dtype not in tuple(DTYPES) or precision not in PRECISIONS or index not in INDICES:
        raise ValueError("a tensor has an unknown dtype, precision or index")
    if (precision != "exact" and dtype != "float32") or (precision == "int8" and len(shape) != 2):
        raise ValueError("a tensor cannot have its precision")
    entries, size = prod(shape), _stored(DTYPES[dtype], precision).itemsize
    planes = size + (4 if precision == "int8" else 0) + (index != "none")
    if len(sections) != planes or not 0 <= int(nonzeros or 0) <= entries:
        raise ValueError("a tensor has another number of sections or nonzeros")
    return tuple(shape), DTYPES[dtype], precision, index, sections


def check_precision(precision: str) -> None:
    """Check that it is one of `PRECISIONS`.

    Raises:
        ValueError: it is not.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}."
            f"{did_you_mean(precision, PRECISIONS) or ' Choose one of these.'}"
        )


def check_amount(entries: int, size: int) -> None:
    """Check that a file of some bytes can hold so many entries, before memory for them is allocated.

    Raises:
        ValueError: it cannot; the message is the end of a sentence.
    """
    if entries > ENTRIES_PER_BYTE * size + FREE_ENTRIES:
        raise ValueError(f"{entries:,} weights in {size:,} bytes are more than {ENTRIES_PER_BYTE:,} for each byte")


def _stored(dtype: torch.dtype, precision: str) -> torch.dtype:
    return {"exact": dtype, "fp16": torch.float16, "int8": torch.int8}[precision]


def _rounded(value: Tensor, precision: str) -> tuple[Tensor, Tensor | None]:
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"Weights must be finite for {precision}, got inf or nan. Export them as exact.")
    if precision == "fp16":
        half = value.half()
        if not bool(torch.isfinite(half).all()):
            raise ValueError(
                f"Weights must be at most 65,504 for fp16, got {float(value.abs().max()):g}. Export them as exact."
            )
        return half, None
    values, scales = quantised(value.numpy())
    return torch.from_numpy(values), torch.from_numpy(scales)


def _bytes_of(value: Tensor) -> Bytes:
    """(N, bytes of an entry), from the lowest byte."""
    flat: Bytes = value.reshape(-1).view(torch.uint8).numpy().reshape(value.numel(), value.element_size())
    return flat


def _from_bytes(flat: Bytes, dtype: torch.dtype) -> Tensor:
    if dtype is torch.bool and flat.max(initial=0) > 1:
        raise ValueError("a truth value is neither 0 nor 1")
    return torch.from_numpy(np.ascontiguousarray(flat).reshape(-1)).view(dtype)


def _shortest_index(nonzero: NDArray[np.int64], entries: int) -> tuple[str, bytes]:
    if len(nonzero) > 0.97 * entries:
        return "none", b""
    mask = np.zeros(entries, np.uint8)
    mask[nonzero] = 1
    gaps = np.diff(nonzero, prepend=-1) - 1
    escapes = gaps // ESCAPE
    codes = np.full(int(escapes.sum()) + len(gaps), ESCAPE, np.uint8)
    codes[np.cumsum(escapes + 1) - 1] = gaps % ESCAPE
    found = {"mask": _shortest(np.packbits(mask).tobytes()), "gaps": _shortest(codes.tobytes())}
    best = min(found, key=lambda name: len(found[name]))
    return best, found[best]


def _positions(index: str, part: bytes, entries: int, nonzeros: int) -> NDArray[np.int64]:
    if index == "mask":
        bits = np.frombuffer(_inflated(part, -(-entries // 8)), np.uint8)
        found = np.flatnonzero(np.unpackbits(bits)[:entries])
    else:
        codes = np.frombuffer(_inflated(part, nonzeros + entries // ESCAPE, exactly=False), np.uint8)
        real = codes != ESCAPE
        found = (np.cumsum(codes, dtype=np.int64) + np.cumsum(real) - 1)[real]
    if len(found) != nonzeros or (nonzeros and found[-1] >= entries):
        raise ValueError("the positions of the weights that are not zero do not fit")
    return found


def _shortest(content: bytes) -> bytes:
    """zlib with and without repetitions: bytes without any compress better by Huffman's code alone."""
    found = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        compressor = zlib.compressobj(6, strategy=strategy)
        found.append(compressor.compress(content) + compressor.flush())
    return min(found, key=len)


def _inflated(part: bytes, most: int, *, exactly: bool = True) -> bytes:
    """The decompressed bytes, `most` of them, or fewer if not exactly so many."""
    decompressor = zlib.decompressobj()
    try:
        content = decompressor.decompress(part, most + 1)  # a length of 0 would be no limit
    except zlib.error as error:
        raise ValueError(f"zlib says {error}") from None
    if len(content) > most or (exactly and len(content) != most) or not decompressor.eof or decompressor.unused_data:
        raise ValueError("a compressed part has another size")
    return content
