"""Recurrent highway layers: the published equations in a naive loop, the state, the dropout, the Jacobian."""

import pytest
import torch
from torch.nn import functional

from highway import random_highway
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.stack import Stack


def by_equations(layer, inputs, state, mask):
    """Zilly et al. 2017, equations 6 to 9, computed term by term; the gates read mask * s."""
    size, every = layer.hidden_size, []
    for x in inputs:
        for depth, (r, b) in enumerate(zip(layer.r, layer.b, strict=True)):
            h, t, *c = (
                r[rows] @ (mask * state).T + b[rows, None] + (layer.w[rows] @ x.T if depth == 0 else 0)
                for rows in torch.arange(len(layer.w)).split(size)
            )
            h, t = torch.tanh(h).T, torch.sigmoid(t).T
            carry = torch.sigmoid(c[0]).T if c else 1 - t
            state = h * t + state * carry
        every.append(state)
    return torch.stack(every)


@pytest.mark.parametrize("gates", [2, 3])
@pytest.mark.parametrize("depth", [1, 4])
def test_a_layer_computes_the_equations(gates, depth):
    torch.manual_seed(0)
    layer = random_highway(3, 5, depth, gates)
    inputs, start = torch.randn(7, 2, 3).double(), torch.randn(1, 2, 5).double()
    expected = by_equations(layer, inputs, start[0], 1)
    outputs, end = layer(inputs, start)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    assert end.equal(outputs[-1:])
    first, state = layer(inputs[:3], start)
    assert torch.cat([first, layer(inputs[3:], state)[0]]).equal(outputs)
    assert layer(inputs)[0].equal(layer(inputs, torch.zeros_like(start))[0])


@pytest.mark.parametrize("gates", [2, 3])
def test_one_dropout_mask_applies_to_all_gates_and_not_to_the_carry(gates):
    torch.manual_seed(0)
    layer = random_highway(3, 6, 4, gates)
    layer.dropout = 0.5
    inputs, start = torch.randn(7, 2, 3).double(), torch.randn(1, 2, 6).double()
    torch.manual_seed(1)
    outputs, _ = layer(inputs, start)
    torch.manual_seed(1)
    mask = functional.dropout(torch.ones(2, 6).double(), 0.5)
    assert 0 < int(mask.count_nonzero()) < 12
    torch.testing.assert_close(outputs, by_equations(layer, inputs, start[0], mask), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.eval()(inputs, start)[0], by_equations(layer, inputs, start[0], 1))


@pytest.mark.parametrize("coupled", [True, False])
def test_gradients_are_those_of_the_equations(coupled):
    torch.manual_seed(0)
    layer = RHNLayer(3, 5, depth=3, coupled=coupled).double()
    inputs, start = torch.randn(6, 2, 3).double(), torch.randn(1, 2, 5).double()
    ours = torch.autograd.grad(layer(inputs, start)[0].square().sum(), list(layer.parameters()))
    theirs = torch.autograd.grad(by_equations(layer, inputs, start[0], 1).square().sum(), list(layer.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_first_and_second_derivatives_are_those_of_finite_differences(coupled, dropout):
    torch.manual_seed(0)
    layer = RHNLayer(2, 3, depth=2, coupled=coupled, dropout=dropout).double()
    parameters = list(layer.parameters())

    def run(inputs, start, *values):
        torch.manual_seed(1)  # the same mask
        state = dict(zip([name for name, _ in layer.named_parameters()], values, strict=True))
        return torch.func.functional_call(layer, state, (inputs, start))[0]

    given = [torch.randn(3, 2, 2).double().requires_grad_(), torch.randn(1, 2, 3).double().requires_grad_()]
    assert torch.autograd.gradcheck(run, [*given, *parameters])
    assert torch.autograd.gradgradcheck(run, [*given, *parameters])
    alone = given[0].detach()  # without a start state, only the parameters are differentiated
    assert torch.autograd.gradgradcheck(lambda *values: run(alone, None, *values), parameters)


def test_parameters_have_torchs_shapes_and_initial_range():
    layer = RHNLayer(3, 16, depth=4, coupled=False)
    shapes = {name: tuple(value.shape) for name, value in layer.named_parameters()}
    assert shapes == {"w": (48, 3)} | {f"r.{d}": (48, 16) for d in range(4)} | {f"b.{d}": (48,) for d in range(4)}
    largest = max(float(value.detach().abs().max()) for value in layer.parameters())
    assert 0.24 < largest <= 0.25  # 1 / sqrt(16)
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        RHNLayer(3, 5, depth=0)


def test_a_stack_of_them_has_a_spectrum_in_evaluation_mode():
    torch.manual_seed(0)
    layers = [RHNLayer(3, 5, depth=2, dropout=0.3), RHNLayer(5, 4, depth=3)]
    stack, inputs = Stack(layers).double(), torch.randn(30, 2, 3).double()
    with pytest.raises(ValueError, match=r"Call network\.eval"):
        lyapunov_spectrum(stack, inputs)
    stack.eval()
    spectrum = lyapunov_spectrum(stack, inputs, warmup=0)

    def step(state, input):  # both layers as one function, differentiated
        lower = layers[0].step(state[:, :5], input)
        return torch.cat([lower, layers[1].step(state[:, 5:], lower)], -1)

    whole = lyapunov_spectrum(step, inputs, start=torch.zeros(2, 9).double(), warmup=0)
    torch.testing.assert_close(whole.exponents.sum(), spectrum.exponents.sum(), rtol=0, atol=1e-9)
    assert spectrum.sizes == (5, 4)
