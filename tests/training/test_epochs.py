"""The loop over epochs: exact budgets, exact continuation, and training that works."""

from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.training.checkpoint import best_weights, load, save
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.epochs import _averaging_starts, epochs
from hyperpruning.training.pruning import prunable_weights, update_steps
from hyperpruning.training.record import Metric
from hyperpruning.training.state import DivergedError, Training
from small import small


def begin(text, method="set", **training):
    plan = small(text, training={"epochs": 4, "average_from": 0.5, **training}).plan()
    return Training(plan.task, plan.train, METHODS[method] if method else None, sparsity=0.6)


def without_time(record):
    return {name: value for name, value in asdict(record).items() if name != "seconds"}


@pytest.mark.parametrize("method", [None, "set", "rigl", "snfs", "granet", "iss-p"])
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
    whole = prunable_weights(training.task, training.network, training.config)
    for record in epochs(training):
        assert record.active == training.sparsifier.active_cost == round(0.4 * whole)
    zeros = sum(int((value == 0).sum()) for value in training.best.values() if value.ndim >= 2)
    assert zeros >= whole - training.sparsifier.active_cost
    assert training.averaging


@pytest.mark.parametrize("method", ["gmp", "lamp", "imp", "granet"])
def test_what_is_delivered_has_the_asked_density_however_it_fell(text, method):
    training = begin(text, method)
    records = list(epochs(training))
    assert records[1].active > records[-1].active == training.sparsifier.weight_budget.target_cost
    masked = (training.best[name] for name in training.sparsifier.masks)
    assert sum(int(weight.count_nonzero()) for weight in masked) <= training.sparsifier.weight_budget.target_cost
    assert training.best_loss in [record.valid_loss for record in records if record.active == records[-1].active]


def test_soft_shrinking_weights_are_left_out_of_an_evaluation(text):
    training = begin(text, "iss-p")
    list(epochs(training, 1))
    pruned = ~training.sparsifier.masks["encoder.weight"]
    assert training.network.encoder.weight.detach()[pruned].any()
    with training.evaluated() as network:
        assert not network.encoder.weight.detach()[pruned].any()
    assert training.network.encoder.weight.detach()[pruned].any()
    with pytest.raises(
        ValueError, match=r"must be at least the method's stop = 0.5 with soft shrinkage, got 0.2. Raise average_from"
    ):
        begin(text, "iss-p", average_from=0.2)


@pytest.mark.parametrize("method", ["snip", "grasp", "jacobian"])
def test_mask_inits_are_calibrated_on_the_task_and_repeatably(text, method):
    before = torch.random.get_rng_state()
    one, two = (begin(text, method).sparsifier for _ in range(2))
    assert torch.random.get_rng_state().equal(before)
    assert all(mask.equal(two.masks[name]) for name, mask in one.masks.items())
    assert one.active_cost == one.weight_budget.target_cost


def test_a_budget_of_multiply_adds_leaves_the_embedding_dense(text):
    training = begin(text)
    plan = small(text, pruning={"counts": "multiply_adds", "sparsity": 0.6}).plan()
    cheap = Training(plan.task, plan.train, METHODS["set"], sparsity=0.6)
    assert set(training.sparsifier.masks) - set(cheap.sparsifier.masks) == {"encoder.weight"}
    record = next(epochs(cheap))
    assert record.active == round(0.4 * prunable_weights(cheap.task, cheap.network, cheap.config))
    assert cheap.network.encoder.weight.count_nonzero() == cheap.network.encoder.weight.numel()


def test_only_the_recurrent_matrices_can_be_pruned(text):
    plan = small(text, pruning={"scope": "recurrent", "sparsity": 0.6}).plan()
    training = Training(plan.task, plan.train, METHODS["rigl"], sparsity=0.6)
    assert all(name.startswith("rnn.weight") for name in training.sparsifier.masks)
    record = next(epochs(training))
    assert record.active == round(0.4 * sum(mask.numel() for mask in training.sparsifier.masks.values()))
    assert next(epochs(Training(plan.task, plan.train))).active == training.sparsifier.weight_budget.dense_cost


def test_records_say_how_weights_change_places(text):
    records = list(epochs(begin(text, "set")))
    ever = [record.ever_active for record in records]
    assert ever == sorted(ever)
    assert ever[0] == pytest.approx(0.4, abs=0.01)
    assert all(record.churn > 0 for record in records[1:])
    assert next(epochs(begin(text, None))).ever_active == 1


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
    config = TrainConfig(epochs=4, lr=2.0, schedule="step", lr_decay=0.5, lr_decay_after=2, average_from=0.75)
    training = Training(plan.task, config)
    seen = [(training.optimizer.param_groups[0]["lr"], training.averaging) for _ in epochs(training)]
    assert seen == [(2.0, False), (2.0, False), (2.0, False), (1.0, False), (0.5, True)]


@pytest.mark.parametrize(("fraction", "epoch"), [(0.55, 55), (0.07, 7), (0.29, 29), (0.555, 56), (1 / 3, 34), (0, 0)])
def test_a_fraction_of_the_epochs_is_not_missed_by_rounding(text, fraction, epoch):
    plan = small(text).plan()
    config = replace(plan.train, epochs=100, average_from=fraction, finetune_from=fraction or 1.0)
    assert config.finetune_after == (epoch or None)
    training = Training(plan.task, config)
    training.epoch = epoch - 1
    assert not _averaging_starts(training)
    training.epoch = epoch
    assert _averaging_starts(training)


def test_the_trigger_sees_no_loss_of_a_network_denser_than_asked(text):
    """As gmp prunes until 0.75, losses rise by that."""
    training = begin(text, "gmp", epochs=8, average_from=1.0, non_monotone=1, lr=60.0)
    for record in epochs(training):
        assert len(training.valid_losses) == max(0, record.epoch - 5)
        assert not (training.averaging and record.epoch <= 6)
    assert len(training.valid_losses) == 3


def test_tied_weights_are_remembered_and_saved_once(text, tmp_path):
    plan = small(text, model={"hidden": 8, "embedding": 8, "tied": True}).plan()
    training = Training(plan.task, plan.train)
    save(training, tmp_path / "net", "x", list(epochs(training, 1)))
    for best in (training.best, best_weights(tmp_path / "net", "x")):
        assert list(best) == list(training.network.state_dict())
        assert best["encoder.weight"].data_ptr() == best["decoder.weight"].data_ptr()
        assert best["encoder.weight"].data_ptr() != training.network.encoder.weight.data_ptr()


def test_divergence_is_said_with_the_epoch_and_the_remedy(text):
    plan = small(text).plan()
    training = Training(plan.task, replace(plan.train, lr=1e38, max_grad_norm=1e38))
    with pytest.raises(DivergedError, match="Lower the learning rate"):
        list(epochs(training))


@pytest.mark.parametrize(("loss", "diverges"), [(699.0, False), (1e3, True), (1e30, True)])
def test_an_infinite_perplexity_is_a_divergence_but_no_large_loss_of_another_metric(text, monkeypatch, loss, diverges):
    training = begin(text)
    monkeypatch.setattr(type(training.task), "evaluate", lambda *words: loss)
    if diverges:
        with pytest.raises(DivergedError, match=r"validation perplexity must be finite, got inf \(loss 1"):
            training.record()
    else:
        training.record()
    monkeypatch.setattr(type(training.task), "metric", Metric())
    assert training.record().valid_loss == loss


@pytest.mark.parametrize("steps", [4, 7, 10, 100, 331])
@pytest.mark.parametrize("updates", [1, 3, 4])
def test_updates_are_spread_and_none_comes_shortly_before_an_evaluation(steps, updates):
    found = sorted(update_steps(steps, updates))
    assert len(found) == updates
    assert found[0] >= 1
    assert steps - found[-1] >= steps // (2 * updates) - 1
    gaps = [after - before for before, after in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_training_updates_as_often_as_asked(text):
    training = begin(text)
    steps = training.task.steps(0, 0)
    due = [step for step in range(1, 3 * steps + 1) if training.sparsifier.when(step)]
    assert len(due) == 9
    assert {(step - 1) % steps + 1 for step in due} == update_steps(steps, 3)
