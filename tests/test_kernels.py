"""What torch's kernels for GPUs are told: a CPU does not obey, but shows it."""

import warnings
from contextlib import suppress
from operator import attrgetter

import pytest
import torch
from torch import nn

from hyperpruning.kernels import float32_products, out_of_memory
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
def test_products_are_in_float32_or_tf32_within_the_block_alone(before):
    with float32_products(tf32=before[0] == "high"):
        torch.backends.cudnn.allow_tf32 = before[1]
        assert older() == before
        for tf32, within in ((False, ("highest", False)), (True, ("high", True))):
            with suppress(ZeroDivisionError), float32_products(tf32=tf32):
                assert older() == within
                raise ZeroDivisionError
            assert older() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "rnn"), reason="torch's newer settings are of 2.9")
def test_who_uses_torchs_newer_settings_keeps_them():
    """They contradict the older ones, which torch then refuses to tell."""
    with float32_products():
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        before = newer()
        with pytest.raises(RuntimeError):
            older()
        with float32_products():
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
def test_a_full_memory_is_told_from_other_faults(error, full):
    assert out_of_memory(error) == full


@pytest.fixture
def told(monkeypatch):
    """Have torch's fused loops complain as cuDNN does, and note what they are told."""
    seen = []

    def complaining(loop):
        def run(inputs, state, weights, biases, layers, dropout, train, *rest):
            warnings.warn("RNN module weights are not part of single contiguous chunk of memory.", stacklevel=1)
            contiguous = all(part.is_contiguous() for part in (state if isinstance(state, tuple) else (state,)))
            seen.append((train, contiguous, *older()))
            return loop(inputs, state, weights, biases, layers, dropout, train, *rest)

        return run

    for name in CELLS:
        monkeypatch.setattr(torch, name, complaining(getattr(torch, name)))
    return seen


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_spectrum_tells_cudnn_what_it_needs(told, cell, differentiable):
    """Training mode to be differentiated, contiguous states, float32; and its advice on memory is not passed on."""
    before = older()
    network, width = CELLS[cell](3, 4), 8 if cell == "lstm" else 4
    start = torch.zeros(width, 2).T
    lyapunov_spectrum([network], torch.randn(6, 2, 3), start=[start], warmup=1, differentiable=differentiable)
    assert told == [(differentiable, True, "highest", False)]
    assert older() == before


def test_dropped_weights_need_no_advice_on_memory(told):
    WeightDropLSTM(3, 4, weight_drop=0.5)(torch.randn(5, 2, 3))
    assert [train for train, *_ in told] == [True]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "rnn_relu"])  # whose units die
def test_a_spectrum_and_its_gradient_in_float32_are_those_of_float64(cell, device):
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
