"""Spectra compared with the plain definition and with closed forms."""

import math
import tracemalloc
import zipfile
from copy import deepcopy

import numpy as np
import pytest
import torch
from brute_force import exponents, module_jacobians, scaled, top_layer_first
from scipy.special import polygamma, psi
from torch import nn

from highway import highway, random_highway
from hyperpruning.lyapunov.spectrum import Spectrum, lyapunov_spectrum

CELLS = {
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "no bias": (nn.LSTM, {"bias": False}),
}


def network_and_inputs(name, layers, gain=2.0, steps=14, hidden=6, seed=0):
    torch.manual_seed(seed)
    cell, options = CELLS[name]
    network = scaled(cell(4, hidden, layers, dtype=torch.float64, **options), gain)
    return network, torch.randn(steps, 2, 4, dtype=torch.float64)


def random_start(network, batch=2):
    shape = (network.num_layers, batch, network.hidden_size)
    parts = [torch.randn(shape, dtype=torch.float64) for _ in range(2)]
    return tuple(parts) if isinstance(network, nn.LSTM) else parts[0]


def step_with(jacobians):
    """A driven map with the given Jacobians (T, D, D); the input is the index of the time step."""
    return lambda state, x: (jacobians[x[:, 0].long()] @ state[..., None])[..., 0]


def linear_spectrum(jacobians, warmup=0, **options):
    indices = torch.arange(len(jacobians), dtype=jacobians.dtype)[:, None, None]
    start = torch.ones(1, jacobians.shape[-1], dtype=jacobians.dtype)
    return lyapunov_spectrum(step_with(jacobians), indices, start=start, warmup=warmup, **options)


@pytest.mark.parametrize("state", ["h", "full"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", CELLS)
def test_equals_brute_force(name, layers, state):
    # relu has gain 1: a larger gain makes its states diverge
    network, inputs = network_and_inputs(name, layers, gain=1.0 if name == "relu" else 2.0)
    start = random_start(network)
    jacobians = module_jacobians(network, inputs, start, state)
    if name == "relu":
        jacobians, network, inputs = without_zero_rows(network, inputs, start)
    size = jacobians.shape[-1] // layers
    expected = exponents(jacobians, 4, top_layer_first(layers, size))
    spectrum = lyapunov_spectrum(network, inputs, state=state, start=start, warmup=4)
    np.testing.assert_allclose(spectrum.per_sequence, expected, atol=1e-8, rtol=0)  # float64 on 24 dimensions
    assert spectrum.sizes == (size,) * layers


def without_zero_rows(network, inputs, start):
    """Make weights, biases and inputs positive, so that every relu is active and no exponent is -inf."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    inputs = inputs.abs()
    start.abs_()
    return module_jacobians(network, inputs, start, "h"), network, inputs


def test_a_stack_has_the_spectra_of_its_layers():
    network, inputs = network_and_inputs("lstm", 2)
    lower, upper = nn.LSTM(4, 6, dtype=torch.float64), nn.LSTM(6, 6, dtype=torch.float64)
    with torch.no_grad():
        for layer, single in enumerate((lower, upper)):
            for name, parameter in single.named_parameters():
                parameter.copy_(getattr(network, name.replace("l0", f"l{layer}")))
        hidden = lower(inputs)[0]
    separate = [lyapunov_spectrum(lower, inputs).exponents, lyapunov_spectrum(upper, hidden).exponents]
    torch.testing.assert_close(lyapunov_spectrum(network, inputs).exponents, torch.cat(separate), atol=1e-10, rtol=0)


@pytest.mark.parametrize("state", ["h", "full"])
def test_sum_is_mean_log_determinant(state):
    network, inputs = network_and_inputs("lstm", 2, gain=3.0)
    start = random_start(network)
    jacobians = module_jacobians(network, inputs, start, state)
    expected = np.linalg.slogdet(jacobians)[1].mean(0)
    spectrum = lyapunov_spectrum(network, inputs, state=state, start=start, warmup=0)
    np.testing.assert_allclose(spectrum.per_sequence.sum(-1), expected, atol=1e-9, rtol=0)


def test_linear_map_gives_the_eigenvalues_moduli():
    torch.manual_seed(0)
    matrix = torch.randn(12, 12, dtype=torch.float64) / math.sqrt(12)
    spectrum = linear_spectrum(matrix.expand(1000, 12, 12))
    expected = torch.linalg.eigvals(matrix).abs().log().sort(descending=True).values
    # the error decays like 1 / T, while the initial basis converges to that of the eigenvectors
    torch.testing.assert_close(spectrum.sorted(), expected, atol=2e-2, rtol=0)
    torch.testing.assert_close(spectrum.exponents.sum(), expected.sum(), atol=1e-10, rtol=0)


def test_orthogonal_map_has_zero_exponents():
    torch.manual_seed(0)
    rotations = torch.linalg.qr(torch.randn(40, 9, 9, dtype=torch.float64))[0]
    assert linear_spectrum(rotations).exponents.abs().max() < 1e-14


def test_scalar_map():
    # h* = tanh(2 h*) = 0.9575040241, derivative 2 (1 - h*^2)
    inputs = torch.zeros(60, 1, 1, dtype=torch.float64)
    start = torch.ones(1, 1, dtype=torch.float64)
    spectrum = lyapunov_spectrum(lambda h, x: torch.tanh(2 * h), inputs, start=start, warmup=30)
    assert spectrum.exponents.item() == pytest.approx(-1.7935285065, abs=1e-9)


def test_products_of_gaussian_matrices_follow_newman():
    # Newman 1986: ln g + (ln(2 / N) + psi((N - k + 1) / 2)) / 2, exact at every N
    size, gain, steps = 32, 1.3, 1500
    torch.manual_seed(0)
    jacobians = torch.randn(steps, size, size, dtype=torch.float64) * gain / math.sqrt(size)
    spectrum = linear_spectrum(jacobians, warmup=50)
    position = np.arange(1, size + 1)
    expected = math.log(gain) + (math.log(2 / size) + psi((size - position + 1) / 2)) / 2
    # the last exponent has the standard error sqrt(trigamma(1/2) / (4 T)) = 0.029, the others less than 0.02; the
    # tolerance is four standard errors
    np.testing.assert_allclose(spectrum.exponents, expected, atol=0.12, rtol=0)
    assert spectrum.exponents.sum().item() == pytest.approx(-8.5397, abs=0.2)
    errors = spectrum.exponents.numpy() - expected
    assert np.abs(errors[:16]).max() < 4 * math.sqrt(0.12 / (4 * steps))  # trigamma(8.5) = 0.12


def test_a_large_random_network_follows_the_mean_field():
    # N -> infinity at gain 2: sigma^2 = g^2 <tanh^2>, largest ln g + ln <sech^4> / 2, mean ln g - 1/2 + <ln sech^2>
    size, gain = 400, 2.0
    torch.manual_seed(0)
    network = nn.RNN(1, size, bias=False)
    with torch.no_grad():
        network.weight_hh_l0.normal_(std=gain / math.sqrt(size))
    inputs, start = torch.zeros(180, 1, 1), torch.randn(1, 1, size)
    largest = lyapunov_spectrum(network, inputs, start=start, warmup=60, k=1).exponents.item()
    assert largest == pytest.approx(0.154724, abs=0.03)  # O(1 / sqrt(N)) = 0.05 between networks
    mean = lyapunov_spectrum(network, inputs[:80], start=start, warmup=60).exponents.mean().item()
    assert mean == pytest.approx(-1.149023, abs=0.03)


def test_the_spectrum_is_invariant_under_a_rotation_of_state_and_initial_basis():
    torch.manual_seed(0)
    jacobians = torch.randn(25, 7, 7, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))[0]
    rotated_start = torch.cat([jacobians[:1] @ rotation, jacobians[1:]])  # initial basis `rotation`, not the identity
    rotated = rotation.T @ jacobians @ rotation
    torch.testing.assert_close(
        linear_spectrum(rotated_start).exponents, linear_spectrum(rotated).exponents, atol=1e-13, rtol=0
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_leading_k_are_the_first_of_all(k):
    network, inputs = network_and_inputs("lstm", 2)
    all_of_them, some = lyapunov_spectrum(network, inputs), lyapunov_spectrum(network, inputs, k=k)
    expected = all_of_them.per_sequence.reshape(2, 2, 6)[..., :k].reshape(2, -1)
    torch.testing.assert_close(some.per_sequence, expected, atol=1e-12, rtol=0)
    assert some.sizes == (k, k)


def test_batch_first_module_takes_batch_first_inputs():
    network, inputs = network_and_inputs("gru", 2)
    other = nn.GRU(4, 6, 2, batch_first=True, dtype=torch.float64)
    other.load_state_dict(network.state_dict())
    expected = lyapunov_spectrum(network, inputs).per_sequence
    torch.testing.assert_close(lyapunov_spectrum(other, inputs.transpose(0, 1)).per_sequence, expected)


def test_long_sequence_in_chunks(monkeypatch):
    network, inputs = network_and_inputs("lstm", 2)
    at_once = lyapunov_spectrum(network, inputs)
    monkeypatch.setattr("hyperpruning.lyapunov.blocks.JACOBIAN_BYTES", 1)
    monkeypatch.setattr("hyperpruning.lyapunov.blocks.CHUNK_STEPS", 5)
    monkeypatch.setattr("hyperpruning.lyapunov.blocks.SMALL_BLOCK", 0)
    monkeypatch.setattr("hyperpruning.lyapunov.growth.PANEL", 2)
    torch.testing.assert_close(lyapunov_spectrum(network, inputs).growth, at_once.growth, atol=1e-12, rtol=0)


@pytest.mark.parametrize("segments", [1, 3, 50])
def test_growth_of_every_stretch(segments):
    network, inputs = network_and_inputs("lstm", 1)
    start = random_start(network)
    jacobians = module_jacobians(network, inputs, start, "h")
    spectrum = lyapunov_spectrum(network, inputs, start=start, warmup=4, segments=segments)
    assert spectrum.lengths == {1: (10,), 3: (3, 3, 4), 50: (1,) * 10}[segments]
    for part, end in enumerate(np.cumsum(spectrum.lengths)):  # the plain definition, over the steps up to each end
        expected = exponents(jacobians[: 4 + end], 4)
        np.testing.assert_allclose(spectrum.convergence()[part], expected.mean(0), atol=1e-10, rtol=0)


def test_attributes_and_round_trip_of_a_spectrum(tmp_path):
    network, inputs = network_and_inputs("lstm", 2)
    spectrum = lyapunov_spectrum(network, inputs, warmup=4)
    assert spectrum.steps == 10
    assert spectrum.exponents.shape == (12,)
    assert spectrum.n_minus_inf == 0
    assert spectrum.exponents.dtype == torch.float64
    torch.testing.assert_close(spectrum.convergence()[-1], spectrum.exponents)
    assert bool((spectrum.sorted().diff() <= 0).all())

    spectrum.save(tmp_path / "dense.npz")
    read = Spectrum.load(tmp_path / "dense.npz")
    assert torch.equal(read.growth, spectrum.growth)
    assert (read.sizes, read.warmup, read.state, read.convention) == ((6, 6), 4, "h", "forward")
    assert [path.name for path in tmp_path.iterdir()] == ["dense.npz"]


def test_loading_another_file_raises(tmp_path):
    np.savez(tmp_path / "old.npz", growth=np.zeros((3, 1, 2)), sizes=np.array([2]))
    with pytest.raises(ValueError, match="got no lengths, warmup, state, convention"):
        Spectrum.load(tmp_path / "old.npz")


FIELDS = {
    "growth": np.zeros((2, 1, 3)), "lengths": np.array([4, 5]), "sizes": np.array([1, 2]),
    "warmup": np.int64(0), "state": np.str_("h"), "convention": np.str_("forward"),
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": np.array([4, 5, 6])},
        {"lengths": np.array([4, 0])},
        {"lengths": np.array([4.0, 5.0])},
        {"sizes": np.array([999, 1])},
        {"sizes": np.array([4, -1])},
        {"warmup": np.int64(-1)},
        {"growth": np.zeros((2, 1, 3), dtype=complex)},
        {"growth": np.full((2, 1, 3), np.nan)},
        {"growth": np.zeros((2, 1, 3), dtype=np.float16)},
        {"growth": np.zeros((2, 1, 3), dtype=">f8")},
        {"growth": np.zeros((2, 1, 0)), "sizes": np.array([], dtype=int)},
        {"growth": np.zeros((0, 1, 3)), "lengths": np.array([], dtype=int)},
        {"growth": np.zeros(3)},
        {"state": np.array(["h", "h"])},
        {"state": np.str_("c")},
    ],
)
def test_a_spectrum_file_with_other_values_is_refused(tmp_path, changes):
    np.savez(tmp_path / "s.npz", **FIELDS)
    assert Spectrum.load(tmp_path / "s.npz").lengths == (4, 5)
    np.savez(tmp_path / "s.npz", **FIELDS | changes)
    with pytest.raises(ValueError, match=r"must|Choose one"):
        Spectrum.load(tmp_path / "s.npz")


def npy(header):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000, 3)}\n",  # 24 GB
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 1, 3)}\n",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 1, 3)}\n",
        b"{'descr': '<f8'",
        b"(" * 5000,
        b"",
    ],
)
def test_a_header_is_checked_before_the_array_is_read(tmp_path, header):
    np.savez(tmp_path / "s.npz", **{name: value for name, value in FIELDS.items() if name != "growth"})
    with zipfile.ZipFile(tmp_path / "s.npz", "a") as archive:
        archive.writestr("growth.npy", npy(header))
    with pytest.raises(ValueError, match=r"must be one that Spectrum\.save wrote"):
        Spectrum.load(tmp_path / "s.npz")


@pytest.mark.parametrize("shape", [(1, 1, 2**23), (2**20, 2**20, 2**20)])
def test_a_decompression_bomb_is_refused_before_it_is_read(tmp_path, shape):
    np.savez(tmp_path / "s.npz", **{name: value for name, value in FIELDS.items() if name != "growth"})
    with zipfile.ZipFile(tmp_path / "s.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        archive.writestr("growth.npy", npy(header) + bytes(2**26))
    assert (tmp_path / "s.npz").stat().st_size < 2**17  # 64 MiB in 128 KiB
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"must be one that Spectrum\.save wrote, .* is compressed\)\. Compute"):
            Spectrum.load(tmp_path / "s.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_damaged_or_a_compressed_spectrum_file_is_refused(tmp_path):
    path = tmp_path / "s.npz"
    np.savez_compressed(path, **FIELDS | {"growth": np.zeros((2, 1000, 3))})
    with pytest.raises(ValueError, match="is compressed"):
        Spectrum.load(path)
    np.savez(path, **FIELDS)
    content = path.read_bytes()
    for part in (b"", b"PK", content[:-30], content[: len(content) // 2], content.replace(b"NUMPY", b"NUMPI")):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=r"must be one that Spectrum\.save wrote"):
            Spectrum.load(path)
    with pytest.raises(ValueError, match="must be a file"):
        Spectrum.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        Spectrum.load(tmp_path / "none.npz")


def test_standard_error_is_that_of_independent_steps():
    # Gaussian matrices: Newman's standard error of exponent k is sqrt(trigamma((N - k + 1) / 2) / (4 T))
    size, steps = 6, 4000
    torch.manual_seed(0)
    jacobians = torch.randn(steps + 10, size, size, dtype=torch.float64) / size**0.5
    spectrum = linear_spectrum(jacobians, warmup=10, segments=40)
    expected = np.sqrt(polygamma(1, (size - np.arange(size)) / 2) / (4 * steps))
    # the estimate from 40 segments has a relative error of 1 / sqrt(80) = 0.11; the tolerance is four of these
    np.testing.assert_allclose(spectrum.standard_error(), expected, rtol=0.45)


def test_standard_error_over_sequences_and_of_minus_infinity():
    torch.manual_seed(0)
    network, inputs = nn.RNN(3, 5, nonlinearity="relu"), torch.randn(20, 3, 3)
    spectrum = lyapunov_spectrum(network, inputs, segments=1)
    errors = spectrum.standard_error()
    assert bool((errors[torch.isneginf(spectrum.exponents)] == 0).all())
    alive = torch.isfinite(spectrum.exponents)
    torch.testing.assert_close(errors[alive], spectrum.per_sequence.std(0)[alive] / 3**0.5)
    with pytest.raises(ValueError, match="at least two sequences or segments"):
        lyapunov_spectrum(network, inputs[:, :1], segments=1).standard_error()


@pytest.mark.parametrize("gates", [2, 3])
def test_recurrent_highway_layers(gates):
    torch.manual_seed(0)
    hidden, depth = 5, 3
    layers = [random_highway(width, hidden, depth, gates) for width in (4, hidden)]
    inputs = torch.randn(12, 2, 4, dtype=torch.float64)

    def stack(state, x):  # both layers as one plain step, without hand-written Jacobian and without blocks
        lower, upper = state.chunk(2, -1)
        lower = layers[0].step(lower, x)
        return torch.cat([lower, layers[1].step(upper, lower)], -1)

    spectrum = lyapunov_spectrum(layers, inputs, warmup=3)
    whole = lyapunov_spectrum(stack, inputs, start=torch.zeros(2, 10).double(), warmup=0)
    both = lyapunov_spectrum(layers, inputs, warmup=0)
    torch.testing.assert_close(whole.exponents.sum(), both.exponents.sum(), atol=1e-9, rtol=0)
    lower = lyapunov_spectrum(layers[0].step, inputs, start=torch.zeros(2, 5).double(), warmup=3)
    torch.testing.assert_close(spectrum.exponents[:5], lower.exponents, atol=1e-10, rtol=0)
    assert spectrum.sizes == (5, 5)


def test_layers_are_converted_to_the_requested_dtype():
    torch.manual_seed(0)
    layer = highway(torch.randn(8, 3), torch.randn(2, 8, 4), torch.randn(2, 8))
    inputs = torch.randn(15, 2, 3)
    with torch.no_grad():
        single, double = lyapunov_spectrum([layer], inputs), lyapunov_spectrum([layer], inputs, dtype=torch.float64)
    torch.testing.assert_close(single.exponents, double.exponents, atol=1e-4, rtol=0)
    assert single.exponents.sub(double.exponents).abs().max() > 0


class OwnCell(nn.Module):
    """A custom cell with the state [h, m], of which a layer above would read h."""

    state_size, hidden_size = 6, 3

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(6 + 2, 6)

    def step(self, state, input):
        return torch.tanh(self.mix(torch.cat([state, input], -1)))

    def driven_layers(self):
        return [self]


def test_a_network_with_driven_layers():
    torch.manual_seed(0)
    network, inputs = OwnCell(), torch.randn(20, 2, 2)
    full = lyapunov_spectrum(network, inputs, state="full")  # in a float64 copy of the module
    start = torch.zeros(2, 6, dtype=torch.float64)
    plain = lyapunov_spectrum(OwnCell.step.__get__(deepcopy(network).double()), inputs.double(), start=start)
    torch.testing.assert_close(full.exponents, plain.exponents, atol=1e-12, rtol=0)
    assert lyapunov_spectrum(network, inputs).exponents.shape == (3,)
    assert next(network.parameters()).dtype == torch.float32


@pytest.mark.parametrize("threads", [2])
def test_threads_and_single_sequences_do_not_change_the_result(threads, monkeypatch):
    network, inputs = network_and_inputs("lstm", 2)
    expected = lyapunov_spectrum(network, inputs).growth
    monkeypatch.setattr("hyperpruning.lyapunov.blocks.SMALL_BLOCK", 0)
    torch.set_num_threads(threads)
    torch.testing.assert_close(lyapunov_spectrum(network, inputs).growth, expected, atol=1e-12, rtol=0)
    assert torch.get_num_threads() == threads


def test_full_state_is_computed_in_float64():
    torch.manual_seed(0)
    network, inputs = nn.LSTM(4, 6), torch.randn(14, 2, 4)
    expected = lyapunov_spectrum(network.double(), inputs.double(), state="full").exponents
    found = lyapunov_spectrum(network.float(), inputs, state="full").exponents
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
