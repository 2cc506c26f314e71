"""Accuracy in float32 on badly conditioned networks: gain-scaled and trained ones."""

import pytest
import torch
from brute_force import scaled, trained
from torch import nn

from hyperpruning.lyapunov.spectrum import lyapunov_spectrum


def errors(network, inputs):
    single = lyapunov_spectrum(network, inputs)
    double = lyapunov_spectrum(network, inputs, dtype=torch.float64)
    return (single.exponents - double.exponents).abs()


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_trained_network(cell):
    check(errors(*trained(cell)))


@pytest.mark.parametrize(("cell", "gain"), [(nn.LSTM, 3.0), (nn.LSTM, 6.0), (nn.GRU, 5.0), (nn.RNN, 3.0)])
def test_gain_scaled_network(cell, gain):
    torch.manual_seed(0)
    check(errors(scaled(cell(32, 48, 2), gain), torch.randn(45, 2, 32)))


def check(error):
    assert error.quantile(0.9) < 1e-4
    # A few positions are ill-conditioned: two directions of nearly equal growth exchange their positions, and
    # rounding only the Jacobians to float32, with a computation in float64, has errors of the same size.
    assert error.max() < 2e-3
    assert error.mean() < 1e-4
