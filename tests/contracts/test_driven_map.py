"""The contract of a driven layer, and every layer of the package run through it.

A cell of your own: `check_driven_layer(layer, state, input)` with a state (N, D) and an input (N, I) in float64.
"""

import pytest
import torch
from torch import nn

from hyperpruning.lyapunov.layers import StepLayer, automatic_jacobian
from hyperpruning.lyapunov.networks import driven
from hyperpruning.lyapunov.rhn import RHNLayer


def check_driven_layer(layer, state, input):
    """Check the protocol: shapes, independent rows, the hand-written Jacobian against AD, also at random slopes."""
    following = layer.step(state, input)
    assert following.shape == state.shape == (len(state), layer.state_size)
    assert 1 <= layer.hidden_size <= layer.state_size
    torch.testing.assert_close(layer.step(state[:1], input[:1]), following[:1], msg="rows depend on each other")
    for size in {layer.hidden_size, layer.state_size}:
        pushed = automatic_jacobian(layer.step, state, input, size)
        pulled = torch.func.vmap(torch.func.jacrev(lambda s, x: layer.step(s[None], x[None])[0]))(state, input)
        torch.testing.assert_close(pushed, pulled[:, :size, :size], atol=1e-12, rtol=1e-10)
        if hasattr(layer, "assembled"):
            slopes = layer.slopes(state, input)
            torch.testing.assert_close(layer.assembled(slopes, size), pushed, atol=1e-12, rtol=1e-10)
            generic = layer.assembled(0.5 + torch.rand_like(slopes[:1]), size)[0]
            assert generic.shape == (size, size)
            assert not bool((pushed[:, generic == 0] != 0).any()), "an entry that is zero in general is not zero here"
            assert bool((torch.linalg.matrix_rank(pushed) <= torch.linalg.matrix_rank(generic)).all())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("cell", "options"), [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"})]
)
def test_layers_of_torch(cell, options, bias):
    torch.manual_seed(0)
    network = cell(3, 5, 2, bias=bias, dtype=torch.float64, **options)
    with torch.no_grad():
        network.weight_hh_l0[:, 2] = 0
    inputs = torch.randn(6, 4, 3, dtype=torch.float64)
    layers = driven(network, inputs, None, None).layers
    for layer, width in zip(layers, (3, 5), strict=True):
        check_driven_layer(layer, torch.randn(4, layer.state_size).double(), torch.randn(4, width).double())


@pytest.mark.parametrize(
    ("cell", "options"), [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"})]
)
def test_steps_follow_the_fused_module(cell, options):
    torch.manual_seed(0)
    network = cell(3, 5, 2, dtype=torch.float64, **options)
    inputs = torch.randn(12, 4, 3, dtype=torch.float64)
    map_ = driven(network, inputs, None, None)
    outputs = inputs
    for layer, state in zip(map_.layers, map_.start, strict=True):
        visited = []
        for input in outputs:
            state = layer.step(state, input)
            visited.append(state[:, : layer.hidden_size])
        outputs = torch.stack(visited)
    torch.testing.assert_close(outputs, network(inputs)[0], atol=1e-13, rtol=0)


@pytest.mark.parametrize("gates", [2, 3])
@pytest.mark.parametrize("depth", [1, 4])
def test_recurrent_highway(gates, depth):
    torch.manual_seed(0)
    layer = RHNLayer(
        *(torch.randn(shape).double() for shape in ((gates * 5, 3), (depth, gates * 5, 5), (depth, gates * 5)))
    )
    check_driven_layer(layer, torch.randn(4, 5).double(), torch.randn(4, 3).double())


def test_a_plain_step():
    torch.manual_seed(0)
    weight = torch.randn(4, 4).double()
    layer = StepLayer(lambda state, input: torch.sin(state @ weight + input), 4)
    check_driven_layer(layer, torch.randn(3, 4).double(), torch.randn(3, 4).double())
