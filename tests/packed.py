"""Matrices with zeros, for the tests of packed formats."""

import torch

# sizes that no lane, block or vector divides, a single entry, wide and high ones
SIZES = [(1, 1), (5, 3), (8, 4), (37, 19), (16, 64), (650, 129), (20, 700)]


def sparse(rows, columns, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, columns, generator=generator) < density
    return torch.where(kept, torch.randn(rows, columns, generator=generator), 0.0)


def uneven():
    """A dense row, empty rows, and nonzeros at both ends of a row."""
    weight = torch.zeros(35, 500)
    weight[3], weight[7, 0], weight[7, 499], weight[20, ::97] = torch.randn(500), 1.5, -2.0, 0.5
    return weight


MATRICES = {f"{r}x{c} {d}": sparse(r, c, d) for r, c in SIZES for d in (0.0, 0.08, 0.5, 1.0)} | {"uneven": uneven()}
