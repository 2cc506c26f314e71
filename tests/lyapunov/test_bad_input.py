"""Everything that has no spectrum is refused in one sentence: the rule, the value, the remedy."""

import pytest
import torch
from torch import nn

from hyperpruning.lyapunov.spectrum import lyapunov_spectrum

X = torch.zeros(20, 2, 3)


@pytest.mark.parametrize(
    ("network", "inputs", "options", "error", "message"),
    [
        (nn.LSTM(3, 4, bidirectional=True), X, {}, ValueError, "bidirectional"),
        (nn.LSTM(3, 4, proj_size=2), X, {}, ValueError, "proj_size is 2"),
        (nn.LSTM(3, 4, 2, dropout=0.5).train(), X, {}, ValueError, r"call network.eval\(\)"),
        (nn.Sequential(nn.Dropout(0.5)), X, {"start": torch.zeros(2, 3)}, ValueError, "trains with dropout 0.5"),
        (nn.LSTM(3, 4), X[:10], {}, ValueError, "has 10 steps and warmup is 10"),
        (nn.LSTM(3, 4), X, {"warmup": -1}, ValueError, "warmup is -1"),
        (nn.LSTM(3, 4), X, {"k": 5}, ValueError, "between 1 and the 4 exponents of a layer, but is 5"),
        (nn.LSTM(3, 4), X, {"k": 0}, ValueError, "but is 0"),
        (nn.LSTM(3, 4), X.long(), {}, TypeError, "embed token ids first"),
        (nn.LSTM(3, 4), [[1.0]], {}, TypeError, "these are list"),
        (nn.LSTM(3, 4), X[:, 0], {}, ValueError, r"\(T, B, I\)"),
        (nn.LSTM(5, 4), X, {}, ValueError, r"\(2, 5\), but this one has \(2, 3\)"),
        (nn.LSTM(3, 4), X / 0, {}, ValueError, "inputs are to be finite"),
        (nn.LSTM(3, 4), X.double(), {}, ValueError, "share one dtype"),
        (nn.LSTM(3, 4), X, {"start": torch.zeros(1, 2, 4)}, ValueError, r"starts from \(h, c\)"),
        (nn.GRU(3, 4), X, {"start": torch.zeros(1, 3, 4)}, ValueError, r"\(1, 2, 4\), but this one has \(1, 3, 4\)"),
        (nn.GRU(3, 4), X, {"state": "c"}, ValueError, "'h' or 'full', but is 'c'"),
        (nn.GRU(3, 4), X, {"convention": "backward"}, ValueError, "'forward' or 'published'"),
        (nn.GRU(3, 4), X, {"dtype": torch.float16}, ValueError, "torch.float32 or torch.float64"),
        (lambda s, x: s, X, {}, ValueError, r"start=\(B, D\) with B = 2"),
        (lambda s, x: s[:, :1], X, {"start": torch.zeros(2, 4)}, ValueError, r"\(2, 4\) became \(2, 1\)"),
        (lambda s, x: s * 1e30, X, {"start": torch.ones(2, 4)}, ValueError, "left its dtype's range"),
        ([], X, {}, ValueError, "one state"),
        (nn.LSTM(3, 4).to("meta"), X, {}, ValueError, "share one device, but have meta and cpu"),
        (
            nn.LSTM(3, 4),
            X,
            {"start": (torch.full((1, 2, 4), torch.nan),) * 2},
            ValueError,
            "start of layer 0 are to be",
        ),
        ("lstm", X, {}, TypeError, "this is a str"),
    ],
)
def test_refused(network, inputs, options, error, message):
    with pytest.raises(error, match=message):
        lyapunov_spectrum(network, inputs, **options)


def test_names_the_parameter_that_is_not_finite():
    network = nn.LSTM(3, 4)
    with torch.no_grad():
        network.bias_hh_l0[2] = torch.nan
    with pytest.raises(ValueError, match="parameter bias_hh_l0"):
        lyapunov_spectrum(network, X)


def test_dropout_is_no_matter_when_evaluating():
    network = nn.LSTM(3, 4, 2, dropout=0.5).eval()
    assert lyapunov_spectrum(network, X).exponents.shape == (8,)
