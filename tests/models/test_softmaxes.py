"""The mixture of softmaxes: its formula, its normalisation, and independence of the chunk size."""

import math

import pytest
import torch

from hyperpruning.models import softmaxes
from hyperpruning.models.softmaxes import MixtureOfSoftmaxes


def head(dropout=0.0):
    torch.manual_seed(0)
    return MixtureOfSoftmaxes(6, 4, 11, experts=3, dropout=dropout).double()


def by_formula(head, h):
    prior = torch.softmax(h @ head.prior.weight.T, -1)
    latent = torch.tanh(h @ head.latent.weight.T + head.latent.bias).view(*h.shape[:-1], 3, 4)
    p = torch.softmax(latent @ head.weight.T + head.bias, -1)  # (T, B, K, V)
    return (prior[..., None] * p).sum(-2)


def test_it_computes_the_formula():
    ours, h = head(), torch.randn(5, 2, 6).double()
    torch.testing.assert_close(ours(h), torch.log(by_formula(ours, h) + 1e-8), rtol=0, atol=1e-13)


def test_probabilities_sum_to_one():
    p = head()(3 * torch.randn(40, 2, 6).double()).exp()
    torch.testing.assert_close(p.sum(-1), torch.full((40, 2), 1 + 11e-8, dtype=torch.float64), rtol=0, atol=1e-12)


def test_an_underflowing_probability_has_the_floor_and_finite_gradients():
    ours = head()
    with torch.no_grad():
        ours.bias[3] = -2000.0
    h = torch.randn(5, 2, 6).double().requires_grad_()
    logs = ours(h)
    torch.testing.assert_close(logs[..., 3].exp(), torch.full((5, 2), 1e-8).double())
    assert torch.autograd.grad(logs.sum(), h)[0].isfinite().all()


@pytest.mark.parametrize("chunk", [1, 4 * 3 * 11])
def test_chunks_give_the_same_values_and_gradients(monkeypatch, chunk):
    ours, h = head(), torch.randn(7, 3, 6).double().requires_grad_()
    weights = torch.randn(7, 3, 11).double()
    whole = ours(h)
    expected = torch.autograd.grad((whole * weights).sum(), [h, *ours.parameters()])
    monkeypatch.setattr(softmaxes, "LOGITS_PER_CHUNK", chunk)
    parts = ours(h)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)
    for one, other in zip(torch.autograd.grad((parts * weights).sum(), [h, *ours.parameters()]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_chunks_store_less_for_the_backward_pass(monkeypatch):
    def stored_bytes():
        """Bytes that autograd stores after the forward pass."""
        stored = {}

        def pack(tensor):
            stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logs = large(h)
        assert logs.requires_grad
        return sum(stored.values())

    large, h = MixtureOfSoftmaxes(6, 4, 500, experts=8), torch.randn(20, 4, 6)
    whole = stored_bytes()
    monkeypatch.setattr(softmaxes, "LOGITS_PER_CHUNK", 8 * 500 * 10)
    assert whole > 80 * 8 * 500 * 4  # at least one copy of the K x V logits of all 80 tokens
    assert stored_bytes() < whole / 8


def test_latents_have_locked_dropout_in_training_mode():
    ours, h = head(dropout=0.5), torch.randn(1, 1, 6).double().expand(9, 1, 6)
    drawn = ours(h)
    assert drawn.std(0).max() < 1e-12  # one mask for all steps
    assert not drawn.equal(ours(h))
    assert ours.eval()(h).equal(ours(h))


@pytest.mark.parametrize(("words", "nats"), [(10_000, 1.0e-4), (33_278, 3.3e-4)])
def test_u9_the_published_loss_is_larger_because_it_normalises_once_more(words, nats):
    """Its code takes the cross-entropy of log(p + 1e-8) as if these were logits; ours is the cross-entropy of p."""
    torch.manual_seed(0)
    ours = MixtureOfSoftmaxes(6, 4, words, experts=3, dropout=0.0).double()
    logs, targets = ours(torch.randn(5, 2, 6).double()).detach().flatten(0, 1), torch.arange(10)
    published = torch.nn.functional.cross_entropy(logs, targets) - torch.nn.functional.nll_loss(logs, targets)
    assert float(published) == pytest.approx(nats, rel=0.02)
    if words > 30_000:
        assert 63 * math.expm1(float(published)) == pytest.approx(0.02, abs=0.002)  # a perplexity of 63 on WikiText-2
