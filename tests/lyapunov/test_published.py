"""The published convention, from its description: J^T Q in forward order, warm-up without QR, inputs read again."""

import numpy as np
import pytest
import torch
from brute_force import module_jacobians, scaled
from torch import nn

from hyperpruning.lyapunov.spectrum import lyapunov_spectrum


def published(jacobians, warmup):
    """The definition with natural logarithms; the published code uses base 2."""
    result = []
    for b in range(jacobians.shape[1]):
        q = np.eye(jacobians.shape[-1])
        for j in jacobians[:warmup, b]:
            q = j.T @ q
        q, logs = np.linalg.qr(q)[0], []
        for j in jacobians[warmup:, b]:
            q, r = np.linalg.qr(j.T @ q)
            logs.append(np.log(np.abs(np.diag(r))))
        result.append(np.mean(logs, 0))
    return np.array(result)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_equals_the_published_definition(cell, layers):
    torch.manual_seed(0)
    network = scaled(cell(3, 5, layers, dtype=torch.float64), 1.5)
    inputs = torch.randn(12, 2, 3, dtype=torch.float64)
    start = torch.zeros(layers, 2, 5, dtype=torch.float64)
    jacobians = module_jacobians(
        network, torch.cat([inputs[:4], inputs]), (start, start) if cell is nn.LSTM else start, "h"
    )
    spectrum = lyapunov_spectrum(network, inputs, warmup=4, convention="published")
    np.testing.assert_allclose(spectrum.per_sequence, published(jacobians, 4), atol=1e-8, rtol=0)
    assert (spectrum.steps, spectrum.convention) == (12, "published")


def test_both_conventions_have_the_same_sum():
    # ln |det J^T| = ln |det J|, over the same steps: without a warm-up both read the same inputs once
    torch.manual_seed(0)
    network, inputs = nn.GRU(3, 6, dtype=torch.float64), torch.randn(15, 2, 3, dtype=torch.float64)
    forward = lyapunov_spectrum(network, inputs, warmup=0)
    backward = lyapunov_spectrum(network, inputs, warmup=0, convention="published")
    torch.testing.assert_close(forward.exponents.sum(), backward.exponents.sum(), atol=1e-11, rtol=0)
    assert (forward.exponents - backward.exponents).abs().max() > 1e-3
