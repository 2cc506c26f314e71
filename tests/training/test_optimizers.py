"""Optimizers, learning-rate schedules and recipes: masks and averages in each one's state, exact continuation."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

import hyperpruning as hp
from hyperpruning.experiment import Experiment
from hyperpruning.sparsity.parameter import optimizer_state
from hyperpruning.testing.comparison import bits
from hyperpruning.testing.tiny_task import TinyTask
from hyperpruning.training.averaging import averaged, keep_averages, start_averaging
from hyperpruning.training.checkpoint import load, save
from hyperpruning.training.config import RECIPE, TrainConfig
from hyperpruning.training.epochs import epochs
from hyperpruning.training.optimizers import OPTIMIZERS, OptimizerEntry
from hyperpruning.training.pruning import MethodError
from hyperpruning.training.state import Training

SCHEDULES = {
    "constant": {"warmup_epochs": 1.5},
    "step": {"schedule": "step", "lr_decay": 0.5, "lr_decay_after": 2},
    "cosine": {"schedule": "cosine", "warmup_epochs": 0.5, "average_from": 0.5},
}


def begin(optimizer, method="rigl", **settings):
    config = TrainConfig(epochs=4, optimizer=optimizer, **({"updates_per_epoch": 2} | settings))
    return Training(TinyTask(), config, hp.METHODS[method] if method else None, sparsity=0.5 if method else 0.0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masks_are_kept_in_the_state_and_a_training_continues_bit_for_bit(tmp_path, optimizer):
    for schedule, settings in SCHEDULES.items():
        whole = begin(optimizer, **settings)
        expected = [replace(record, seconds=0.0) for record in epochs(whole)]
        paused = begin(optimizer, **settings)
        records = list(epochs(paused, 2))
        save(paused, tmp_path / schedule, "x", records)
        after = begin(optimizer, **settings)
        load(after, tmp_path / schedule, "x")
        records += epochs(after)
        assert [replace(record, seconds=0.0) for record in records] == expected
        assert bits(after.state_dict()) == bits(whole.state_dict())
        assert expected[-1].train_loss < expected[1].train_loss
        assert len({record.active for record in expected}) == 1
        for name, mask in whole.sparsifier.masks.items():
            weight = whole.sparsifier.parameters[name]
            values = {"weight": weight.detach(), **optimizer_state(whole.optimizer, weight)}
            averages = {"average", "count"} if whole.averaging else set()
            assert set(values) >= averages
            assert not any(value[~mask].any() for value in values.values())


def test_the_optimizers_are_torchs():
    """Two epochs of the loop give the weights of a loop by hand, without pruning and averages."""
    by_hand = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "snt_asgd": lambda p: torch.optim.SGD(p, lr=1.0),
        "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
        "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01),
    }
    for name, make in by_hand.items():
        training, task = begin(name, None), TinyTask()
        list(epochs(training, 2))
        network = task.network(0)
        optimizer = make(network.parameters())
        for epoch in range(2):
            for batch in task.batches(epoch, 0):
                optimizer.zero_grad()
                task.loss(network, batch, None)[0].backward()
                nn.utils.clip_grad_norm_(network.parameters(), training.config.max_grad_norm)
                optimizer.step()
        assert bits(network.state_dict()) == bits(training.network.state_dict()), name


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_any_optimizer_keeps_the_mean_of_each_weight_once_averaging_has_started(optimizer):
    weight = nn.Parameter(torch.zeros(3))
    ours = keep_averages(OPTIMIZERS[optimizer].make([weight], lr=0.1, weight_decay=0.0, momentum=0.9))
    seen = []
    for step in range(6):
        if step == 2:
            start_averaging(ours)
        weight.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
        ours.step()
        seen.append(weight.detach().clone())
    with averaged(ours):
        torch.testing.assert_close(weight.detach(), torch.stack(seen[3:]).mean(0))  # k - 1: without the first one
    assert weight.detach().equal(seen[-1])


def test_schedules():
    step = TrainConfig(epochs=4, lr=2.0, schedule="step", lr_decay=0.5, lr_decay_after=2)
    assert [step.learning_rate(epoch) for epoch in range(4)] == [2.0, 2.0, 1.0, 0.5]
    cosine = TrainConfig(epochs=4, lr=1.0, schedule="cosine", warmup_epochs=1.0)
    assert [cosine.learning_rate(0, done, 4) for done in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert cosine.learning_rate(1, 0, 4) == 1.0
    assert cosine.learning_rate(2, 2, 4) == pytest.approx(0.5)
    assert 0 < cosine.learning_rate(3, 3, 4) < 0.02
    finetuned = TrainConfig(epochs=4, lr=1.0, schedule="cosine", finetune_from=0.5, finetune_lr=0.25)
    assert [finetuned.learning_rate(epoch) for epoch in range(4)] == pytest.approx([1.0, 0.5, 0.25, 0.25])


def test_the_learning_rate_changes_in_every_step():
    training, seen = begin("adamw", None, schedule="cosine", warmup_epochs=1.0, lr=0.1), []
    training.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    list(epochs(training))
    assert seen == [training.config.learning_rate(step // 4, step % 4, 4) for step in range(16)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epochs": 2.5}, r"epochs must be a whole number, got 2.5\."),
        (
            {"optimizer": "adamv"},
            "optimizer must be one of snt_asgd, sgd, adam, adamw, got 'adamv'. Did you mean 'adam'",
        ),
        ({"schedule": "cosin"}, "schedule must be one of constant, step, cosine, got 'cosin'. Did you mean 'cosine'"),
        ({"lr_decay": 0.5}, 'schedule must be "step" with lr_decay or lr_decay_after, got "constant"'),
        ({"epochs": 2, "warmup_epochs": 2.0}, r"warmup_epochs must be below the 2 epochs of the schedule, got 2\."),
        ({"optimizer": "adamw", "lr": 15.0}, "lr must be at most 1 with the optimizer adamw, got 15"),
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
    ],
)
def test_one_sentence_for_each_wrong_setting(settings, says):
    with pytest.raises(ValueError, match=says):
        TrainConfig(**settings)


@dataclass(frozen=True)
class WithRecipe(TinyTask):
    recipe: ClassVar = {"optimizer": "adam", "lr": 3e-3}


def recipe_values(config):
    return {name: getattr(config, name) for name in RECIPE}


def test_what_is_left_out_comes_from_the_task_or_from_the_optimizer():
    of = lambda task, **settings: recipe_values(Training(task, TrainConfig(**settings)).config)  # noqa: E731
    usual = {"weight_decay": 0.0, "max_grad_norm": 1.0, "average_from": 1.0}
    assert of(TinyTask()) == {**usual, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01}
    assert of(WithRecipe()) == {**usual, "optimizer": "adam", "lr": 3e-3}
    assert of(WithRecipe(), lr=0.01, average_from=0.5)["lr"] == 0.01
    assert of(WithRecipe(), optimizer="sgd") == {**usual, "optimizer": "sgd", "lr": 0.1}  # no lr of another optimizer
    lm = {"optimizer": "snt_asgd", "lr": 15.0, "weight_decay": 0.0, "max_grad_norm": 0.25, "average_from": 0.6}
    assert recipe_values(TrainConfig().with_recipe(hp.LanguageModelling.recipe)) == lm
    with pytest.raises(ValueError, match="lr must be at most 1 with the optimizer adamw, got 15"):
        Training(TinyTask(), TrainConfig(lr=15.0))
    with pytest.raises(ValueError, match=r"no other settings than optimizer, .* got 'lrr'. Did you mean 'lr'"):
        TrainConfig().with_recipe({"lrr": 1.0})


def test_a_plan_and_a_file_have_the_real_numbers():
    task = WithRecipe()
    plan = hp.Plan(task=task, dense_task=task, train=TrainConfig(), space=hp.SearchSpace({}))
    assert plan.identity()["train"]["lr"] == 3e-3
    assert "\nlr = 15.0 " in Experiment().to_toml()
    assert '\noptimizer = "snt_asgd" ' in Experiment().to_toml()
    adamw = Experiment(training={"optimizer": "adamw"}).to_toml()
    assert "\nlr = 0.001 " in adamw
    assert "\nweight_decay = 0.01 " in adamw


def test_an_optimizer_is_added_by_one_entry(monkeypatch):
    entry = OptimizerEntry(
        lambda parameters, *, lr, weight_decay, momentum: torch.optim.RMSprop(parameters, lr=lr, momentum=momentum),
        {"lr": 1e-3, "weight_decay": 0.0, "max_grad_norm": 1.0, "average_from": 0.5},
    )
    monkeypatch.setitem(OPTIMIZERS, "rmsprop", entry)
    training = begin("rmsprop", "snfs")
    losses = [record.train_loss for record in epochs(training)]
    assert losses[-1] < losses[1]
    assert training.averaging
    assert '\noptimizer = "rmsprop"' in Experiment(training={"optimizer": "rmsprop"}).to_toml()


def test_redistribution_by_momentum_takes_the_momentum_of_the_optimizer():
    method = replace(hp.METHODS["snfs"], grow=hp.METHODS["rigl"].grow)
    for optimizer, momentum, fits in (
        ("snt_asgd", 0.9, False),
        ("sgd", 0.0, False),
        ("sgd", 0.9, True),
        ("adam", 0.9, True),
    ):
        config = TrainConfig(epochs=2, optimizer=optimizer, momentum=momentum, updates_per_epoch=1)
        make = lambda: Training(TinyTask(), config, method, sparsity=0.5)  # noqa: B023, E731
        if fits:
            list(epochs(make()))
        else:
            with pytest.raises(MethodError, match="grow must be 'gradient_average' when redistribute is 'momentum'"):
                make()
