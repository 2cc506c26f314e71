"""Products of the compiled kernel against float64, in every format and every build that this processor has."""

import numpy as np
import pytest
import torch

from hyperpruning.deploy.compiler import CompilerError
from hyperpruning.deploy.native import BUILDS, Kernel, NativeMatrix, Work
from hyperpruning.deploy.packing import FORMATS, Packed, pack, unpack
from packed import MATRICES, sparse


def kernel(build):
    try:
        return Kernel(build)
    except CompilerError as error:
        pytest.skip(str(error))
    except ValueError:
        pytest.skip(f"this processor has no {build}")


def product(kernel, packed: Packed, x):
    y = torch.full((packed.rows,), float("nan"))
    kernel.product(NativeMatrix(packed), Work([packed]), x, y)
    return y


def int8_product(packed: Packed, x):
    """The definition at the head of kernel.c, in numpy: integers, and float32 in the order that it states."""
    x = x.numpy()
    largest = np.abs(x).max()
    if largest < 1e-30:
        return torch.zeros(packed.rows)
    q = np.rint(x * (np.float32(127) / largest)).astype(np.int64)
    scales = packed.arrays["scales"]
    order = packed.arrays.get("order", np.arange(packed.rows))
    in_order = np.empty_like(scales)
    in_order[order] = scales
    safe = np.where(in_order > 0, in_order, 1)
    integers = np.rint(unpack(packed).numpy() / safe[:, None]).astype(np.int64) @ q
    return torch.from_numpy(integers.astype(np.float32) * (in_order * (largest / np.float32(127))))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_product_agrees_with_float64(build, format):
    run, generator = kernel(build), torch.Generator().manual_seed(1)
    for name, weight in MATRICES.items():
        packed, x = pack(weight, format), torch.randn(weight.shape[1], generator=generator)
        y = product(run, packed, x)
        if format.endswith("int8"):
            assert torch.equal(y, int8_product(packed, x)), name  # to the bit, in every build
        else:
            expected = weight.double() @ x.double()
            bound = 1e-6 * (weight.double().abs() @ x.double().abs()) + 1e-30  # 1e-6: 8 roundings of float32
            assert ((y - expected).abs() <= bound).all(), name


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("format", [format for format in FORMATS if format.endswith("int8")])
def test_int8_is_exact_at_the_ends_of_its_range(build, format):
    """Products of -127 and 127 alone: 16-bit sums of two must not saturate."""
    run, weight = kernel(build), torch.ones(19, 300)
    weight[::2] = -1
    for x in (torch.ones(300), -torch.ones(300), torch.zeros(300), torch.full((300,), 1e-38)):
        packed = pack(weight, format)
        assert torch.equal(product(run, packed, x), int8_product(packed, x))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_shows(build, format, value):
    run, x = kernel(build), torch.randn(70)
    x[5] = value
    assert not torch.isfinite(product(run, pack(torch.ones(20, 70), format), x)).any()


@pytest.mark.parametrize("format", FORMATS)
def test_the_widest_matrix(format):
    run, weight = kernel(None), sparse(3, 65_535, 0.01)
    weight[:, -1] = 1.0
    packed, x = pack(weight, format), torch.randn(65_535)
    expected = int8_product(packed, x) if format.endswith("int8") else (weight.double() @ x.double()).float()
    torch.testing.assert_close(product(run, packed, x), expected, rtol=1e-5, atol=1e-4)


def test_instructions_that_the_processor_lacks_are_refused():
    kernel(None)
    with pytest.raises(ValueError, match=r"instructions must be one of plain.* got 'avx3'"):
        Kernel("avx3")
