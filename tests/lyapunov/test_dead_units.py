"""Dead units of pruned networks: each has one exponent of -inf, and the other exponents do not change."""

import pytest
import torch
from brute_force import scaled
from torch import nn

from hyperpruning.lyapunov.growth import independent_columns, live_units
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum

DEAD = [1, 4, 5]


def make_dead(network, unit, *, rows, layer=0):
    hidden = network.hidden_size
    weight = getattr(network, f"weight_hh_l{layer}")
    with torch.no_grad():
        if rows:
            weight.view(-1, hidden, hidden)[:, unit] = 0
        else:
            weight[:, unit] = 0


def without(network, units):
    """A network of the live units only, with the same inputs; it is equivalent if no unit reads the dead ones."""
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
        make_dead(network, unit, rows=False)
    spectrum = lyapunov_spectrum(network, inputs, dtype=dtype)
    assert torch.isneginf(spectrum.exponents).nonzero().flatten().tolist() == DEAD
    assert spectrum.n_minus_inf == 3
    expected = lyapunov_spectrum(without(network, DEAD), inputs).exponents
    alive = spectrum.exponents[~torch.isneginf(spectrum.exponents)]
    torch.testing.assert_close(alive, expected, atol=1e-10 if dtype == torch.float64 else 1e-4, rtol=0)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.RNN])
def test_units_that_read_nothing(cell):
    torch.manual_seed(0)
    network, inputs = cell(3, 8, 2), torch.randn(30, 2, 3)
    expected = lyapunov_spectrum(network, inputs)
    for unit in DEAD:
        make_dead(network, unit, rows=True, layer=1)
    spectrum = lyapunov_spectrum(network, inputs)
    assert torch.isneginf(spectrum.exponents).nonzero().flatten().tolist() == [8 + unit for unit in DEAD]
    torch.testing.assert_close(spectrum.exponents[:8], expected.exponents[:8])


def test_whole_state_of_units_that_read_nothing():
    # h' is then a function of c' only: one direction is lost, and c decays with its forget gate
    torch.manual_seed(0)
    network, inputs = nn.LSTM(3, 8, dtype=torch.float64), torch.randn(30, 2, 3, dtype=torch.float64)
    for unit in DEAD:
        make_dead(network, unit, rows=True)
    spectrum = lyapunov_spectrum(network, inputs, state="full")
    assert spectrum.n_minus_inf == 3
    assert spectrum.exponents[torch.isfinite(spectrum.exponents)].min() > -8  # nothing near ln eps = -36
    forget = torch.sigmoid(inputs @ network.weight_ih_l0[8:16].T + network.bias_ih_l0[8:16] + network.bias_hh_l0[8:16])
    for unit in DEAD:
        assert (spectrum.exponents - forget[10:, :, unit].log().mean()).abs().min() < 0.15  # not exact at finite time


def test_rank_lost_without_a_dead_unit():
    # units 0 and 1 read only unit 2: their rows are proportional, but not zero
    torch.manual_seed(0)
    network, inputs = nn.RNN(3, 6), torch.randn(30, 2, 3)
    with torch.no_grad():
        network.weight_hh_l0[:2] = 0
        network.weight_hh_l0[:2, 2] = 1
    spectrum = lyapunov_spectrum(network, inputs)
    assert spectrum.n_minus_inf == 1
    assert spectrum.exponents[torch.isfinite(spectrum.exponents)].min() > -8  # nothing near ln eps = -16


def test_dead_units_are_removed_repeatedly():
    # 0 -> 1 -> 2, and 3 reads itself: no unit reads unit 2; after its removal none reads 1, then none reads 0
    support = torch.zeros(4, 4, dtype=torch.bool)
    support[1, 0] = support[2, 1] = support[3, 3] = True
    assert live_units(support).tolist() == [3]


def test_all_units_of_a_layer_without_recurrence_are_dead():
    network = nn.LSTM(3, 5, 2)
    with torch.no_grad():
        network.weight_hh_l0.zero_()
    spectrum = lyapunov_spectrum(network, torch.randn(20, 2, 3))
    assert spectrum.n_minus_inf == 5
    assert bool(torch.isfinite(spectrum.exponents[5:]).all())


def test_leading_k_of_a_layer_with_dead_units():
    torch.manual_seed(0)
    network, inputs = nn.RNN(3, 6), torch.randn(20, 2, 3)
    for unit in range(4):
        make_dead(network, unit, rows=False)
    spectrum = lyapunov_spectrum(network, inputs, k=3)
    assert torch.isneginf(spectrum.exponents).tolist() == [False, False, True]


def test_a_gru_has_no_dead_units():
    torch.manual_seed(0)
    network = nn.GRU(3, 5)
    for unit in DEAD[:2]:
        make_dead(network, unit, rows=False)
        make_dead(network, unit, rows=True)
    assert lyapunov_spectrum(network, torch.randn(20, 2, 3)).n_minus_inf == 0


def test_relu_units_that_are_off_give_minus_infinity_and_no_nan():
    torch.manual_seed(0)
    network, inputs = nn.RNN(3, 6, nonlinearity="relu"), torch.randn(20, 2, 3)
    spectrum = lyapunov_spectrum(network, inputs)
    assert spectrum.n_minus_inf > 0
    assert not bool(spectrum.exponents.isnan().any())


def test_dead_units_of_a_plain_step():
    torch.manual_seed(0)
    cell, inputs = nn.RNNCell(3, 8, dtype=torch.float64), torch.randn(30, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_hh[:, DEAD] = 0
        alive = [unit for unit in range(8) if unit not in DEAD]
        small = nn.RNNCell(3, 5, dtype=torch.float64)
        for name, parameter in small.named_parameters():
            whole = getattr(cell, name)[alive]
            parameter.copy_(whole[:, alive] if name == "weight_hh" else whole)
    spectra = [
        lyapunov_spectrum(lambda h, x, c=c: c(x, h), inputs, start=torch.zeros(2, c.hidden_size).double())
        for c in (cell, small)
    ]
    assert torch.isneginf(spectra[0].exponents).nonzero().flatten().tolist() == DEAD
    torch.testing.assert_close(spectra[0].exponents[alive], spectra[1].exponents, atol=1e-10, rtol=0)


def test_a_unit_that_becomes_live_late_is_live():
    # no unit reads unit 2 until the input changes
    torch.manual_seed(0)
    weights = torch.randn(3, 3, dtype=torch.float64)
    weights_before = weights.clone()
    weights_before[:, 2] = 0
    inputs = torch.zeros(70, 1, 1, dtype=torch.float64)
    inputs[66:] = 1
    start = torch.zeros(1, 3, dtype=torch.float64)

    def step(state, x):
        return torch.tanh(torch.where(x > 0, state @ weights.T, state @ weights_before.T))

    late = lyapunov_spectrum(step, inputs[60:], start=start, warmup=6)
    assert late.n_minus_inf == 0
    assert lyapunov_spectrum(step, inputs[:66], start=start).n_minus_inf == 1
    assert lyapunov_spectrum(step, inputs, start=start, warmup=66).n_minus_inf == 0


def test_the_position_of_minus_infinity_is_that_of_the_dependent_column():
    # units 0 and 1 read only unit 2, so that columns 0 to 4 are independent and column 5 is not
    torch.manual_seed(0)
    network, inputs = nn.RNN(3, 6, dtype=torch.float64), torch.randn(30, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        network.weight_hh_l0[:2] = 0
        network.weight_hh_l0[:2, 2] = 1
        network.weight_hh_l0[:, 3] = 2 * network.weight_hh_l0[:, 1]  # but column 3 is twice column 1
    ranks = [int(torch.linalg.matrix_rank(network.weight_hh_l0[:, : count + 1])) for count in range(6)]
    lost = [unit for unit, (one, two) in enumerate(zip([0, *ranks], ranks, strict=False)) if one == two]
    assert 3 in lost
    exponents = lyapunov_spectrum(network, inputs).exponents
    assert torch.isneginf(exponents).nonzero().flatten().tolist() == lost
    assert exponents[torch.isfinite(exponents)].min() > -8


def test_rank_that_only_a_product_of_jacobians_loses():
    # {0, 1} -> 2 -> {3, 4} -> {0, 1}: no unit is dead, but every product has rank one, through unit 2
    torch.manual_seed(0)
    weights = torch.zeros(5, 5, dtype=torch.float64)
    weights[2, :2], weights[3:, 2], weights[:2, 3:] = torch.randn(2), torch.randn(2), torch.randn(2, 2)
    assert torch.linalg.matrix_rank(weights @ weights) < torch.linalg.matrix_rank(weights)
    found = independent_columns(weights)
    product = torch.linalg.matrix_power(weights, 5)
    assert len(found) == torch.linalg.matrix_rank(product)
    assert torch.linalg.matrix_rank(product[:, found]) == len(found)
