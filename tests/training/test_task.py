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
