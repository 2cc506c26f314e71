"""Sizes of model folders: percent of dense fp32, a 6000 x 1500 matrix, uniform masks, weights as in trained networks.

    python benchmarks/model_size.py

The values are drawn from a normal distribution, whose mantissas compress no better than those of trained weights.
"""

from __future__ import annotations

import torch

from hyperpruning.deploy.compact import PRECISIONS, decode, encode

SPARSITIES = (0.67, 0.8, 0.9, 0.95)
TARGETS = {"exact": (31, 20, 10.5, 5.5), "int8": (11, 7.5, 4.2, 2.4)}


def percent(weight: torch.Tensor, precision: str) -> float:
    """Bytes of the encoded matrix, percent of its dense fp32 bytes; the round trip is checked."""
    about, content = encode(weight, precision)
    if precision == "exact" and not decode(about, content).equal(weight):
        raise AssertionError("The round trip must be exact.")
    return 100 * len(content) / (4 * weight.numel())


def sizes(rows: int = 6000, columns: int = 1500) -> dict[str, list[float]]:
    """Percent of dense fp32 by precision, at each of `SPARSITIES`."""
    generator = torch.Generator().manual_seed(0)
    values, kept = torch.randn(rows, columns, generator=generator), torch.rand(rows, columns, generator=generator)
    weights = [torch.where(kept >= sparsity, 0.05 * values, 0.0) for sparsity in SPARSITIES]
    return {precision: [percent(weight, precision) for weight in weights] for precision in PRECISIONS}


if __name__ == "__main__":
    print("sparsity  " + "".join(f"{sparsity:8.0%}" for sparsity in SPARSITIES))
    for precision, row in sizes().items():
        at_most = f"   at most {' / '.join(map(str, TARGETS[precision]))}" if precision in TARGETS else ""
        print(f"{precision:10}" + "".join(f"{value:7.2f}%" for value in row) + at_most)
