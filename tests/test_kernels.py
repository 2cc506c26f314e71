"""Settings and calls of torch's GPU kernels; a CPU ignores the settings, but the tests can read them."""

import warnings
from contextlib import suppress
from operator import attrgetter

import pytest
import torch
from torch import nn

from hyperpruning.kernels import float32_precision, out_of_memory
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.models.dropout import WeightDropLSTM

CELLS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes: nn.RNN(*sizes, nonlinearity="relu"),
}

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def older():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def newer():
    return [attrgetter(name)(torch.backends).fp32_precision for name in ("cuda.matmul", "cudnn.conv", "cudnn.rnn")]


@pytest.mark.parametrize("before", [("highest", True), ("high", True), ("highest", False)])
def test_the_precision_is_set_within_the_block_and_restored_after_it(before):
    with float32_precision(tf32=before[0] == "high"):
        torch.backends.cudnn.allow_tf32 = before[1]
        assert older() == before
        for tf32, within in ((False, ("highest", False)), (True, ("high", True))):
            with suppress(ZeroDivisionError), float32_precision(tf32=tf32):
                assert older() == within
                raise ZeroDivisionError
            assert older() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "rnn"), reason="torch 2.9 introduced the newer settings")
def test_torchs_newer_settings_are_restored():
    """They contradict the older ones, and torch then raises when the older ones are read."""
    with float32_precision():
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        before = newer()
        with pytest.raises(RuntimeError):
            older()
        with float32_precision():
            assert older() == ("highest", False)
            assert newer() == ["ieee"] * 3
        assert newer() == before == ["tf32"] * 3
        assert torch.backends.cudnn.allow_tf32
        with pytest.raises(RuntimeError):
            older()


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_out_of_memory_is_distinguished_from_other_errors(error, full):
    assert out_of_memory(error) == full


@pytest.fixture
def calls(monkeypatch):
    """Make torch's fused loops warn as cuDNN does, and record their arguments and the precision settings."""
    seen = []

    def warning_loop(loop):
        def run(inputs, state, weights, biases, layers, dropout, train, *rest):
            warnings.warn("RNN module weights are not part of single contiguous chunk of memory.", stacklevel=1)
            contiguous = all(part.is_contiguous() for part in (state if isinstance(state, tuple) else (state,)))
            seen.append((train, contiguous, *older()))
            return loop(inputs, state, weights, biases, layers, dropout, train, *rest)

        return run

    for name in CELLS:
        monkeypatch.setattr(torch, name, warning_loop(getattr(torch, name)))
    return seen


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_spectrum_gives_cudnn_the_right_arguments(calls, cell, differentiable):
    """Training mode for derivatives, contiguous states, float32; cuDNN's warning about memory is suppressed."""
    before = older()
    network, width = CELLS[cell](3, 4), 8 if cell == "lstm" else 4
    start = torch.zeros(width, 2).T
    lyapunov_spectrum([network], torch.randn(6, 2, 3), start=[start], warmup=1, differentiable=differentiable)
    assert calls == [(differentiable, True, "highest", False)]
    assert older() == before


def test_weight_drop_gives_no_warning_about_memory(calls):
    WeightDropLSTM(3, 4, weight_drop=0.5)(torch.randn(5, 2, 3))
    assert [train for train, *_ in calls] == [True]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "rnn_relu"])  # whose units die
def test_a_spectrum_and_its_gradient_in_float32_agree_with_float64(cell, device):
    torch.manual_seed(0)
    network, inputs, found = CELLS[cell](3, 4), torch.randn(12, 2, 3), []
    for where in ({"device": device}, {"device": "cpu", "dtype": torch.float64}):
        network.zero_grad()
        network.to(**where)
        exponents = lyapunov_spectrum(network, inputs.to(**where), warmup=2, differentiable=True).exponents
        exponents.sum().backward()
        found.append([value.detach().cpu().double() for value in (exponents, network.weight_hh_l0.grad)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
