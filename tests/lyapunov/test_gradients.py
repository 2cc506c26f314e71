"""Gradients of exponents and distances by weights, inputs and start, compared with finite differences."""

import pytest
import torch
from brute_force import scaled
from torch import nn

from hyperpruning.lyapunov.distances import DISTANCES, spectrum_distance
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum

DENSE = torch.linspace(0.1, -2, 8)


def distance(network, inputs, start=None, kind="l2", **options):
    spectrum = lyapunov_spectrum(network, inputs, start=start, warmup=2, differentiable=True, **options)
    return spectrum_distance(spectrum, DENSE[: len(spectrum.exponents)], kind=kind)


@pytest.mark.parametrize("options", [{}, {"k": 1}, {"convention": "published"}])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_distance_to_the_weights(cell, options):
    torch.manual_seed(0)
    network, inputs = scaled(cell(2, 2, 2, dtype=torch.float64), 2.0), torch.randn(5, 2, 2, dtype=torch.float64)
    names, values = zip(*network.named_parameters(), strict=True)

    def of(*weights):
        return torch.func.functional_call(
            Measured(network, options), {f"inner.{n}": w for n, w in zip(names, weights, strict=True)}, inputs
        )

    assert torch.autograd.gradcheck(of, values, eps=1e-6, atol=1e-5, rtol=1e-4)


class Measured(nn.Module):
    def __init__(self, inner, options):
        super().__init__()
        self.inner, self.options = inner, options

    def forward(self, inputs):
        return distance(self.inner, inputs, **self.options)


@pytest.mark.parametrize("kind", DISTANCES)
def test_every_distance_to_inputs_and_start(kind):
    torch.manual_seed(0)
    weight = torch.randn(3, 3, dtype=torch.float64)
    inputs = torch.randn(4, 1, 3, dtype=torch.float64, requires_grad=True)
    start = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)

    def of(inputs, start):
        return distance(lambda state, x: torch.tanh(state @ weight + x), inputs, start, kind)

    assert torch.autograd.gradcheck(of, (inputs, start), eps=1e-6, atol=1e-5, rtol=1e-4)


def test_gradients_are_finite_with_dead_units():
    torch.manual_seed(0)
    network, inputs = nn.LSTM(2, 4, dtype=torch.float64), torch.randn(7, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        network.weight_hh_l0[:, 1] = 0
    distance(network, inputs).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert gradients[1].abs().max() > 0


def test_the_differentiable_algorithm_agrees_with_the_fast_one():
    torch.manual_seed(0)
    network, inputs = scaled(nn.LSTM(4, 6, 2), 3.0), torch.randn(20, 2, 4)
    fast = lyapunov_spectrum(network, inputs)
    differentiable = lyapunov_spectrum(network, inputs, differentiable=True)
    assert not fast.growth.requires_grad
    assert differentiable.growth.requires_grad
    torch.testing.assert_close(differentiable.exponents.detach(), fast.exponents, atol=1e-4, rtol=0)


def test_gradient_descent_reduces_the_distance_to_a_target():
    torch.manual_seed(0)
    network, inputs = nn.RNN(3, 4), torch.randn(16, 2, 3)
    target = lyapunov_spectrum(scaled(nn.RNN(3, 4), 1.2), inputs)

    def gap():
        return spectrum_distance(lyapunov_spectrum(network, inputs, differentiable=True), target)

    before = gap().item()
    for _ in range(30):
        gradients = torch.autograd.grad(gap(), list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.sub_(0.02 * gradient)
    assert gap().item() < before / 2
