"""Dynamic evaluation: the published rule, on networks whose pruned weights stay pruned."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from hyperpruning.models.language_model import LanguageModel
from hyperpruning.tasks.dynamic_evaluation import PTB, DynamicEvaluation, dynamic_loss, gradient_scale

VOCABULARY = 7
MODELS = {
    "lstm": {},
    "tied": {"tied": True},
    "rnn": {"cell": "rnn"},
    "gru": {"cell": "gru"},
    "rhn": {"cell": "rhn", "layers": 1, "depth": 3, "dropout": {"state": 0.4}},
    "awd": {"hidden": [7, 5], "dropout": {"weight": 0.5, "output": 0.4}},
    "mos": {"experts": 3, "tied": True, "dropout": {"latent": 0.3}},
}
SMALL = DynamicEvaluation(lr=0.01, decay=0.05, epsilon=0.01, batch=4)


def build(name: str, *, pruned: bool = False) -> LanguageModel:
    network = LanguageModel(
        VOCABULARY, **{"embedding": 6, "hidden": 6, "dropout": 0.5, "seed": 1} | MODELS[name]
    ).eval()
    if pruned:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for weight in network.parameters():
                if weight.ndim > 1:
                    weight *= torch.rand(weight.shape, generator=generator) < 0.4
    return network


def tokens(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


def plain(network: LanguageModel, text: torch.Tensor) -> float:
    with torch.no_grad():
        logits, _ = network(text[:-1, None])
    return float(functional.cross_entropy(logits[:, 0], text[1:]))


@pytest.mark.parametrize("name", MODELS)
def test_without_steps_it_is_plain_evaluation(name):
    network = build(name)
    scale = gradient_scale(network, tokens(200), SMALL)
    assert dynamic_loss(network, tokens(43, 1), scale, replace(SMALL, lr=0)) == pytest.approx(
        plain(network, tokens(43, 1)), abs=1e-6
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_scale_is_computed_on_the_device_of_the_network_which_nothing_waits_for(name):
    """The device "meta" has no numbers to wait for, and refuses what lies elsewhere as a GPU does."""
    network = build(name).to("meta")
    scale = gradient_scale(network, tokens(200), SMALL)
    assert all(scale[name].is_meta and scale[name].shape == value.shape for name, value in network.named_parameters())


@pytest.mark.parametrize("name", MODELS)
def test_pruned_weights_stay_zero_and_the_network_is_left_as_it_came(name, monkeypatch):
    network = build(name, pruned=True)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    scale = gradient_scale(network, tokens(200), SMALL)
    seen, forward = [], LanguageModel.forward

    def watched(self, *words):
        seen.append({key: weight.detach().clone() for key, weight in self.named_parameters()})
        return forward(self, *words)

    monkeypatch.setattr(LanguageModel, "forward", watched)
    dynamic_loss(network, tokens(43, 1), scale, SMALL)
    assert len(seen) == 9
    for key, weight in seen[-1].items():
        assert not weight.equal(before[key]), key
        if weight.ndim > 1:
            assert not weight[before[key] == 0].any(), key
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())


def by_hand(text, embedding, decoder, bias, *, train):
    """Two tensors and a bias of a model without recurrence, in NumPy: logits = D E[token] + b."""

    def gradients(weights, inputs, targets):
        e, d, b = weights
        hidden = e[inputs]
        logits = hidden @ d.T + b
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        loss = -np.log(p[np.arange(len(targets)), targets]).mean()
        p[np.arange(len(targets)), targets] -= 1
        p /= len(targets)
        of_e = np.zeros_like(e)
        np.add.at(of_e, inputs, p @ d)
        return loss, [of_e, p.T @ hidden, p.sum(0)]

    start = [embedding, decoder, bias]
    stream = train[: len(train) // 4 * 4].reshape(4, -1).T
    squares = [np.zeros_like(w) for w in start]
    for at in range(0, len(stream) - 1, 5):
        inputs, targets = stream[at : at + 5][: len(stream) - 1 - at].ravel(), stream[at + 1 : at + 6].ravel()
        squares = [s + g**2 for s, g in zip(squares, gradients(start, inputs, targets)[1], strict=True)]
    scales = [np.sqrt(s) for s in squares]
    masks = [embedding != 0, decoder != 0, np.ones_like(bias, bool)]
    whole = sum(scale[mask].mean() for scale, mask in zip(scales, masks, strict=True))
    weights, losses = list(start), []
    for at in range(0, len(text) - 1, 5):
        loss, g = gradients(weights, text[at : at + 5][: len(text) - 1 - at], text[at + 1 : at + 6])
        losses.append((loss, len(text[at + 1 : at + 6])))
        for k in range(3):
            c = np.minimum(scales[k] / whole, 1 / SMALL.decay)
            move = SMALL.decay * c * (start[k] - weights[k]) - SMALL.lr * g[k] / (scales[k] + SMALL.epsilon)
            weights[k] = weights[k] + move * masks[k]
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


class WithoutRecurrence(torch.nn.Module):
    def forward(self, inputs, state=None):
        return inputs, torch.zeros(1)


@pytest.mark.parametrize(("length", "pruned"), [(11, False), (34, False), (34, True)])
def test_the_rule_is_the_published_one(length, pruned):
    network = build("lstm", pruned=pruned).double()
    network.rnn = WithoutRecurrence()
    e, d, b = (weight.detach().numpy().copy() for weight in network.parameters())
    train, text = tokens(203), tokens(length, 1)
    expected = by_hand(text.numpy(), e, d, b, train=train.numpy())
    found = dynamic_loss(network, text, gradient_scale(network, train, SMALL), SMALL)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found != pytest.approx(plain(network, text), rel=1e-4)


def test_tied_weights_are_one_tensor():
    network = build("tied")
    scale = gradient_scale(network, tokens(200), SMALL)
    assert sum(value.numel() for value in scale.values()) == sum(weight.numel() for weight in network.parameters())
    assert "decoder.weight" not in scale


def test_a_part_of_the_training_text_is_extrapolated():
    network = build("lstm")
    repeated = tokens(50).repeat(4)  # four equal columns of 10 windows
    one = gradient_scale(network, repeated, replace(SMALL, fraction=0.1))  # the first window
    logits, _ = network(repeated[:5, None])
    loss = functional.cross_entropy(logits[:, 0], repeated[1:6])
    first = torch.autograd.grad(loss, list(network.parameters()))
    for found, gradient in zip(one.values(), first, strict=True):
        torch.testing.assert_close(found, math.sqrt(10) * gradient.abs(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("pruned", [False, True])
def test_it_learns_a_text_that_repeats_itself(pruned):
    network = build("lstm", pruned=pruned)
    text = torch.cat([tokens(100, 1), tokens(8, 2).repeat(50)])
    settings = DynamicEvaluation(lr=0.05, decay=0.01, epsilon=0.01, batch=4)
    found = dynamic_loss(network, text, gradient_scale(network, tokens(400), settings), settings)
    assert found < plain(network, text) - 0.05


def test_what_cannot_be_is_explained():
    network = build("lstm")
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        replace(PTB, fraction=0)
    with pytest.raises(ValueError, match="epsilon must be above 0, got 0"):
        replace(PTB, epsilon=0)
    with pytest.raises(ValueError, match=r"Call network\.eval\(\)"):
        gradient_scale(network.train(), tokens(200), SMALL)
