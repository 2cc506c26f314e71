"""Language models: reproducible, tied where asked, and equal to what torch's layers compute step by step."""

import pytest
import torch

from hyperpruning.models.language_model import LanguageModel, detached
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
    second, _ = model(tokens[5:], detached(state))
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_row_groups_divide_every_recurrent_weight(cell):
    model = LanguageModel(7, cell=cell, hidden=6)
    assert set(model.row_groups) == {f"rnn.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in (0, 1)}
    assert all(model.get_parameter(name).shape[0] == 6 * GATES[cell] for name in model.row_groups)


def test_tied_weights_are_one_parameter():
    model = LanguageModel(9, hidden=6, embedding=6, tied=True)
    assert model.decoder.weight is model.encoder.weight
    with pytest.raises(ValueError, match="6 is not 5"):
        LanguageModel(9, hidden=5, embedding=6, tied=True)
