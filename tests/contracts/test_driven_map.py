"""Every layer of the package passes the contract test of a driven layer, and a faulty layer fails it."""

import pytest
import torch
from torch import nn

from highway import random_highway
from hyperpruning.lyapunov.networks import driven_map
from hyperpruning.lyapunov.steps import StepLayer
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.testing import check_driven_layer


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
    layers = driven_map(network, inputs, None, None).layers
    for layer, width in zip(layers, (3, 5), strict=True):
        check_driven_layer(layer, torch.randn(4, layer.state_size).double(), torch.randn(4, width).double())


@pytest.mark.parametrize(
    ("cell", "options"), [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"})]
)
def test_steps_follow_the_fused_module(cell, options):
    torch.manual_seed(0)
    network = cell(3, 5, 2, dtype=torch.float64, **options)
    inputs = torch.randn(12, 4, 3, dtype=torch.float64)
    stack = driven_map(network, inputs, None, None)
    outputs = inputs
    for layer, state in zip(stack.layers, stack.start, strict=True):
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
    layer = random_highway(3, 5, depth, gates)
    check_driven_layer(layer, torch.randn(4, 5).double(), torch.randn(4, 3).double())


def test_a_plain_step():
    torch.manual_seed(0)
    weight = torch.randn(4, 4).double()
    layer = StepLayer(lambda state, input: torch.sin(state @ weight + input), 4)
    check_driven_layer(layer, torch.randn(3, 4).double(), torch.randn(3, 4).double())


def faulty(**methods):
    return random_highway(3, 5, 2, 2, kind=type("Faulty", (RHNLayer,), methods))


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"step": lambda self, state, input: state[:, :3]}, "must have the shape"),
        ({"step": lambda self, state, input: state + state.mean(0)}, "rows of the batch"),
        ({"jacobian": lambda self, terms, size: torch.zeros(len(terms), size, size).double()}, "must equal"),
        ({"jacobian_terms": lambda self, *at: 1.001 * RHNLayer.jacobian_terms(self, *at)}, "must equal"),
        (  # the first step is correct, because `step` uses it
            {"unroll": lambda self, state, inputs: torch.cat([RHNLayer.unroll(self, state, inputs[:1]), state[None]])},
            "unroll must return",
        ),
    ],
)
def test_a_faulty_layer_fails(methods, said):
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=said):
        check_driven_layer(faulty(**methods), torch.randn(4, 5).double(), torch.randn(4, 3).double())
