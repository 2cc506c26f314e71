"""Steps whose Jacobian has incomplete rank: an exponent that would be a rounding error is -inf, in every precision."""

import warnings

import pytest
import torch
from torch import nn

import hyperpruning as hp
from hyperpruning.lyapunov.distances import DISTANCES

H, INPUTS = 3, 2
# The sLSTM below, from the definition with 120 digits: 20 steps after 5, mean of both sequences. A common scale of c, n
# and e^-m does not change the output, so that one direction of each unit is lost: its last entry of these three.
LOST = [-torch.inf] * H
EXACT = {
    "hcnm": [-0.282871, -0.340219, -0.687901, -0.772911, -0.8963, -1.122754, -2.239261, -3.44943, -4.508262, *LOST],
    "cnmh": [-0.277693, -0.341015, -0.663991, -0.770488, -0.920551, -1.101191, *LOST, -2.225474, -3.492344, -4.507162],
}


def slstm(dtype, order="hcnm"):
    """Return the step of an sLSTM (Beck et al. 2024), a state of four parts in this order, and its start."""
    numbers = torch.arange(1, 4 * H * (H + INPUTS) + 1, dtype=torch.float64)
    weights = torch.sin(2.3 * numbers**1.5).reshape(4 * H, H + INPUTS).to(dtype)

    def step(state, x):
        part = dict(zip(order, state, strict=True))
        i, f, z, o = (torch.cat([part["h"], x], -1) @ weights.T).chunk(4, -1)
        f = nn.functional.logsigmoid(f) + part["m"]
        m = torch.maximum(f, i)
        new, kept = torch.exp(i - m), torch.exp(f - m)
        c, n = kept * part["c"] + new * torch.tanh(z), kept * part["n"] + new
        following = {"h": torch.sigmoid(o) * c / n, "c": c, "n": n, "m": m}
        return tuple(following[name] for name in order)

    return step, tuple(torch.full((2, H), float(name == "n"), dtype=dtype) for name in order)


def slstm_spectrum(network_dtype, order="hcnm", **options):
    inputs = (
        torch.cos(torch.arange(25 * 2 * INPUTS, dtype=torch.float64) ** 1.3).reshape(25, 2, INPUTS).to(network_dtype)
    )
    step, start = slstm(network_dtype, order)
    return hp.lyapunov_spectrum(step, inputs, start=start, warmup=5, **options)


@pytest.mark.parametrize("order", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_slstm_has_the_exact_exponents(order, dtype):
    spectrum = slstm_spectrum(dtype, order)
    exact = torch.tensor(EXACT[order], dtype=torch.float64)
    assert torch.equal(torch.isneginf(spectrum.exponents), torch.isneginf(exact))
    assert spectrum.n_minus_inf == H
    # one step shrinks the last directions to 1e-5 of the others, of which float64 leaves some digits
    torch.testing.assert_close(spectrum.exponents, exact, atol=1e-3, rtol=0)
    torch.testing.assert_close(spectrum.exponents[:6], exact[:6], atol=1e-6, rtol=0)


def test_the_same_slstm_in_float32_and_float64_has_a_distance_near_zero():
    one, two = slstm_spectrum(torch.float32), slstm_spectrum(torch.float64)
    for kind in DISTANCES:
        assert hp.spectrum_distance(one, two, kind=kind) < 1e-3


def test_a_computation_in_float32_finds_the_same_lost_directions():
    single, double = slstm_spectrum(torch.float32, dtype=torch.float32), slstm_spectrum(torch.float32)
    assert torch.equal(torch.isneginf(single.exponents), torch.isneginf(double.exponents))
    assert hp.spectrum_distance(single, double) < 0.5  # of the directions that float32 cannot represent


def test_a_recorded_computation_finds_them_too():
    spectrum = slstm_spectrum(torch.float64, "cnmh", differentiable=True)
    expected = slstm_spectrum(torch.float64, "cnmh")
    torch.testing.assert_close(spectrum.exponents, expected.exponents, atol=1e-3, rtol=0)


def test_leading_exponents_of_an_slstm():
    exact = torch.tensor(EXACT["cnmh"][:8], dtype=torch.float64)
    torch.testing.assert_close(slstm_spectrum(torch.float64, "cnmh", k=8).exponents, exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_entry_that_is_a_function_of_the_others(dtype):
    # (a, b) with b = tanh(2 a): the exponents of a alone, and -inf for b
    torch.manual_seed(0)
    matrix, inputs = torch.randn(4, 4).to(dtype), torch.randn(40, 2, 4).to(dtype)

    def alone(a, x):
        return torch.tanh(a @ matrix.T + x)

    def step(state, x):
        a = alone(state[0] + 0.1 * state[1] - 0.1 * torch.tanh(2 * state[0]), x)
        return a, torch.tanh(2 * a)

    start = torch.zeros(2, 4).to(dtype)
    found = hp.lyapunov_spectrum(step, inputs, start=(start, start), warmup=0)
    expected = hp.lyapunov_spectrum(alone, inputs, start=start, warmup=0)
    assert torch.isneginf(found.exponents).tolist() == [False] * 4 + [True] * 4
    # equal but for the angle between a and (a, b), which is bounded: at most ln sqrt(5) / 40 for each of 4 directions
    assert (found.exponents[:4].sum() - expected.exponents.sum()).abs() < 4 * 0.805 / 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_lstm_with_dead_units_as_a_plain_step(dtype):
    torch.manual_seed(0)
    network, inputs = nn.LSTM(3, 8), torch.randn(40, 2, 3)
    with torch.no_grad():
        network.weight_hh_l0.view(-1, 8, 8)[:, [1, 4]] = 0  # read no unit
        network.weight_hh_l0[:, 5] = 0  # is not read
    cell = nn.LSTMCell(3, 8)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in network.state_dict().items()})
    start = (torch.zeros(2, 8).to(dtype),) * 2
    cell = cell.to(dtype)
    found = hp.lyapunov_spectrum(lambda s, x: cell(x, s), inputs.to(dtype), start=start)
    expected = hp.lyapunov_spectrum(network, inputs, state="full")  # by its hand-written Jacobian
    assert found.n_minus_inf == expected.n_minus_inf == 3
    torch.testing.assert_close(found.exponents, expected.exponents, atol=1e-4, rtol=0)


def test_a_scripted_step_names_the_dtype_that_it_needs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        step = torch.jit.trace(nn.Linear(3, 3), torch.zeros(2, 3))
    inputs, start = torch.randn(20, 2, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"^A step must compute in torch\.float64, .* Pass dtype=torch\.float32\.$"):
        hp.lyapunov_spectrum(lambda s, x: step(s) + x, inputs, start=start)
    assert hp.lyapunov_spectrum(lambda s, x: step(s) + x, inputs, start=start, dtype=torch.float32).n_minus_inf == 0
