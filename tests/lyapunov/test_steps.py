"""Plain steps: states of several tensors and of matrices, their starts, and the dtype of the computation."""

import numpy as np
import pytest
import torch
from brute_force import exponents
from torch import nn

import hyperpruning as hp

X = torch.zeros(20, 2, 3)


def jacobians_of(step, start, inputs):
    """The Jacobians (T, B, D, D) of a step of vectors, each sequence by itself, in reverse mode."""
    result, state = [], start
    for x in inputs:
        rows = [
            torch.func.jacrev(lambda s, x=x, b=b: step(s[None], x[b : b + 1])[0])(state[b]) for b in range(len(state))
        ]
        result.append(torch.stack(rows).detach().numpy())
        state = step(state, x).detach()
    return np.array(result)


def close(spectrum, step, start, inputs, warmup=5):
    expected = exponents(jacobians_of(step, start, inputs), warmup)
    np.testing.assert_allclose(spectrum.per_sequence, expected, atol=1e-9, rtol=0)


def test_a_state_of_two_tensors():
    torch.manual_seed(0)
    cell, inputs = nn.LSTMCell(3, 4, dtype=torch.float64), torch.randn(25, 2, 3, dtype=torch.float64)
    h, c = torch.randn(2, 2, 4, dtype=torch.float64)
    spectrum = hp.lyapunov_spectrum(lambda state, x: cell(x, state), inputs, start=(h, c), warmup=5)
    assert spectrum.sizes == (8,)
    close(spectrum, lambda v, x: torch.cat(cell(x, v.chunk(2, -1)), -1), torch.cat([h, c], -1), inputs)


def test_a_matrix_memory_with_its_normaliser():
    # mLSTM (Beck et al. 2024): C' = f C + i v k^T, n' = f n + i k, read by h = C q / |n q|, which drives the gates
    torch.manual_seed(0)
    size, wide = 3, 0.5 * torch.randn(3, 4, dtype=torch.float64)
    inputs = torch.randn(25, 2, 4, dtype=torch.float64)

    def step(state, x):
        (memory, normaliser), hidden = state["memory"], state["h"]
        u = torch.tanh(x @ wide.T + hidden)
        forget, new = torch.sigmoid(u.sum(-1) + 2), torch.exp(-u[:, 0])
        memory = forget[:, None, None] * memory + new[:, None, None] * u[:, :, None] * u[:, None] ** 2
        normaliser = forget[:, None] * normaliser + new[:, None] * u**2
        return {"memory": (memory, normaliser), "h": (memory @ u[..., None])[..., 0] / (1 + normaliser.abs())}

    start = {
        "memory": (torch.randn(2, 3, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)),
        "h": torch.randn(2, 3, dtype=torch.float64),
    }

    def vector_step(v, x):
        state = {"memory": (v[:, :9].reshape(-1, size, size), v[:, 9:12]), "h": v[:, 12:]}
        following = step(state, x)
        return torch.cat([*(part.flatten(1) for part in following["memory"]), following["h"]], -1)

    vector = torch.cat([start["memory"][0].flatten(1), start["memory"][1], start["h"]], -1)
    spectrum = hp.lyapunov_spectrum(hp.DrivenStep(step, start), inputs, warmup=5)
    assert spectrum.sizes == (15,)
    close(spectrum, vector_step, vector, inputs)


def test_a_matrix_state():
    torch.manual_seed(0)
    inputs, left = torch.randn(25, 2, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    start = torch.randn(2, 3, 3, dtype=torch.float64)

    def step(state, x):
        return torch.tanh(left @ state + x[:, :, None] * x[:, None])

    spectrum = hp.lyapunov_spectrum(step, inputs, start=start, warmup=5)
    assert spectrum.sizes == (9,)
    close(spectrum, lambda v, x: step(v.reshape(-1, 3, 3), x).flatten(1), start.flatten(1), inputs)


def test_one_number_for_each_sequence():
    # h* = tanh(2 h*) = 0.9575040241, derivative 2 (1 - h*^2)
    inputs = torch.zeros(60, 2, 1, dtype=torch.float64)
    spectrum = hp.lyapunov_spectrum(lambda h, x: torch.tanh(2 * h), inputs, start=torch.ones(2).double(), warmup=30)
    assert spectrum.exponents.tolist() == pytest.approx([-1.7935285065], abs=1e-9)


def test_a_start_may_be_a_function_of_the_batch_size():
    torch.manual_seed(0)
    cell, inputs = nn.GRUCell(3, 5, dtype=torch.float64), torch.randn(20, 2, 3, dtype=torch.float64)
    made = hp.DrivenStep(lambda h, x: cell(x, h), lambda batch: torch.ones(batch, 5))  # float32, like torch's default
    expected = hp.lyapunov_spectrum(lambda h, x: cell(x, h), inputs, start=torch.ones(2, 5).double())
    assert torch.equal(hp.lyapunov_spectrum(made, inputs).growth, expected.growth)
    with pytest.raises(ValueError, match="start must be None for a DrivenStep"):
        hp.lyapunov_spectrum(made, inputs, start=torch.ones(2, 5).double())


class Leaky(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(7, 4)

    def forward(self, state, x):
        fresh = torch.zeros(len(state), 4)  # made in torch's default dtype
        fresh = fresh + torch.tanh(self.mix(torch.cat([state, x], -1)))
        return 0.9 * state + 0.1 * fresh

    def step(self, state, x):
        return self(state, x)


@pytest.mark.parametrize("form", ["module", "method", "closure", "tensor"])
def test_dtype_reaches_everything_that_a_step_brings_along(form):
    torch.manual_seed(0)
    network, inputs, start = Leaky(), torch.randn(20, 2, 3), torch.zeros(2, 4)
    weight, bias = network.mix.weight.detach().clone(), network.mix.bias.detach().clone()
    step = {
        "module": network,
        "method": network.step,
        "closure": lambda state, x: network(state, x),
        "tensor": lambda s, x: 0.9 * s + 0.1 * torch.tanh(torch.cat([s, x], -1) @ weight.T + bias),
    }[form]
    single = hp.lyapunov_spectrum(step, inputs, start=start, dtype=torch.float32)
    double = hp.lyapunov_spectrum(step, inputs, start=start)
    assert next(network.parameters()).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        whole = network.double()
        expected = hp.lyapunov_spectrum(lambda s, x: whole(s, x), inputs.double(), start=start.double())
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(double.growth, expected.growth, atol=1e-12, rtol=0)
    assert 0 < float((single.exponents - double.exponents).abs().max()) < 1e-4


def test_gradients_reach_parameters_of_another_dtype():
    torch.manual_seed(0)
    network, inputs, start = Leaky(), torch.randn(15, 2, 3), torch.zeros(2, 4)
    spectrum = hp.lyapunov_spectrum(network.step, inputs, start=start, dtype=torch.float64, differentiable=True)
    spectrum.exponents.sum().backward()
    assert network.mix.weight.grad.dtype == torch.float32
    assert bool(network.mix.weight.grad.any())


class Phasor(nn.Module):
    def forward(self, state, x):
        return state * torch.exp(torch.tensor(0.1j))


ONES = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("step", "start", "options", "message"),
    [
        (Phasor(), ONES + 0j, {}, r"^A state must be real, got torch\.complex64\. Keep torch\.view_as_real\(state\)"),
        (Phasor(), ONES, {}, r"^A state must be real, got torch\.complex128\."),
        (lambda s, x: s, (ONES, torch.ones(2, dtype=torch.long)), {}, "must consist of floating point .* torch.int64"),
        (lambda s, x: s, (ONES, 1.0), {}, "must consist of floating point .* got float"),
        (lambda s, x: s, (ONES, torch.ones(3, 4)), {}, r"B = 2, or a tuple of such, got \(3, 4\)"),
        (lambda s, x: s, (), {}, r"or a tuple of such, got None"),
        (lambda s, x: s, torch.ones(2, 0), {}, r"at least one entry, got the shape \(2, 0\)"),
        (lambda s, x: s[0], (ONES, ONES), {}, r"\(2, 4\), \(2, 4\), got \(2, 4\) in another nesting"),
        (lambda s, x: None, ONES, {}, "got NoneType"),
        (lambda s, x: s.float(), ONES, {}, r"got a result of float in torch\.float32\. .* pass dtype=torch\.float32"),
    ],
)
def test_a_step_without_a_spectrum_says_why_in_a_sentence(step, start, options, message):
    with pytest.raises(ValueError, match=message):
        hp.lyapunov_spectrum(step, X, start=start, **options)


def test_an_error_of_the_step_itself_is_not_touched():
    def step(state, x):
        raise RuntimeError("of the user")

    with pytest.raises(RuntimeError, match="of the user"):
        hp.lyapunov_spectrum(step, X, start=ONES)


def test_a_cell_of_torch_is_no_step_because_its_input_comes_first():
    with pytest.raises(TypeError, match=r"A step is called as step\(state, input\), got a GRUCell"):
        hp.lyapunov_spectrum(torch.nn.GRUCell(4, 4), torch.randn(20, 2, 4), start=torch.zeros(2, 4))
