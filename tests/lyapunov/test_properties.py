"""Properties of the spectrum for any network, sequence and option (hypothesis)."""

import math

import torch
from brute_force import scaled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hyperpruning.lyapunov.distances import DISTANCES, spectrum_distance
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum

CELLS = [nn.LSTM, nn.GRU, nn.RNN]


@st.composite
def cases(draw):
    torch.manual_seed(draw(st.integers(0, 2**16)))
    hidden, layers, batch = draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    network = scaled(draw(st.sampled_from(CELLS))(2, hidden, layers, dtype=dtype), draw(st.floats(0.1, 8.0)))
    with torch.no_grad():  # pruned at random, possibly completely
        for name, parameter in network.named_parameters():
            if "weight" in name:
                parameter.mul_(torch.rand_like(parameter) < draw(st.sampled_from([1.0, 0.5, 0.2, 0.0])))
    warmup = draw(st.integers(0, 4))
    inputs = torch.randn(warmup + draw(st.integers(1, 12)), batch, 2, dtype=dtype)
    return network, inputs, warmup


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases(), st.data())
def test_shapes_finiteness_and_leading_k(case, data):
    network, inputs, warmup = case
    state = data.draw(st.sampled_from(["h", "full"]))
    spectrum = lyapunov_spectrum(network, inputs, state=state, warmup=warmup)
    size = network.hidden_size * (2 if state == "full" and isinstance(network, nn.LSTM) else 1)
    steps, batch, _ = inputs.shape
    assert spectrum.growth.shape == (min(4, steps - warmup), batch, network.num_layers * size)
    assert spectrum.steps == steps - warmup
    assert spectrum.growth.dtype == torch.float64
    assert bool((spectrum.growth < math.inf).all())  # finite or -inf, never NaN
    k = data.draw(st.integers(1, size))
    leading = lyapunov_spectrum(network, inputs, state=state, warmup=warmup, k=k)
    assert leading.exponents.shape == (network.num_layers * k,)
    assert not bool(leading.exponents.isnan().any())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(cases())
def test_both_conventions_share_the_determinant(case):
    # the sum of the exponents is the mean of ln |det J| = ln |det J^T|; cases where rounding dominates are skipped
    network, inputs, _ = case
    network, inputs = network.double(), inputs.double()
    spectrum = lyapunov_spectrum(network, inputs, warmup=0)
    again = lyapunov_spectrum(network, inputs, warmup=0, convention="published")
    if not spectrum.n_minus_inf and spectrum.exponents.min() > -20:
        torch.testing.assert_close(again.exponents.sum(), spectrum.exponents.sum(), atol=1e-6, rtol=1e-6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(*[st.floats(-60, 5) | st.just(-math.inf)] * 3), min_size=1, max_size=12),
    st.sampled_from(list(DISTANCES)),
)
def test_every_distance_is_a_distance(rows, kind):
    a, b, c = (list(column) for column in zip(*rows, strict=True))
    ab, ba, bc, ac = (spectrum_distance(*pair, kind=kind).item() for pair in ((a, b), (b, a), (b, c), (a, c)))
    assert math.isfinite(ab)
    assert ab >= 0
    assert ab == ba
    assert ac <= ab + bc + 1e-9 * (1 + abs(ac))
    assert spectrum_distance(a, a, kind=kind) == 0
