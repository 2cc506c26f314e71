"""Layers of unequal widths: what torch's layer computes where the widths are equal."""

import pytest
import torch

from hyperpruning.models.language_model import CELLS
from hyperpruning.models.stack import Stack


def together(cell, dropout=0.0):
    """A stack and one of torch's modules with the same weights."""
    torch.manual_seed(0)
    fused, stack = CELLS[cell](3, 5, 2, dropout=dropout).double(), Stack(cell, 3, (5, 5), dropout=dropout).double()
    for one, other in zip(stack.parameters(), fused.parameters(), strict=True):
        one.data = other.data
    return stack, fused


@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_of_equal_layers_is_torchs_module(cell):
    stack, fused = together(cell)
    inputs = torch.randn(12, 4, 3, dtype=torch.float64)
    outputs, state = stack(inputs)
    expected, states = fused(inputs)
    assert outputs.equal(expected)
    for part, layers in zip(state, states, strict=True) if cell == "lstm" else [(state, states)]:
        assert part.split(5, -1)[0].equal(layers[:1])  # (1, B, sum of widths) and (L, B, H)
        assert part.split(5, -1)[1].equal(layers[1:])
    assert stack(inputs, state)[0].equal(fused(inputs, states)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_has_dropout_between_its_layers_while_it_trains(cell):
    stack, fused = together(cell, dropout=0.5)
    inputs = torch.randn(12, 4, 3, dtype=torch.float64)
    assert not stack(inputs)[0].equal(stack(inputs)[0])
    assert stack.eval()(inputs)[0].equal(fused.eval()(inputs)[0])
    single = Stack(cell, 3, (4,), dropout=0.9)
    assert single(inputs.float())[0].equal(single(inputs.float())[0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_driven_layer_steps_as_the_stack_does(cell):
    torch.manual_seed(1)
    stack = Stack(cell, 3, (4, 6)).double()
    inputs = torch.randn(5, 2, 3, dtype=torch.float64)
    states = [torch.zeros(2, layer.state_size, dtype=torch.float64) for layer in stack.driven_layers()]
    for input, expected in zip(inputs, stack(inputs)[0], strict=True):
        for number, layer in enumerate(stack.driven_layers()):
            states[number] = layer.step(states[number], input)
            input = states[number][:, : layer.hidden_size]
        torch.testing.assert_close(input, expected, rtol=0, atol=1e-12)
