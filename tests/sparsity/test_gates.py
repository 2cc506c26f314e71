import pytest
import torch
from torch import nn

from hyperpruning.models.language_model import LanguageModel
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.gates import row_groups
from hyperpruning.sparsity.sparsifier import Sparsifier

GATED = METHODS["selfish-rnn-gates"]


class OwnLayer(nn.Module):
    """A layer as users write them: two linear maps whose rows hold four gates, and one without gates."""

    row_groups = 4

    def __init__(self):
        super().__init__()
        self.reads, self.recurs = nn.Linear(3, 20), nn.Linear(5, 20, bias=False)
        self.inner = nn.RNNCell(5, 7)
        self.scale = nn.Parameter(torch.ones(()))


def test_the_matrices_of_torchs_layers_and_cells():
    for kind, count in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
        model = nn.ModuleDict({"rnn": kind(3, 5, num_layers=2, bidirectional=True), "head": nn.Linear(10, 2)})
        matrices = {name for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("rnn")}
        assert row_groups(model) == dict.fromkeys(matrices, count)
        assert len(matrices) == 8
    for kind, count in ((nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)):
        assert row_groups(kind(3, 5)) == {"weight_ih": count, "weight_hh": count}
    projected = row_groups(nn.LSTM(3, 6, proj_size=2))
    assert projected == {"weight_ih_l0": 4, "weight_hh_l0": 4, "weight_hr_l0": 1}
    assert row_groups(nn.Linear(8, 8)) == {}


def test_parametrized_and_tied_matrices_have_the_names_of_named_parameters():
    model = nn.ModuleDict({"first": nn.LSTMCell(4, 4), "second": nn.LSTMCell(4, 4)})
    model["second"].weight_ih = model["first"].weight_hh
    nn.utils.parametrizations.orthogonal(model["second"], "weight_hh")
    assert row_groups(model) == {
        "first.weight_ih": 4,
        "first.weight_hh": 4,
        "second.parametrizations.weight_hh.original": 4,
    }


def test_a_layer_of_ones_own_says_it_by_an_attribute():
    assert row_groups(nn.Sequential(OwnLayer())) == {
        "0.reads.weight": 4,
        "0.recurs.weight": 4,
        "0.inner.weight_ih": 1,
        "0.inner.weight_hh": 1,
    }
    wrong = OwnLayer()
    wrong.reads = nn.Linear(3, 18)
    with pytest.raises(
        ValueError, match=r"'reads.weight' must divide into the row_groups of its layer, 4, got 18 rows. Set"
    ):
        row_groups(wrong)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "rhn", "uncoupled_rhn"])
@pytest.mark.parametrize("dropout", [0.1, {"hidden": 0.1}])
def test_our_language_models(cell, dropout):
    for hidden in (6, [6, 4]):
        model = LanguageModel(9, cell=cell, embedding=6, hidden=hidden, dropout=dropout)
        assert row_groups(model) == model.row_groups


def test_our_lstm_with_weight_drop():
    model = LanguageModel(9, embedding=6, hidden=6, dropout={"weight": 0.5})
    assert row_groups(model) == model.row_groups


def test_a_bare_sparsifier_knows_the_gates():
    torch.manual_seed(0)
    model = nn.Sequential(nn.GRU(6, 8))
    sparsifier = Sparsifier(model, None, GATED, sparsity=0.5, interval=1, total_steps=10)
    assert sparsifier.row_groups == {"0.weight_ih_l0": 3, "0.weight_hh_l0": 3}
    update = sparsifier.step()
    grown = {name: n // 3 for name, n in update.grown.items()}
    assert all(update.grown[name] >= 3 * grown[name] > 0 for name in grown)


def test_given_groups_stand_in_place_of_those_found():
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 4), "own": nn.Linear(4, 8)})
    given = {"own.weight": 2, "rnn.weight_hh_l0": 1, "own.bias": 2}  # the bias is not prunable
    sparsifier = Sparsifier(model, None, GATED, sparsity=0.5, total_steps=10, row_groups=given)
    assert sparsifier.row_groups == {"rnn.weight_ih_l0": 4, "rnn.weight_hh_l0": 1, "own.weight": 2}


def test_a_tied_parameter_may_be_given_any_of_its_names():
    model = nn.ModuleDict({"encoder": nn.Embedding(8, 4), "decoder": nn.Linear(4, 8)})
    model["decoder"].weight = model["encoder"].weight
    sparsifier = Sparsifier(model, None, GATED, sparsity=0.5, total_steps=10, row_groups={"decoder.weight": 4})
    assert sparsifier.row_groups == {"encoder.weight": 4}


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(
        ValueError,
        match=r"row_groups must name parameters of the model, got 'weight_hh_10'. Did you mean 'weight_hh_l0'\? Use ",
    ):
        Sparsifier(nn.LSTM(4, 4), None, GATED, sparsity=0.5, total_steps=10, row_groups={"weight_hh_10": 4})
    for count in (0, True, 2.0, "4"):
        with pytest.raises(ValueError, match=r"row_groups must be whole numbers of at least 1, got .* for 'weight'"):
            Sparsifier(nn.Linear(4, 4), None, GATED, sparsity=0.5, total_steps=10, row_groups={"weight": count})
