"""Builds that this processor cannot run: NEON under qemu, and AVX-512 with its intrinsics in plain C."""

import platform
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperpruning.deploy.compiler import SOURCE
from hyperpruning.deploy.native import BUILDS
from hyperpruning.deploy.packing import FORMATS, pack
from packed import MATRICES

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
ARRAYS = ("values", "offsets", "bases", "starts", "order", "scales", "sums")
FLAGS = ("-std=c99", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{SOURCE.parent}")
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
CROSS = shutil.which("aarch64-linux-gnu-gcc")


def records(build: str) -> tuple[bytes, list[tuple[str, int]]]:
    """What products.c reads, and the format and rows of each record."""
    stream, found, generator = [], [], torch.Generator().manual_seed(0)
    for format in FORMATS:
        for weight in MATRICES.values():
            packed, x = pack(weight, format), torch.randn(weight.shape[1], generator=generator)
            arrays = [packed.arrays[name].tobytes() if name in packed.arrays else b"" for name in ARRAYS]
            head = (BUILDS.index(build), FORMATS.index(format), packed.rows, packed.columns, packed.groups)
            stream.append(struct.pack("<5i7q", *head, *map(len, arrays)) + b"".join(arrays) + x.numpy().tobytes())
            found.append((format, packed.rows))
    return b"".join(stream), found


def products(compiler: list[str], runner: list[str], build: str, folder: Path) -> bytes:
    program = folder / f"products-{build}"
    subprocess.run([*compiler, *FLAGS, str(HERE / "products.c"), "-o", str(program)], check=True)
    return subprocess.run([*runner, str(program)], input=records(build)[0], capture_output=True, check=True).stdout


def assert_same(found: bytes, expected: bytes) -> None:
    """int8 to the bit, and sigmoid and tanh of it; fp32 up to the order of its sums."""
    ours, plain, start = np.frombuffer(found, np.float32), np.frombuffer(expected, np.float32), 0
    for format, rows in records("plain")[1]:
        one, other = ours[start : start + 3 * rows], plain[start : start + 3 * rows]
        if format.endswith("int8"):
            assert one.tobytes() == other.tobytes(), format
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        start += 3 * rows
    assert start == len(ours) == len(plain)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    return products(["gcc"], [], "plain", tmp_path_factory.mktemp("plain"))


@pytest.mark.skipif(not (QEMU and CROSS), reason="needs aarch64-linux-gnu-gcc and qemu-aarch64")
@pytest.mark.parametrize("build", ["plain", "neon"])
def test_aarch64_agrees(build, plain, tmp_path):
    assert_same(products([CROSS, "-static"], [QEMU], build, tmp_path), plain)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs AVX2")
def test_avx512_agrees(plain, tmp_path):
    shim = ["gcc", "-include", str(HERE / "avx512_in_c.h")]
    assert_same(products(shim, [], "avx512", tmp_path), plain)
