"""A falling density with blocks that differ in cost reaches its final numbers, whatever the allocation does between."""

from functools import partial

import pytest
import torch
from torch import nn

from hyperpruning.sparsity.allocations import ALLOCATIONS, table
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import GRANULARITIES
from hyperpruning.sparsity.schedules import DENSITIES
from hyperpruning.sparsity.weight_budget import WeightBudget

SIZES = {
    "w": (768, 18),
    "r": (768, 256),
    "output": (18, 256),
}  # 18: blocks at the edges are partial
COUNTS = {"w": 8722, "r": 49386, "output": 4107}


@pytest.mark.parametrize("allocation", ["table", "uniform", "er"])
@pytest.mark.parametrize("density", [name for name in DENSITIES if name != "constant"])
@pytest.mark.parametrize("more", [0, 1, 37, 333])
def test_a_density_that_falls_ends_at_its_final_numbers(allocation, density, more):
    counts = {name: count - more for name, count in COUNTS.items()}
    chosen = partial(table, counts=counts) if allocation == "table" else ALLOCATIONS[allocation]
    blocks = GRANULARITIES["block_8x4"]
    method = Method(allocation=chosen, granularity=blocks, density=DENSITIES[density], grow=None, drop_fraction=0)
    parameters = {name: nn.Parameter(torch.empty(shape)) for name, shape in SIZES.items()}
    whole = sum(one.numel() for one in parameters.values())
    budget = WeightBudget(method, parameters, dict.fromkeys(SIZES, 1), 1 - sum(counts.values()) / whole, 400)
    have = budget.scheduled_blocks(0)
    for step in range(1, 400):
        due = budget.target_blocks(step, have)
        assert all(due[name] <= have[name] for name in have)
        assert min(due.values()) > 0
        have = due
    assert have == budget.final_blocks
    assert budget.is_final(have)
