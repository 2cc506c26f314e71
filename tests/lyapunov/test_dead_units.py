"""Pruning leaves units that nothing reads or that read nothing: one exponent of -inf each, nobody else disturbed."""

import pytest
import torch
from brute_force import scaled
from torch import nn

from hyperpruning.lyapunov.growth import living
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum

DEAD = [1, 4, 5]


def kill(network, unit, *, rows, layer=0):
    hidden = network.hidden_size
    weight = getattr(network, f"weight_hh_l{layer}")
    with torch.no_grad():
        if rows:
            weight.view(-1, hidden, hidden)[:, unit] = 0
        else:
            weight[:, unit] = 0


def without(network, units):
    """A network of the living units alone, driven the same: only right if the dead ones are not read."""
    hidden = network.hidden_size
    alive = torch.tensor([unit for unit in range(hidden) if unit not in units])
    small = type(network)(network.input_size, len(alive), dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            whole = getattr(network, name).unflatten(0, (-1, hidden))[:, alive]
            parameter.copy_((whole[..., alive] if "hh" in name and "weight" in name else whole).flatten(0, 1))
    return small


@pytest.mark.parametrize("cell", [nn.LSTM, nn.RNN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unread_units(cell, dtype):
    torch.manual_seed(0)
    network, inputs = scaled(cell(3, 8, dtype=torch.float64), 3.0), torch.randn(30, 2, 3, dtype=torch.float64)
    for unit in DEAD:
        kill(network, unit, rows=False)
    spectrum = lyapunov_spectrum(network, inputs, dtype=dtype)
    assert torch.isneginf(spectrum.exponents).nonzero().flatten().tolist() == DEAD
    assert spectrum.infinite == 3
    expected = lyapunov_spectrum(without(network, DEAD), inputs).exponents
    alive = spectrum.exponents[~torch.isneginf(spectrum.exponents)]
    torch.testing.assert_close(alive, expected, atol=1e-10 if dtype == torch.float64 else 1e-4, rtol=0)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.RNN])
def test_units_that_read_nothing(cell):
    torch.manual_seed(0)
    network, inputs = cell(3, 8, 2), torch.randn(30, 2, 3)
    expected = lyapunov_spectrum(network, inputs)
    for unit in DEAD:
        kill(network, unit, rows=True, layer=1)
    spectrum = lyapunov_spectrum(network, inputs)
    assert torch.isneginf(spectrum.exponents).nonzero().flatten().tolist() == [8 + unit for unit in DEAD]
    torch.testing.assert_close(spectrum.exponents[:8], expected.exponents[:8])


def test_whole_state_of_units_that_read_nothing():
    # h' is then a function of c' alone: one direction is lost, and c lives on with its forget gate
    torch.manual_seed(0)
    network, inputs = nn.LSTM(3, 8, dtype=torch.float64), torch.randn(30, 2, 3, dtype=torch.float64)
    for unit in DEAD:
        kill(network, unit, rows=True)
    spectrum = lyapunov_spectrum(network, inputs, state="full")
    assert spectrum.infinite == 3
    assert spectrum.exponents[torch.isfinite(spectrum.exponents)].min() > -8  # nothing near ln eps = -36
    forget = torch.sigmoid(inputs @ network.weight_ih_l0[8:16].T + network.bias_ih_l0[8:16] + network.bias_hh_l0[8:16])
    for unit in DEAD:
        assert (spectrum.exponents - forget[10:, :, unit].log().mean()).abs().min() < 0.15  # finite-time: not exact


def test_rank_lost_without_a_dead_unit():
    # units 0 and 1 read unit 2 alone: proportional rows, though none is zero
    torch.manual_seed(0)
    network, inputs = nn.RNN(3, 6), torch.randn(30, 2, 3)
    with torch.no_grad():
        network.weight_hh_l0[:2] = 0
        network.weight_hh_l0[:2, 2] = 1
    spectrum = lyapunov_spectrum(network, inputs)
    assert spectrum.infinite == 1
    assert spectrum.exponents[torch.isfinite(spectrum.exponents)].min() > -8  # nothing near ln eps = -16


def test_death_spreads_along_a_chain():
    # 0 -> 1 -> 2, and 3 reads itself: unit 2 is read by nobody, then 1 neither, then 0 neither
    support = torch.zeros(4, 4, dtype=torch.bool)
    support[1, 0] = support[2, 1] = support[3, 3] = True
    assert living(support).tolist() == [3]


def test_a_layer_without_recurrence_is_all_dead():
    network = nn.LSTM(3, 5, 2)
    with torch.no_grad():
        network.weight_hh_l0.zero_()
    spectrum = lyapunov_spectrum(network, torch.randn(20, 2, 3))
    assert spectrum.infinite == 5
    assert bool(torch.isfinite(spectrum.exponents[5:]).all())


def test_leading_k_of_a_layer_with_dead_units():
    torch.manual_seed(0)
    network, inputs = nn.RNN(3, 6), torch.randn(20, 2, 3)
    for unit in range(4):
        kill(network, unit, rows=False)
    spectrum = lyapunov_spectrum(network, inputs, k=3)
    assert torch.isneginf(spectrum.exponents).tolist() == [False, False, True]


def test_a_gru_carries_its_units():
    torch.manual_seed(0)
    network = nn.GRU(3, 5)
    for unit in DEAD[:2]:
        kill(network, unit, rows=False)
        kill(network, unit, rows=True)
    assert lyapunov_spectrum(network, torch.randn(20, 2, 3)).infinite == 0


def test_relu_units_that_are_off_give_minus_infinity_and_no_nan():
    torch.manual_seed(0)
    network, inputs = nn.RNN(3, 6, nonlinearity="relu"), torch.randn(20, 2, 3)
    spectrum = lyapunov_spectrum(network, inputs)
    assert spectrum.infinite > 0
    assert not bool(spectrum.exponents.isnan().any())
