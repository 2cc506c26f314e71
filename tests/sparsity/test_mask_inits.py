"""Mask initialisations: data-driven scores against naive autograd computations."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.mask_inits import MASK_INITS, jacobian_norm
from hyperpruning.sparsity.method import Method, MethodError
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.training.calibration import stacked_norm
from pruned import prunable_parameter


class Tanh(nn.Module):
    """Small enough for whole Hessians."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
        self.inputs, self.targets = torch.randn(5, 3).double(), torch.randn(5, 2).double()

    def loss(self):
        return (self.two(self.one(self.inputs).tanh()) - self.targets).square().mean()

    def prunable_parameters(self):
        found = {}
        for name in ("one", "two"):
            weight = getattr(self, name).weight
            found[name] = prunable_parameter(weight.detach(), torch.ones_like(weight), name=name)
            object.__setattr__(found[name], "tensor", weight)
        return found


def flat(found):
    return torch.cat([values.flatten() for values in found.values()])


def test_snip_is_weight_times_gradient():
    net = Tanh()
    net.loss().backward()
    modules = {"one": net.one, "two": net.two}
    expected = {name: (module.weight * module.weight.grad).abs() for name, module in modules.items()}
    torch.testing.assert_close(flat(MASK_INITS["snip"](net.prunable_parameters(), net.loss)), flat(expected).detach())


def test_grasp_is_weight_times_hessian_times_gradient():
    net = Tanh()
    weights = (net.one.weight, net.two.weight)

    def by_values(vector):
        one, two = vector[:12].view(4, 3), vector[12:].view(2, 4)
        hidden = torch.nn.functional.linear(net.inputs, one, net.one.bias).tanh()
        return (torch.nn.functional.linear(hidden, two, net.two.bias) - net.targets).square().mean()

    start = torch.cat([weight.detach().flatten() for weight in weights]).requires_grad_()
    hessian = torch.autograd.functional.hessian(by_values, start)
    (slope,) = torch.autograd.grad(by_values(start), start)
    expected = start * (hessian @ slope)
    torch.testing.assert_close(flat(MASK_INITS["grasp"](net.prunable_parameters(), net.loss)), expected.detach())


def test_the_jacobian_norm_is_that_of_the_whole_jacobian():
    torch.manual_seed(0)
    cell = nn.GRUCell(3, 5).double()
    start, inputs = torch.randn(2, 5).double(), torch.randn(6, 2, 3).double()
    state, expected = start, 0.0
    for time, one in enumerate(inputs):
        if time >= 2:
            for batch in range(2):
                alone = functools.partial(lambda x, h: cell(x[None], h[None])[0], one[batch])
                whole = torch.autograd.functional.jacobian(alone, state[batch])
                expected += (whole @ torch.ones(5).double()).norm() / 2
        state = cell(one, state).detach()
    found = jacobian_norm(lambda h, x: cell(x, h), start, inputs, last=4)
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_jacobian_mask_init_is_the_slope_of_the_norm(kind):
    torch.manual_seed(0)
    layer, inputs = kind(3, 4, num_layers=2).double(), torch.randn(7, 2, 3).double()
    weight = layer.weight_hh_l1
    shown = {"w": prunable_parameter(weight.detach(), torch.ones_like(weight))}
    object.__setattr__(shown["w"], "tensor", weight)
    found = MASK_INITS["jacobian"](shown, lambda: stacked_norm(layer, inputs))["w"]

    def norm():
        with torch.enable_grad():
            return float(stacked_norm(layer, inputs).detach())

    slopes, step = torch.zeros_like(weight), 1e-5
    with torch.no_grad():
        for place in range(weight.numel()):
            entry = weight.view(-1)[place : place + 1]
            entry += step
            above = norm()
            entry -= 2 * step
            slopes.view(-1)[place] = (above - norm()) / (2 * step)
            entry += step
    # central differences: step^2 of truncation, 1e-16 / step of rounding
    torch.testing.assert_close(found, slopes.abs() / slopes.abs().mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["snip", "grasp", "jacobian"])
def test_a_mask_init_that_needs_data_says_so(name):
    with pytest.raises(ValueError, match=f"when mask_init is '{name}', got None. Give the Sparsifier calibration="):
        Sparsifier(nn.Linear(8, 8), None, METHODS[name], sparsity=0.5)


def test_a_calibration_that_is_not_finite_is_refused():
    layer = nn.Linear(8, 8)
    with pytest.raises(FloatingPointError, match="got NaN or infinity for 'weight'"):
        Sparsifier(layer, None, METHODS["snip"], sparsity=0.5, calibration=lambda: layer.weight.sum() * float("nan"))


def test_the_masks_hold_the_best_scores_with_exact_counts():
    torch.manual_seed(0)
    layer = nn.Linear(20, 10, bias=False)
    weights = layer.weight.detach().clone()
    sparsifier = Sparsifier(layer, None, from_config({"method": "static", "mask_init": "magnitude"}), sparsity=0.7)
    assert sparsifier.masks["weight"].view(-1).nonzero().squeeze(1).tolist() == sorted(
        weights.abs().flatten().topk(60).indices.tolist()
    )


def test_tensors_without_scores_get_random_masks():
    net = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    inputs = torch.randn(4, 10)
    method = from_config({"method": "snip", "mask_init_scope": "tensor"})
    sparsifier = Sparsifier(net, None, method, sparsity=0.8, calibration=lambda: net[0](inputs).square().sum())
    assert {name: int(mask.sum()) for name, mask in sparsifier.masks.items()} == {"0.weight": 20, "1.weight": 20}
    with pytest.raises(ValueError, match=r"got none for '1.weight'"):
        Sparsifier(net, None, METHODS["snip"], sparsity=0.8, calibration=lambda: net[0](inputs).square().sum())


def test_the_floor_keeps_a_global_mask_init_from_emptying_a_tensor():
    net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    with torch.no_grad():
        net[1].weight.mul_(1e-6)
    method = Method(mask_init=MASK_INITS["magnitude"], mask_init_scope=METHODS["snip"].mask_init_scope, floor=0.05)
    sparsifier = Sparsifier(copy.deepcopy(net), None, method, sparsity=0.9)
    assert {name: int(mask.sum()) for name, mask in sparsifier.masks.items()} == {"0.weight": 60, "1.weight": 20}
    with pytest.raises(
        MethodError,
        match=r"^Every tensor must keep an active weight, got none in '1.weight' at step 0, since its weights are "
        r"ranked against those of other tensors and floor is 0. Set floor = 0.02, .*, or leave it dense.$",
    ):
        Sparsifier(net, None, replace(method, floor=0.0), sparsity=0.9)
