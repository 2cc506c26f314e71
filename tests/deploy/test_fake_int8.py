"""hp.fake_int8: a forward pass has the weights of the int8 decoder to the bit; the full ones are trained."""

import pytest
import torch
from torch import nn

import hyperpruning as hp
from hyperpruning.deploy.packing import pack, unpack
from hyperpruning.deploy.parts import network_parts
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.sequence_model import Forecaster, SequenceClassifier
from packed import sparse

NETWORKS = {
    "language model": lambda: LanguageModel(20, embedding=12, hidden=24, layers=2),
    "mixture of softmaxes": lambda: LanguageModel(20, embedding=12, hidden=12, experts=2),
    "classifier": lambda: SequenceClassifier(5, 3, hidden=20, pool="mean"),
    "forecaster": lambda: Forecaster(4, 3, cell="lstm", hidden=[17, 9]),
    "layers": lambda: nn.GRU(6, 18, 2),
    "highway": lambda: RHNLayer(6, 18, depth=2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_inside_the_block_the_weights_are_those_of_the_int8_decoder(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim == 2:
                value.mul_(sparse(*value.shape, 0.3, seed=1) != 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected = {one.name: unpack(pack(one.weight, "dense_int8")) for one in network_parts(network).linears()}
    with hp.fake_int8(network):
        inside = dict(network.named_parameters())
        for name, value in before.items():
            assert inside.get(name, value).equal(expected.get(name, value)), name
            assert name not in expected or ((inside[name] != 0) <= (value != 0)).all()
    after = network.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())


def test_the_gradient_is_that_of_the_rounded_weights():
    torch.manual_seed(0)
    network, x = SequenceClassifier(5, 3, hidden=20), torch.randn(7, 4, 5)
    rounded = SequenceClassifier(5, 3, hidden=20)
    rounded.load_state_dict(network.state_dict())
    with torch.no_grad():
        for one in network_parts(network).linears():
            rounded.get_parameter(one.name).copy_(unpack(pack(one.weight, "dense_int8")))
    rounded(x).square().sum().backward()
    with hp.fake_int8(network):
        network(x).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad.equal(rounded.get_parameter(name).grad), name


def test_a_backward_pass_after_the_block_is_refused():
    network = SequenceClassifier(5, 3, hidden=20)
    with hp.fake_int8(network):
        loss = network(torch.randn(7, 4, 5)).sum()
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_the_weights_are_restored_after_an_error_and_infinite_ones_are_refused():
    network = nn.GRU(5, 8)
    before = network.weight_hh_l0.detach().clone()
    with pytest.raises(KeyError), hp.fake_int8(network):
        raise KeyError
    assert network.weight_hh_l0.equal(before)
    with torch.no_grad():
        network.weight_hh_l0[0, 0] = torch.inf
    with pytest.raises(ValueError, match="must be finite, got one with inf or nan"), hp.fake_int8(network):
        pass
    with pytest.raises(TypeError, match="got Linear"), hp.fake_int8(nn.Linear(2, 2)):
        pass
