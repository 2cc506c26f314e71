"""Distances of equal spectra, of spectra with -inf, and of spectra that cannot be compared."""

import math

import pytest
import torch
from torch import nn

from hyperpruning.lyapunov.distances import DISTANCES, FLOOR, leading, spectrum_distance
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum

INF = math.inf
PAIRS = [
    ([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.5]),
    ([-1.0, -INF, -3.0], [-1.0, -2.0, -INF]),
    ([-INF, -INF, -INF], [-1.0, 0.0, 0.5]),
    ([0.0, 0.0, -INF], [0.0, -0.0, -INF]),
    ([-1.0, -400.0, -2.0], [-INF, -40.0, 1.0]),
]


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_distance_is_finite_symmetric_and_zero_on_itself(kind, a, b):
    forward, backward = spectrum_distance(a, b, kind=kind), spectrum_distance(b, a, kind=kind)
    assert math.isfinite(forward)
    assert forward >= 0
    assert forward == backward
    assert spectrum_distance(a, a, kind=kind) == 0


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize(("a", "b"), [*PAIRS, ([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0])])
def test_every_gradient_is_finite(kind, a, b):
    a = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    spectrum_distance(a, b, kind=kind).backward()
    assert bool(torch.isfinite(a.grad).all())


@pytest.mark.parametrize("kind", DISTANCES)
def test_dead_units_give_a_larger_distance_than_smaller_exponents(kind):
    dense = [-1.0, -2.0, -3.0]
    smaller = spectrum_distance(dense, [-1.5, -2.5, -3.5], kind=kind)
    dead = spectrum_distance(dense, [-INF, -INF, -INF], kind=kind)
    assert smaller < dead


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("l2", math.hypot(1, 2, FLOOR + 3)),
        ("l1", 1 + 2 - 3 - FLOOR),
        ("relative", (1 / 3 + 2 / 6 + 1) / 3),
        ("leading", 0.0),
        ("exp", math.hypot(math.e**-1 - math.e**-2, math.e**-2 - math.e**-4, math.e**-3)),
        ("wasserstein", (1 + 2 - 3 - FLOOR) / 3),
        ("clipped", math.hypot(1, 2, 2)),
    ],
)
def test_values(kind, expected):
    a, b = [-1.0, -2.0, -3.0], [-2.0, -4.0, -INF]
    if kind == "leading":
        a = [-2.0, -7.0, -3.0]
    assert float(spectrum_distance(a, b, kind=kind)) == pytest.approx(expected, abs=1e-12)


def test_only_rank_distances_ignore_the_order():
    a, b = [-1.0, -2.0, -3.0, -4.0], [-4.0, -3.0, -2.0, -1.0]
    order_free = {kind for kind in DISTANCES if spectrum_distance(a, b, kind=kind) == 0}
    assert order_free == {"leading", "wasserstein"}


def test_takes_spectra():
    torch.manual_seed(0)
    network, inputs = nn.LSTM(3, 5), torch.randn(20, 2, 3)
    a, b = lyapunov_spectrum(network, inputs), lyapunov_spectrum(network, inputs * 2)
    expected = torch.linalg.vector_norm(a.exponents - b.exponents)
    assert spectrum_distance(a, b) == expected
    assert spectrum_distance(a, b.exponents.numpy()) == expected


def test_spectra_that_cannot_be_compared_raise():
    torch.manual_seed(0)
    network, inputs = nn.LSTM(3, 5), torch.randn(20, 2, 3)
    h, full, three = (lyapunov_spectrum(network, inputs, **o) for o in ({}, {"state": "full"}, {"k": 3}))
    with pytest.raises(ValueError, match="same state, got h and full"):
        spectrum_distance(h, full)
    with pytest.raises(ValueError, match="same sizes"):
        spectrum_distance(h, three)
    with pytest.raises(ValueError, match="same number of exponents, got 2 and 3"):
        spectrum_distance([-1.0, -2.0], [-1.0, -2.0, -3.0])
    with pytest.raises(ValueError, match="one of l2, l1"):
        spectrum_distance(h, h, kind="l3")
    with pytest.raises(ValueError, match=r"\+inf"):
        spectrum_distance([math.nan], [-1.0])
    with pytest.raises(ValueError, match="must have the shape"):
        spectrum_distance([[-1.0]], [[-1.0]])
    with pytest.raises(ValueError, match="k must be between 1 and the 2"):
        leading(torch.zeros(2), torch.zeros(2), k=3)
