"""The language modelling task: its loss against the formulas."""

import pytest
import torch
from torch.nn import functional

from hyperpruning.models.penalties import activation_penalty, temporal_penalty
from hyperpruning.training.task import LanguageModelling


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (2.0, 0.0), (0.0, 1.0), (2.0, 1.0)])
def test_the_loss_is_cross_entropy_and_while_training_penalties(text, alpha, beta):
    task = LanguageModelling(folder=text, hidden=6, dropout=0.5, activation_penalty=alpha, temporal_penalty=beta)
    network = task.network(0)
    batch = next(iter(task.batches(0, 0))).parts[0]
    torch.manual_seed(0)
    loss, _ = task.loss(network, batch, None)
    torch.manual_seed(0)
    hidden, _ = network.hidden(batch[0])
    dropped = network.output_dropout(hidden)
    logits = network.decoder(dropped)
    expected = functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())
    penalties = alpha * activation_penalty(dropped) + beta * temporal_penalty(hidden)
    torch.testing.assert_close(loss, expected + penalties)
    assert (penalties.item() > 1e-3) == (alpha + beta > 0)
    network.eval()
    plain = functional.cross_entropy(network(batch[0])[0].flatten(0, 1), batch[1].flatten())
    assert task.loss(network, batch, None)[0].equal(plain)


@pytest.mark.parametrize(
    "sizes",
    [
        {"dropout": 0.1},
        {"cell": "rhn", "layers": 1, "depth": 2, "dropout": {"embedding": 0.1, "state": 0.1, "output": 0.1}},
        {"experts": 2, "tied": True, "dropout": {"weight": 0.5, "latent": 0.1, "between": 0.1}},
    ],
)
def test_everything_is_computed_on_the_device_of_the_network(text, sizes):
    """The device "meta" computes nothing, and refuses what lies elsewhere as a GPU does."""
    task = LanguageModelling(folder=text, hidden=6, embedding=6, activation_penalty=1.0, temporal_penalty=1.0, **sizes)
    network, carry = task.network(0).to("meta"), None
    for step in list(task.batches(0, 0))[:2]:
        loss, carry = task.loss(network, step.parts[0], carry)
        loss.backward()
    assert loss.is_meta
    assert all(parameter.grad.is_meta for parameter in network.parameters())
    assert task.recurrence(network)[1].is_meta
