"""The compiled kernel from Python: packed matrices, products and steps. The structs are those of kernel.c."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import POINTER, Structure, c_int32, c_int64, c_void_p

import numpy as np
from torch import Tensor

from hyperpruning.deploy.compiler import compile_kernel, load_kernel
from hyperpruning.deploy.packing import FORMATS, PAD, Array, Packed, aligned, rounded_up
from hyperpruning.deploy.packing_checks import check_packed
from hyperpruning.settings import did_you_mean

BUILDS = ("plain", "avx2", "avx512", "neon")  # numbered as in kernel.c


class MatrixStruct(Structure):
    """hp_matrix."""

    _fields_ = (
        *[(name, c_int32) for name in ("format", "rows", "columns", "groups")],
        *[(name, c_void_p) for name in ("values", "offsets", "bases", "starts", "order", "scales", "sums")],
    )


class WorkStruct(Structure):
    """hp_work."""

    _fields_ = (
        *[(name, c_void_p) for name in ("input", "signed8", "unsigned8", "planes", "changes")],
        ("plane", c_int64),
        *[(name, c_void_p) for name in ("integers", "floats")],
    )


class LayerStruct(Structure):
    """hp_layer."""

    _fields_ = (
        *[(name, c_int32) for name in ("cell", "inputs", "hidden", "depth")],
        ("input", POINTER(MatrixStruct)),
        ("recurrent", POINTER(MatrixStruct)),
        *[(name, c_void_p) for name in ("input_bias", "recurrent_bias")],
    )


class PlanStruct(Structure):
    """hp_plan."""

    _fields_ = (
        *[(name, c_int32) for name in ("build", "layers", "inputs", "outputs", "state", "vocabulary")],
        *[(name, c_void_p) for name in ("embedding", "mean", "deviation")],
        ("layer", POINTER(LayerStruct)),
        ("head", POINTER(MatrixStruct)),
        *[(name, c_void_p) for name in ("head_bias", "vector", "from_input", "from_state")],
        ("work", WorkStruct),
    )


class Kernel:
    """kernel.c, compiled.

    Args:
        build: of the instructions: "plain", "avx2", "avx512" or "neon"; None: the best that this processor has.

    Raises:
        CompilerError: there is no compiler, or it fails.
        ValueError: this processor cannot run the build.
    """

    def __init__(self, build: str | None = None) -> None:
        self.library = load_kernel(compile_kernel())
        available = [name for number, name in enumerate(BUILDS) if self.library.hp_has_build(number)]
        if build is not None and build not in available:
            raise ValueError(
                f"instructions must be one of {', '.join(available)} on this processor, got {build!r}. Leave them out."
                f"{did_you_mean(build, available)}"
            )
        self.build = build or available[-1]
        self.number = BUILDS.index(self.build)

    def product(self, matrix: NativeMatrix, work: Work, x: Tensor, y: Tensor) -> None:
        """y (R,) = W x (C,), both float32 and contiguous."""
        self.library.hp_product(self.number, matrix.address, work.address, x.data_ptr(), y.data_ptr())


class NativeMatrix:
    """A packed matrix in memory, checked, as the kernel reads it.

    Args:
        packed: by `packing.pack`, or from a file.

    Raises:
        ValueError: an index in it is out of range.
    """

    def __init__(self, packed: Packed) -> None:
        check_packed(packed)
        self.packed = packed
        self.arrays = {name: aligned(array) for name, array in packed.arrays.items()}
        pointers = {name: array.ctypes.data for name, array in self.arrays.items()}
        number = FORMATS.index(packed.format)
        self.struct = MatrixStruct(number, packed.rows, packed.columns, packed.groups, **pointers)
        self.address = ctypes.addressof(self.struct)


class Work:
    """Work space of the kernel for matrices up to a size.

    Args:
        matrices: the packed matrices that it must be large enough for.
    """

    def __init__(self, matrices: Iterable[Packed]) -> None:
        matrices = list(matrices)
        plane = rounded_up(max(packed.columns for packed in matrices) + PAD, PAD) + PAD
        rows = rounded_up(max(packed.rows for packed in matrices), 16)
        sizes: dict[str, Array] = {
            "input": np.zeros(plane, np.float32),
            "signed8": np.zeros(plane, np.int8),
            "unsigned8": np.zeros(plane, np.uint8),
            "planes": np.zeros(4 * plane, np.uint8),
            "changes": np.zeros(4 * plane, np.uint8),
            "integers": np.zeros(rows, np.int32),
            "floats": np.zeros(rows, np.float32),
        }
        self.arrays = {name: aligned(array) for name, array in sizes.items()}
        self.struct = WorkStruct(plane=plane, **{name: array.ctypes.data for name, array in self.arrays.items()})
        self.address = ctypes.addressof(self.struct)
