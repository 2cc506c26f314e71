"""Language models: reproducible, with tied weights if requested, and equal to torch's layers step by step."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from hyperpruning.models.language_model import LanguageModel, repackage_hidden
from hyperpruning.models.stack import CELLS, GATES


@pytest.mark.parametrize("cell", CELLS)
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator(cell):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (LanguageModel(11, cell=cell, seed=seed) for seed in (3, 3, 4))
    assert torch.rand(1).equal(expected)
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not one.encoder.weight.equal(other.encoder.weight)


@pytest.mark.parametrize("cell", CELLS)
def test_windows_with_a_carried_state_equal_the_whole_text(cell):
    model = LanguageModel(7, cell=cell, hidden=5, embedding=4).eval().double()
    tokens = torch.randint(7, (12, 3))
    whole, _ = model(tokens)
    first, state = model(tokens[:5])
    second, _ = model(tokens[5:], repackage_hidden(state))
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_row_groups_divide_every_recurrent_weight(cell):
    model = LanguageModel(7, cell=cell, hidden=6)
    assert set(model.row_groups) == {f"rnn.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in (0, 1)}
    assert all(model.get_parameter(name).shape[0] == 6 * GATES[cell] for name in model.row_groups)


def test_tied_weights_are_one_parameter():
    model = LanguageModel(9, hidden=6, embedding=6, tied=True)
    assert model.decoder.weight is model.encoder.weight
    with pytest.raises(ValueError, match="embedding=6 and width 5"):
        LanguageModel(9, hidden=5, embedding=6, tied=True)


VARIATIONAL = {"embedding": 0.1, "input": 0.4, "hidden": 0.2, "output": 0.4}
KINDS = {
    "rhn": {"cell": "rhn", "hidden": 5, "layers": 2, "depth": 3, "dropout": VARIATIONAL | {"state": 0.25}},
    "uncoupled": {"cell": "uncoupled_rhn", "hidden": [5, 6], "depth": 2, "dropout": 0.2},
    "awd": {"hidden": [7, 6, 4], "tied": True, "dropout": VARIATIONAL | {"weight": 0.5}},
    "mos": {"hidden": [7, 5], "tied": True, "experts": 3, "dropout": VARIATIONAL | {"weight": 0.5, "latent": 0.3}},
    "variational gru": {"cell": "gru", "hidden": 5, "layers": 2, "dropout": VARIATIONAL},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_carries_its_state_and_drops_in_training_mode_only(kind):
    model = LanguageModel(9, embedding=4, seed=1, **KINDS[kind]).double()
    tokens = torch.randint(9, (12, 3), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    one, other = model(tokens)[0], model(tokens)[0]
    torch.manual_seed(0)
    assert one.equal(model(tokens)[0])
    assert not one.equal(other)
    whole, _ = model.eval()(tokens)
    assert whole.shape == (12, 3, 9)
    first, state = model(tokens[:5])
    second, _ = model(tokens[5:], repackage_hidden(state))
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-12)
    assert model.hidden_states(tokens)[0].shape == (12, 3, model.rnn.widths[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_built_again_from_its_sizes(kind):
    model = LanguageModel(9, embedding=4, seed=1, **KINDS[kind])
    again = LanguageModel(9, **json.loads(json.dumps(model.sizes)), seed=1)
    assert again.sizes == model.sizes
    weights = model.state_dict()
    assert all(value.equal(weights[name]) for name, value in again.state_dict().items())
    assert repr(again) == repr(model)  # the same modules, with the same dropouts


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_all_its_parameters_and_names_its_gates(kind):
    model = LanguageModel(9, embedding=4, **KINDS[kind]).eval()
    model(torch.arange(9)[:, None])[0].square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
    matrices = {name for name, parameter in model.rnn.named_parameters() if parameter.ndim == 2}
    assert set(model.row_groups) == {f"rnn.{name}" for name in matrices}
    assert all(
        model.get_parameter(name).shape[0] == gates * (5 + (name.startswith("rnn.1") and kind == "uncoupled"))
        for name, gates in model.row_groups.items()
        if model.cell != "lstm"
    )


def test_a_model_of_torch_computes_what_its_parts_do():
    model = LanguageModel(9, embedding=4, hidden=5, layers=3, seed=2).double()
    tokens = torch.randint(9, (12, 3))
    rnn = nn.LSTM(4, 5, 3).double()
    rnn.load_state_dict({name.removeprefix("rnn."): v for name, v in model.state_dict().items() if "rnn." in name})
    hidden, (h, c) = rnn(functional.embedding(tokens, model.encoder.weight))
    logits, state = model(tokens)
    assert logits.equal(functional.linear(hidden, model.decoder.weight, model.decoder.bias))
    assert state[0].equal(h)
    assert state[1].equal(c)


def test_a_list_of_widths_computes_what_one_module_does():
    fused, stacked = LanguageModel(9, hidden=5, layers=2), LanguageModel(9, hidden=[5, 5])
    names = [name for name, _ in stacked.named_parameters()]
    stacked.load_state_dict(dict(zip(names, fused.state_dict().values(), strict=True)))
    tokens = torch.randint(9, (6, 2))
    assert stacked(tokens)[0].equal(fused(tokens)[0])


def test_ordinary_dropout_is_applied_at_three_places():
    model, tokens = LanguageModel(9, hidden=5, embedding=4, dropout=0.5, seed=2), torch.randint(9, (6, 2))
    torch.manual_seed(4)
    logits, _ = model(tokens)
    torch.manual_seed(4)
    embedded = functional.dropout(functional.embedding(tokens, model.encoder.weight), 0.5)
    hidden = functional.dropout(model.rnn(embedded)[0], 0.5)
    assert logits.equal(functional.linear(hidden, model.decoder.weight, model.decoder.bias))
    assert model.rnn.dropout == 0.5


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"cell": "rmn"}, "got 'rmn'"),
        ({"hidden": []}, "at least one layer"),
        ({"hidden": [3, 0]}, "at least one unit"),
        ({"depth": 2}, "recurrent highway layer, got depth=2"),
        ({"dropout": {"state": 0.2}}, "recurrent highway layer, got depth=1, state=0.2"),
        ({"cell": "gru", "dropout": {"weight": 0.2}}, "got 0.2 for 'gru'"),
        ({"dropout": {"input": 1.0}}, "'input' must be at least 0 and below 1, got 1.0"),
        ({"dropout": -0.1}, "'input' must be at least 0 and below 1, got -0.1"),
        ({"dropout": {"inputs": 0.1}}, "got 'inputs'"),
        ({"dropout": {"latent": 0.2}}, "got 0.2 with experts=1"),
        ({"experts": 0}, "experts must be at least 1, got 0"),
        ({"hidden": [6, 5], "embedding": 6, "tied": True}, "embedding=6 and width 5"),
    ],
)
def test_incompatible_sizes_are_refused(sizes, says):
    with pytest.raises(ValueError, match=says):
        LanguageModel(9, **sizes)
