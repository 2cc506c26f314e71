"""Weight initialisations: factors on the initial weights that the first mask leaves."""

import pytest
import torch
from torch import nn

from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config, to_config
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.sparsity.weight_inits import fan_in


def lstm():
    torch.manual_seed(0)
    return nn.LSTM(40, 64, dtype=torch.float64)


@pytest.mark.parametrize("model", [lstm(), nn.Conv1d(30, 20, 5)], ids=["lstm", "conv"])
def test_each_row_is_scaled_by_what_its_unit_has_lost(model):
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    sparsifier = Sparsifier(model, None, Method(weight_init=fan_in), sparsity=0.8, total_steps=10)
    for name, weight in model.named_parameters():
        if name not in sparsifier.masks:
            assert torch.equal(weight, before[name])
            continue
        for row, mask, start in zip(weight, sparsifier.masks[name], before[name], strict=True):
            factor = (mask.numel() / max(1, int(mask.sum()))) ** 0.5
            torch.testing.assert_close(row, start * mask * factor)


def test_outputs_vary_as_in_the_dense_network():
    torch.manual_seed(0)
    inputs = torch.randn(500, 256)
    found = {}
    for init in (None, fan_in):
        torch.manual_seed(1)
        model = nn.Linear(256, 256, bias=False)
        dense = model(inputs).detach().var()
        Sparsifier(model, None, Method(weight_init=init), sparsity=0.9, total_steps=10)
        found[init] = float(model(inputs).detach().var() / dense)
    assert found[None] == pytest.approx(0.1, rel=0.1)
    assert found[fan_in] == pytest.approx(1, rel=0.1)


def test_a_state_is_continued_without_scaling_again():
    model = lstm()
    method = Method(weight_init=fan_in)
    first = Sparsifier(model, None, method, sparsity=0.8, total_steps=10)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    Sparsifier(model, None, method, sparsity=0.8, total_steps=10, state=first.state_dict())
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_it_is_rewound_to_the_scaled_weights():
    method = from_config({"method": "imp", "weight_init": "fan_in", "density_start": 0.5})
    model = lstm()
    Sparsifier(model, None, method, sparsity=0.8, total_steps=10000)
    scaled = model.weight_hh_l0.detach().abs().max()
    assert scaled > lstm().weight_hh_l0.abs().max()


def test_a_config_leaves_it_out_where_weights_are_unchanged():
    assert "weight_init" not in to_config(Method())
    assert to_config(Method(weight_init=fan_in))["weight_init"] == "fan_in"
    assert from_config({"weight_init": "unchanged"}) == Method()


def test_a_network_that_starts_dense_must_not_be_scaled_while_it_shrinks():
    with pytest.raises(
        ValueError, match="weight_init must be 'unchanged' when soft_shrinkage is above 0, got 'fan_in'"
    ):
        from_config({"method": "iss-p", "weight_init": "fan_in"})
