"""A spectrum draws, tabulates and names itself."""

import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from hyperpruning.lyapunov.spectrum import Spectrum

GROWTH = torch.tensor([[[-1.0, -4.0, -torch.inf, -3.0, -2.0]], [[-3.0, -8.0, -6.0, -3.0, -4.0]]])
FOUND = Spectrum(GROWTH, lengths=(2, 2), sizes=(3, 2), warmup=1)  # exponents -1, -3, -inf; -1.5, -1.5
NONE = Spectrum(torch.full((1, 1, 1), -torch.inf), lengths=(1,), sizes=(1,), warmup=0)


def test_its_repr_is_one_short_line():
    assert repr(FOUND) == (
        "Spectrum(5 exponents of 2 layers, from -3 to -1 nats per step, 1 at -inf; 4 steps, 1 sequence)"
    )
    assert repr(NONE) == "Spectrum(1 exponent of 1 layer, none finite, 1 at -inf; 1 step, 1 sequence)"


def test_its_notebook_view_is_a_table_of_the_layers():
    view = FOUND._repr_html_()
    cells = "".join(f"<td>{cell}</td>" for cell in ("0", "3", "-1", "-3", "-3", "1"))
    assert f"<tr>{cells}</tr>" in view
    assert "Spectrum(5 exponents of 2 layers" in view
    assert view.count("<tr>") == 3
    assert "<td>-inf</td>" in NONE._repr_html_()


def test_its_frame_has_a_row_for_each_exponent():
    pytest.importorskip("pandas", reason="pandas is optional")
    frame = FOUND.to_frame()
    assert list(frame.columns) == ["layer", "position", "exponent"]
    assert frame["layer"].tolist() == [0, 0, 0, 1, 1]
    assert frame["position"].tolist() == [0, 1, 2, 0, 1]
    assert frame["exponent"].tolist() == [-1.0, -3.0, -np.inf, -1.5, -1.5]


def test_a_frame_without_pandas_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^pandas must be installed for to_frame"):
        FOUND.to_frame()


def test_its_plot_has_a_line_for_each_layer():
    axes = Figure().subplots()
    assert FOUND.plot(axes) is axes
    drawn = [line.get_ydata().tolist() for line in axes.lines]
    assert drawn == [[-1.0, -3.0], [-1.5, -1.5]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["layer 0 (1 at -inf)", "layer 1"]


def test_its_plot_makes_a_figure_where_none_is_given():
    plt = pytest.importorskip("matplotlib.pyplot")
    before = plt.get_backend()
    plt.switch_backend("agg")
    try:
        recorded = Spectrum(GROWTH.clone().requires_grad_(), lengths=(2, 2), sizes=(3, 2), warmup=1)
        assert len(recorded.plot().lines) == 2
    finally:
        plt.close("all")
        plt.switch_backend(before)
