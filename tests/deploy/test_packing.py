"""Packed formats: a matrix comes back exactly, and what no `pack` wrote is refused before the C code reads it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hyperpruning.deploy.packing import FORMATS, WINDOW, pack, unpack
from hyperpruning.deploy.packing_checks import check_packed
from packed import MATRICES, sparse


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_comes_back(name, format):
    weight = MATRICES[name]
    packed = pack(weight, format)
    check_packed(packed)
    back = unpack(packed)
    if format.endswith("fp32"):
        assert torch.equal(back, weight)
    else:  # half a level of 127, and the rounding of float32
        assert ((back - weight).abs() <= weight.abs().amax(1, keepdim=True) / 254 * (1 + 1e-5)).all()
        assert not back[weight == 0].any()
        assert torch.equal(unpack(pack(weight, "dense_int8")), back)  # all int8 formats round alike


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_is_arrays_with_names(format):
    """So that a file can store it: nothing else is needed to build it again."""
    packed = pack(sparse(37, 70, 0.2), format)
    again = replace(packed, arrays={name: np.frombuffer(a.tobytes(), a.dtype) for name, a in packed.arrays.items()})
    check_packed(again)
    assert torch.equal(unpack(again), unpack(packed))
    assert packed.nbytes == sum(a.nbytes for name, a in packed.arrays.items() if name != "sums")


def test_the_sparse_formats_are_small():
    weight = sparse(600, 1500, 0.1)
    nonzeros = int(torch.count_nonzero(weight))
    assert pack(weight, "window_int8").nbytes < 3.0 * nonzeros
    assert pack(weight, "window_fp32").nbytes < 7.0 * nonzeros
    blocks = sparse(75, 375, 0.1).repeat_interleave(8, 0).repeat_interleave(4, 1)
    assert pack(blocks, "block_int8").nbytes < 1.2 * int(torch.count_nonzero(blocks))


@pytest.mark.parametrize(
    ("weight", "format", "says"),
    [
        (torch.ones(2, 2), "window_int4", "format must be one of .* got 'window_int4'. Did you mean 'window_int8'"),
        (torch.ones(4), "dense_fp32", r"must have 1 or more rows .* got shape \(4,\)"),
        (torch.ones(1, 70_000), "window_int8", r"1 to 65535 columns, got shape \(1, 70000\)"),
        (torch.tensor([[1.0, float("nan")]]), "dense_int8", "must be finite"),
    ],
)
def test_what_cannot_be_packed_is_refused(weight, format, says):
    with pytest.raises(ValueError, match=says):
        pack(weight, format)


def changed(name, change):
    def change_one(packed):
        array = packed.arrays[name].copy()
        return replace(packed, arrays={**packed.arrays, name: change(array)})

    return change_one


def set_first(value):
    def change(array):
        array[0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("format", "change", "says"),
    [
        ("window_int8", changed("offsets", set_first(WINDOW)), "offsets of a packed matrix must be below 64, got 64"),
        ("window_int8", changed("bases", set_first(70)), "bases of a packed matrix must be below 70"),
        ("block_fp32", changed("bases", set_first(18)), "bases of a packed matrix must be below 18"),
        ("window_fp32", changed("starts", set_first(1)), "starts of a packed matrix must ascend from 0"),
        ("block_int8", changed("starts", lambda array: array[::-1].copy()), "starts .* must ascend"),
        ("window_fp32", changed("order", set_first(-1)), "order .* must name each of the rows"),
        ("window_fp32", changed("values", lambda array: array[:-1]), "values .* must have"),
        ("dense_int8", changed("values", set_first(-128)), "values .* must be -127 to 127"),
        ("dense_int8", changed("values", set_first(99)), "sums .* must be the sums"),
        ("window_int8", changed("sums", set_first(99)), "sums .* must be the sums"),
        ("dense_fp32", changed("values", lambda array: array.astype(np.float64)), "values .* vector of float32"),
        ("dense_fp32", lambda packed: replace(packed, format="csr"), "format .* must be one of"),
        ("dense_fp32", lambda packed: replace(packed, rows=0), "rows .* must be 1 to"),
        ("dense_fp32", lambda packed: replace(packed, columns=2.5), "columns .* must be 1 to"),
        ("block_int8", lambda packed: replace(packed, arrays={}), "arrays .* must be bases, scales"),
    ],
)
def test_what_no_pack_wrote_is_refused(format, change, says):
    with pytest.raises(ValueError, match=says):
        check_packed(change(pack(sparse(37, 70, 0.3), format)))
