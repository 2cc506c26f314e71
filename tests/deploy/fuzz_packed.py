"""Corrupt packed matrices at random and multiply by what the checks accept; test_fuzz.py runs it with sanitizers.

Arguments: a library of kernel.c, the number of corruptions, a seed. Prints how many were refused, how many multiplied.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hyperpruning.deploy.compiler import load_kernel
from hyperpruning.deploy.native import BUILDS, NativeMatrix, Work
from hyperpruning.deploy.packing import FORMATS, Packed, pack


def corrupted(packed: Packed, random: np.random.Generator) -> Packed:
    """One to three changes: bytes, lengths, sizes, names, types."""
    arrays = {name: array.copy() for name, array in packed.arrays.items()}
    for _ in range(random.integers(1, 4)):
        name = str(random.choice(sorted(arrays)))
        array = arrays[name]
        kind = random.integers(8)
        if kind < 4 and array.nbytes:
            raw = array.view(np.uint8)
            raw[random.integers(len(raw), size=random.integers(1, 4))] = random.integers(256)
        elif kind == 4:
            arrays[name] = array[: random.integers(len(array) + 1)].copy()
        elif kind == 5:
            arrays[name] = np.concatenate([array, array[: random.integers(1, 80)]])
        elif kind == 6:
            size = str(random.choice(["rows", "columns"]))
            packed = replace(packed, **{size: max(0, getattr(packed, size) + int(random.integers(-70, 70)))})
        else:
            packed = replace(packed, format=str(random.choice(FORMATS)))
    return replace(packed, arrays=arrays)


def main(library: str, count: int, seed: int) -> None:
    kernel, random = load_kernel(Path(library)), np.random.default_rng(seed)
    builds = [number for number in range(len(BUILDS)) if kernel.hp_has_build(number)]
    refused = multiplied = 0
    for number in range(count):
        torch.manual_seed(number)
        rows, columns = int(random.integers(1, 60)), int(random.integers(1, 200))
        weight = torch.randn(rows, columns) * (torch.rand(rows, columns) < random.random())
        try:
            matrix = NativeMatrix(corrupted(pack(weight, FORMATS[number % len(FORMATS)]), random))
        except ValueError:
            refused += 1
            continue
        packed = matrix.packed
        work, y = Work([packed]), torch.empty(packed.rows)
        for build in builds:
            x = torch.randn(packed.columns)
            kernel.hp_product(build, matrix.address, work.address, x.data_ptr(), y.data_ptr())
        multiplied += 1
    sys.stdout.write(f"{refused} refused, {multiplied} multiplied\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
