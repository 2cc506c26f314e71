"""Input without a spectrum raises an error of one form: the rule, the value, the remedy."""

import pytest
import torch
from torch import nn

from hyperpruning.lyapunov.spectrum import lyapunov_spectrum

X = torch.zeros(20, 2, 3)


@pytest.mark.parametrize(
    ("network", "inputs", "options", "error", "message"),
    [
        (nn.LSTM(3, 4, bidirectional=True), X, {}, ValueError, "bidirectional"),
        (nn.LSTM(3, 4, proj_size=2), X, {}, ValueError, "proj_size must be 0, got 2"),
        (nn.LSTM(3, 4, 2, dropout=0.5).train(), X, {}, ValueError, r"Call network.eval\(\)"),
        (nn.Sequential(nn.Dropout(0.5)), X, {"start": torch.zeros(2, 3)}, ValueError, "training mode with dropout 0.5"),
        (nn.LSTM(3, 4), X[:10], {}, ValueError, "below the number of steps, 10, got 10"),
        (nn.LSTM(3, 4), X, {"warmup": -1}, ValueError, "warmup must be from 0 .* got -1"),
        (nn.LSTM(3, 4), X, {"k": 5}, ValueError, "between 1 and the 4 exponents of a layer, got 5"),
        (nn.LSTM(3, 4), X, {"k": 0}, ValueError, "got 0"),
        (nn.LSTM(3, 4), X.long(), {}, TypeError, "Embed token ids first"),
        (nn.LSTM(3, 4), [[1.0]], {}, TypeError, "got list"),
        (nn.LSTM(3, 4), X[:, 0], {}, ValueError, r"\(T, B, I\)"),
        (nn.LSTM(5, 4), X, {}, ValueError, r"\(2, 5\), got \(2, 3\)"),
        (nn.LSTM(3, 4), X / 0, {}, ValueError, "inputs must be finite"),
        (nn.LSTM(3, 4), X.double(), {}, ValueError, "must have the same dtype"),
        (nn.LSTM(3, 4), X, {"start": torch.zeros(1, 2, 4)}, ValueError, r"must be \(h, c\), got 1 part"),
        (nn.GRU(3, 4), X, {"start": torch.zeros(1, 3, 4)}, ValueError, r"\(1, 2, 4\), got \(1, 3, 4\)"),
        (nn.GRU(3, 4), X, {"state": "c"}, ValueError, "'h' or 'full', got 'c'"),
        (nn.GRU(3, 4), X, {"convention": "backward"}, ValueError, "'forward' or 'published'"),
        (nn.GRU(3, 4), X, {"dtype": torch.float16}, ValueError, "torch.float32 or torch.float64"),
        (lambda s, x: s, X, {}, ValueError, r"start of a plain step .* B = 2, .* got None\. Pass"),
        (lambda s, x: s[:, :1], X, {"start": torch.zeros(2, 4)}, ValueError, r"\(2, 4\), got \(2, 1\)"),
        (lambda s, x: s * 1e30, X, {"start": torch.ones(2, 4)}, ValueError, "trajectory must stay finite"),
        ([], X, {}, ValueError, "at least one layer"),
        (nn.LSTM(3, 4).to("meta"), X, {}, ValueError, "must have the same device, got meta and cpu"),
        (
            nn.LSTM(3, 4),
            X,
            {"start": (torch.full((1, 2, 4), torch.nan),) * 2},
            ValueError,
            "start of layer 0 must be finite",
        ),
        ("lstm", X, {}, TypeError, "got a str"),
    ],
)
def test_input_without_a_spectrum_raises(network, inputs, options, error, message):
    with pytest.raises(error, match=message):
        lyapunov_spectrum(network, inputs, **options)


def test_the_error_names_the_parameter_that_is_not_finite():
    network = nn.LSTM(3, 4)
    with torch.no_grad():
        network.bias_hh_l0[2] = torch.nan
    with pytest.raises(ValueError, match="parameter bias_hh_l0"):
        lyapunov_spectrum(network, X)


def test_dropout_is_allowed_in_evaluation_mode():
    network = nn.LSTM(3, 4, 2, dropout=0.5).eval()
    assert lyapunov_spectrum(network, X).exponents.shape == (8,)
