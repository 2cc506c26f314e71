"""Stacks of layers: equal widths compute the same as one module of torch."""

import pytest
import torch

from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.models.stack import CELLS, Stack, stacked_layers


def stack_and_module(cell, dropout=0.0):
    """A stack and a module of torch with the same weights."""
    torch.manual_seed(0)
    fused = CELLS[cell](3, 5, 2, dropout=dropout).double()
    stack = Stack(stacked_layers(CELLS[cell], 3, (5, 5)), dropout=dropout).double()
    for one, other in zip(stack.parameters(), fused.parameters(), strict=True):
        one.data = other.data
    return stack, fused


@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_of_equal_layers_equals_torchs_module(cell):
    stack, fused = stack_and_module(cell)
    inputs = torch.randn(12, 4, 3, dtype=torch.float64)
    outputs, state = stack(inputs)
    expected, states = fused(inputs)
    assert outputs.equal(expected)
    for part, layers in zip(state, states, strict=True) if cell == "lstm" else [(state, states)]:
        assert part.split(5, -1)[0].equal(layers[:1])  # (1, B, sum of widths) and (L, B, H)
        assert part.split(5, -1)[1].equal(layers[1:])
    assert stack(inputs, state)[0].equal(fused(inputs, states)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_has_dropout_between_its_layers_in_training_mode(cell):
    stack, fused = stack_and_module(cell, dropout=0.5)
    inputs = torch.randn(12, 4, 3, dtype=torch.float64)
    assert not stack(inputs)[0].equal(stack(inputs)[0])
    assert stack.eval()(inputs)[0].equal(fused.eval()(inputs)[0])
    single = Stack(stacked_layers(CELLS[cell], 3, (4,)), dropout=0.9)
    assert single(inputs.float())[0].equal(single(inputs.float())[0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_has_the_spectrum_of_the_equal_module(cell):
    stack, fused = stack_and_module(cell)
    inputs = torch.randn(16, 2, 3, dtype=torch.float64)
    expected, found = (lyapunov_spectrum(network.eval(), inputs, warmup=4) for network in (fused, stack))
    torch.testing.assert_close(found.exponents, expected.exponents, rtol=0, atol=1e-12)
    unequal = Stack(stacked_layers(CELLS[cell], 3, (4, 6)))
    assert lyapunov_spectrum(unequal, inputs.float(), state="full").exponents.isfinite().any()
