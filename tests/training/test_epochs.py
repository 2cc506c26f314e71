"""The loop over epochs: exact budgets, exact continuation, and training that works."""

from dataclasses import asdict, replace

import pytest
import torch

from hyperpruning.sparsity.methods import METHODS
from hyperpruning.training.checkpoint import load, save
from hyperpruning.training.epochs import DivergedError, TrainConfig, Training, epochs, prunable_weights
from small import small


def begin(text, method="set", **training):
    plan = small(text, training={"epochs": 4, "average_from": 0.5, **training}).plan()
    return Training(plan.task, plan.train, METHODS[method] if method else None, sparsity=0.6)


def without_time(record):
    return {name: value for name, value in asdict(record).items() if name != "seconds"}


@pytest.mark.parametrize("method", [None, "set", "rigl"])
def test_a_training_continued_from_a_checkpoint_is_bit_for_bit_the_same(text, tmp_path, method):
    whole = begin(text, method)
    expected = list(epochs(whole))
    for pause in (0, 1, 3):
        first = begin(text, method)
        records = list(epochs(first, pause))
        save(first, tmp_path / f"{method}{pause}", "x", records)
        second = begin(text, method)
        assert load(second, tmp_path / f"{method}{pause}", "x") == tuple(records)
        records += epochs(second)
        assert [without_time(record) for record in records] == [without_time(record) for record in expected]
        for name, value in whole.network.state_dict().items():
            assert second.network.state_dict()[name].equal(value)
            assert second.best[name].equal(whole.best[name])


def test_the_best_weights_are_as_sparse_as_asked_after_averaging(text):
    training = begin(text)
    for record in epochs(training):
        assert record.active == training.sparsifier.budget == round(0.4 * prunable_weights(training.network))
    zeros = sum(int((value == 0).sum()) for value in training.best.values() if value.ndim >= 2)
    assert zeros >= prunable_weights(training.network) - training.sparsifier.budget
    assert training.optimizer.averaging


def test_training_learns(text):
    losses = [record.valid_loss for record in epochs(begin(text, None))]
    assert losses[-1] < losses[0] - 0.5


def test_dropout_does_not_touch_the_global_generator(text):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    list(epochs(begin(text, None, epochs=3), 1))
    assert torch.rand(2).equal(expected)


def test_learning_rate_decays_and_averaging_begins_when_asked(text):
    plan = small(text).plan()
    config = TrainConfig(epochs=4, lr=2.0, lr_decay=0.5, lr_decay_after=2, average_from=0.75)
    training = Training(plan.task, config)
    seen = [(training.optimizer.param_groups[0]["lr"], training.optimizer.averaging) for _ in epochs(training)]
    assert seen == [(2.0, False), (2.0, False), (2.0, False), (1.0, False), (0.5, True)]


def test_divergence_is_said_with_the_epoch_and_the_remedy(text):
    plan = small(text).plan()
    training = Training(plan.task, replace(plan.train, lr=1e38, clip=1e38))
    with pytest.raises(DivergedError, match="lower the learning rate"):
        list(epochs(training))
