"""Dropouts against their formulas: which entries share a mask, the scale factor, and the unmasked parameters."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from hyperpruning.models.dropout import LockedDropout, WeightDropLSTM, WordDropEmbedding, locked_dropout


def test_locked_dropout_is_one_mask_for_all_steps():
    torch.manual_seed(0)
    values = torch.randn(9, 40, 50)
    factors = locked_dropout(values, 0.4) / values
    assert factors.std(0).max() < 1e-6
    mask = factors[0]
    kept = mask > 0
    torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / 0.6))
    assert abs(float(kept.float().mean()) - 0.6) < 0.04  # 3.6 standard deviations of 2000 draws
    assert mask.std(0).min() > 0  # the masks of the batch's columns differ


def test_locked_dropout_uses_the_global_generator_and_only_training_mode():
    values, module = torch.randn(5, 4, 6), LockedDropout(0.5)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn += [module(values), locked_dropout(values, 0.5)]
        torch.manual_seed(3)
        drawn.append(values * functional.dropout(torch.ones(1, 4, 6), 0.5))
    assert drawn[0].equal(drawn[3])
    assert drawn[0].equal(drawn[2])
    assert not drawn[0].equal(drawn[1])
    assert module.eval()(values).equal(values)
    assert locked_dropout(values, 0.0) is values


def test_embedding_dropout_drops_all_occurrences_of_a_word():
    torch.manual_seed(0)
    embedding = WordDropEmbedding(50, 8, dropout=0.3)
    tokens = torch.randint(50, (30, 20))
    values = embedding(tokens)
    factors = values / functional.embedding(tokens, embedding.weight)
    by_word = torch.stack([factors[tokens == word][0] for word in range(50)])
    torch.testing.assert_close(factors, by_word[tokens])  # all occurrences have the same factor
    torch.testing.assert_close(by_word, by_word[:, :1].expand(-1, 8))  # all entries have the same factor
    assert {round(value, 5) for value in by_word[:, 0].tolist()} == {0.0, round(1 / 0.7, 5)}
    (gradient,) = torch.autograd.grad(values.sum(), embedding.weight)
    torch.testing.assert_close(gradient, by_word * tokens.flatten().bincount(minlength=50)[:, None])
    assert embedding.eval()(tokens).equal(functional.embedding(tokens, embedding.weight))


def test_an_embedding_without_dropout_draws_nothing():
    torch.manual_seed(0)
    expected = torch.rand(1)
    embedding, plain = (WordDropEmbedding(5, 3, dropout=0.0), nn.Embedding(5, 3))
    plain.weight = embedding.weight
    torch.manual_seed(0)
    assert embedding(torch.arange(5)).equal(plain(torch.arange(5)))
    assert torch.rand(1).equal(expected)


def test_weight_drop_uses_a_copy_of_the_recurrent_matrix():
    torch.manual_seed(0)
    layer, plain = WeightDropLSTM(3, 5, weight_drop=0.5).double(), nn.LSTM(3, 5).double()
    plain.load_state_dict(layer.state_dict())
    inputs, state = torch.randn(8, 2, 3).double(), tuple(torch.randn(2, 1, 2, 5).double())
    raw = layer.weight_hh_l0.detach().clone()
    torch.manual_seed(1)
    outputs, after = layer(inputs, state)
    torch.manual_seed(1)
    mask = functional.dropout(torch.ones_like(raw), 0.5)
    plain.weight_hh_l0.data = raw * mask
    expected, ends = plain(inputs, state)
    assert outputs.equal(expected)
    assert all(one.equal(other) for one, other in zip(after, ends, strict=True))
    assert layer.weight_hh_l0.equal(raw)
    (gradient,) = torch.autograd.grad(outputs.sum(), layer.weight_hh_l0)
    (through,) = torch.autograd.grad(expected.sum(), plain.weight_hh_l0)
    torch.testing.assert_close(gradient, through * mask)  # the parameter's gradient is that of the copy, masked
    plain.weight_hh_l0.data = raw
    assert layer.eval()(inputs)[0].equal(plain(inputs)[0])


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_a_pruned_recurrent_weight_stays_pruned_under_weight_drop(p):
    layer = WeightDropLSTM(3, 5, weight_drop=p)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    inputs = torch.randn(6, 2, 3)
    one, other = layer(inputs)[0], layer(inputs)[0]
    assert one.equal(other)  # there is no recurrent weight to drop
