"""The dense network with as many weights as a pruned one."""

import math

import pytest
import torch
from torch import nn

from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.tasks.narrower import weight_count
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.pruning import prunable_weights


def test_at_the_setting_of_the_demo_15744_weights_are_a_network_of_25_units():
    task = LanguageModelling().narrower(15_744)
    assert (task.embedding, task.hidden) == (25, 25)
    assert prunable_weights(task, task.network(0), TrainConfig()) == 15_150
    assert task == LanguageModelling(embedding=25, hidden=25)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": (24, 24, 16), "embedding": 16, "tied": True},
        {"cell": "rhn", "depth": 3, "layers": 1, "hidden": 30, "embedding": 20},
        {"hidden": (12, 10), "embedding": 9, "experts": 3, "tied": True},
    ],
)
def test_one_unit_more_would_be_too_many(text, sizes):
    task = LanguageModelling(folder=text, **sizes)
    whole = weight_count(task.network(0))
    for fraction in (1.0, 0.6, 0.2):
        narrow = task.narrower(round(fraction * whole))
        assert weight_count(narrow.network(0)) <= round(fraction * whole)
        assert (narrow == task) == (fraction == 1)
    widest = max(sizes["hidden"]) if isinstance(sizes["hidden"], tuple) else sizes["hidden"]
    counts = [weight_count(task.narrower(count).network(0)) for count in range(300, 1500, 40)]
    assert counts == sorted(counts)
    assert len(set(counts)) <= widest


def test_what_no_width_can_reach_is_refused(text):
    with pytest.raises(ValueError, match=r"weights must be at least the 32 of a network of width 1, got 10"):
        LanguageModelling(folder=text).narrower(10)


def test_the_loss_of_the_frequencies(text):
    """A decoder that knows the frequencies and nothing else has the same loss."""
    task = LanguageModelling(folder=text, hidden=4, embedding=4, eval_batch=3)
    counts = torch.bincount(task.corpus().train, minlength=len(task.corpus().vocabulary)) + 1.0
    network = task.network(0).eval()
    with torch.no_grad():
        nn.init.zeros_(network.decoder.weight)
        network.decoder.bias.copy_(counts.log())
        for split in ("valid", "test"):
            assert math.isclose(task.evaluate(network, split), task.baseline_loss(split), rel_tol=1e-6)
