"""The recipes of the published networks: random windows, accumulated parts, triggered averages, finetuning, bf16."""

from contextlib import nullcontext
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch

from hyperpruning.experiment import ExperimentError
from hyperpruning.search.worker import job_for, run_job
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.tasks.dynamic_evaluation import DynamicEvaluation
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.training.averaging import non_monotone
from hyperpruning.training.checkpoint import load, save
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.epochs import epochs, train_batches
from hyperpruning.training.pruning import COSTS, SCOPES, update_steps
from hyperpruning.training.state import Training
from hyperpruning.training.task import as_step
from small import small

RECIPES = {
    "random windows": {"bptt_deviation": 5.0, "bptt_longest": 30},
    "accumulated": {"gradient_accumulation": 4},
    "triggered": {"average_from": 1.0, "non_monotone": 1},
    "finetuned": {"average_from": 1.0, "finetune_from": 0.5, "finetune_lr": 1.25},
    "bf16": {"precision": "bf16"},
}
RECIPES["all"] = {name: value for recipe in RECIPES.values() for name, value in recipe.items()}


def begin(text, method="set", model=None, **training):
    sections = {"training": {"epochs": 6, "average_from": 0.5, **training}, "search": {"rungs": (1,), "keep": (2,)}}
    plan = small(text, **sections, **({"model": model} if model else {})).plan()
    return Training(plan.task, plan.train, METHODS[method] if method else None, sparsity=0.6)


def comparable(records):
    return [replace(record, seconds=0.0) for record in records]


@pytest.mark.parametrize(
    ("method", "recipe"), [*(("set", recipe) for recipe in RECIPES), ("gmp", "finetuned"), ("gmp", "all")]
)
def test_every_recipe_continues_from_a_checkpoint_bit_for_bit(text, tmp_path, method, recipe):
    settings = dict(RECIPES[recipe])
    if method == "gmp":
        settings["finetune_from"] = 0.8  # its density falls until 0.75
    whole = begin(text, method, **settings)
    expected = list(epochs(whole))
    for pause in (3, 5) if "finetune_from" in settings else (4,):
        first = begin(text, method, **settings)
        records = list(epochs(first, pause))
        save(first, tmp_path / str(pause), "x", records)
        second = begin(text, method, **settings)
        load(second, tmp_path / str(pause), "x")
        records += epochs(second)
        assert comparable(records) == comparable(expected)
        assert all(second.best[name].equal(value) for name, value in whole.best.items())
        assert (
            sum(int(mask.sum()) for mask in second.sparsifier.masks.values())
            == second.sparsifier.weight_budget.target_cost
        )


@pytest.mark.parametrize(("cell", "more"), [("lstm", {}), ("gru", {}), ("rhn", {"depth": 2}), ("lstm", {"experts": 2})])
def test_every_network_trains_in_bf16_and_is_delivered_in_float32(text, cell, more):
    model = {"cell": cell, "hidden": 8, "embedding": 8, "dropout": {"input": 0.1, "output": 0.1}, **more}
    training = begin(text, model=model, epochs=2, precision="bf16")
    exact = begin(text, model=model, epochs=2)
    losses = [[record.valid_loss for record in epochs(one)] for one in (training, exact)]
    assert losses[0][1:] != losses[1][1:]
    assert losses[0][0] == losses[1][0]  # evaluation is in float32
    assert abs(losses[0][-1] - losses[1][-1]) < 0.1
    assert {value.dtype for value in training.best.values()} == {torch.float32}


def test_windows_differ_between_epochs_and_the_step_takes_their_share_of_the_learning_rate(text):
    task = LanguageModelling(folder=text, bptt=20, batch=8, bptt_deviation=5.0)
    cuts = [[len(step.parts[0][0]) for step in task.batches(epoch, 3)] for epoch in (0, 1, 0)]
    assert cuts[0] == cuts[2] != cuts[1]
    assert [len(cut) for cut in cuts] == [task.steps(epoch, 3) for epoch in (0, 1, 0)]
    assert sum(cuts[0]) == sum(cuts[1])
    training = begin(text, None, bptt_deviation=5.0)
    step = next(iter(training.task.batches(0, 0)))
    before = {name: value.detach().clone() for name, value in training.network.named_parameters()}
    train_batches(training, [step])
    moved = {name: value.detach() - before[name] for name, value in training.network.named_parameters()}
    again = begin(text, None, bptt_deviation=5.0)
    train_batches(again, [replace(step, lr_factor=2 * step.lr_factor)])
    for name, value in again.network.named_parameters():
        torch.testing.assert_close(value.detach() - before[name], 2 * moved[name], atol=2e-7, rtol=1e-4)


def test_mask_updates_follow_the_steps_that_epochs_of_random_windows_have(text):
    training = begin(text, bptt_deviation=5.0)
    counts = [training.task.steps(epoch, 0) for epoch in range(6)]
    assert len(set(counts)) > 1
    start = 0
    for count in counts:
        due = {step for step in range(1, count + 1) if training.sparsifier.when(start + step)}
        assert due == update_steps(count, 3)
        start += count
    assert training.sparsifier.weight_budget.total_steps == start


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(text):
    """Without dropout the mean of the parts' gradients is the gradient of the mean."""
    whole, parts = (begin(text, None, gradient_accumulation=count, max_grad_norm=1e9) for count in (1, 4))
    for training in (whole, parts):
        train_batches(training, list(training.task.batches(0, 0))[:3])  # the state is carried part by part
    assert len(as_step(next(iter(parts.task.batches(0, 0)))).parts) == 4
    for name, value in whole.network.named_parameters():
        torch.testing.assert_close(dict(parts.network.named_parameters())[name], value, atol=1e-5, rtol=1e-4)


def test_averaging_begins_by_the_non_monotone_trigger(text):
    training = begin(text, None, epochs=12, average_from=1.0, non_monotone=2, lr=60.0)
    began = [(record.epoch, training.averaging) for record in epochs(training)]
    losses = training.valid_losses
    first = next(count for count in range(1, 12) if non_monotone(losses[:count], 2))
    assert [averaging for _, averaging in began] == [epoch > first for epoch, _ in began]


def test_averaging_waits_until_soft_shrinkage_ends(text):
    training = begin(text, "iss-p", epochs=8, average_from=1.0, non_monotone=1, lr=80.0)
    for record in epochs(training):
        if training.averaging:
            assert record.epoch > 0.5 * 8
    assert training.averaging


@pytest.mark.parametrize("method", ["set", "gmp"])
def test_finetuning_goes_on_from_the_best_weights_with_their_masks_which_stay(text, method):
    training = begin(text, method, epochs=8, lr=30.0, average_from=0.5, finetune_from=0.8, finetune_lr=0.5)
    list(epochs(training, 7))
    best, masks = dict(training.best), {name: mask.clone() for name, mask in training.best_masks.items()}
    for name, mask in masks.items():
        assert not best[name][~mask].any()
    training.begin_finetuning()
    assert all(training.network.state_dict()[name].cpu().equal(value) for name, value in best.items())
    record = next(epochs(training))
    assert record.churn == 0
    assert all(mask.cpu().equal(masks[name]) for name, mask in training.sparsifier.masks.items())
    assert training.optimizer.param_groups[0]["lr"] == 15.0
    assert training.averaging


def test_recipes_that_cannot_be_carried_out_are_refused(text):
    with pytest.raises(ValueError, match=r"got 0.5 with the final density at 0.75 of the steps. Raise finetune_from"):
        begin(text, "gmp", finetune_from=0.5)
    for settings, sentence in (
        ({"bptt_deviation": 5.0, "bptt_longest": 10}, "must be at least 20 .the larger of bptt and 5., got 10"),
        ({"bptt_longest": 30}, "bptt_longest must be 0 when bptt_deviation is 0, got 30"),
        ({"bptt_deviation": 5.0, "bptt": 4}, "got 4. Raise it"),
        ({"finetune_from": 0.95}, "got 0.95 of 4 epochs"),
        ({"finetune_lr": 2.0}, "Set finetune_from, or leave it out"),
        ({"precision": "bf15"}, "Did you mean 'bf16'"),
        ({"precision": "tf32", "device": "cpu"}, 'device must be a GPU when precision is "tf32", got "cpu"'),
    ):
        with pytest.raises(ExperimentError, match=sentence):
            small(text, training=settings)
    for settings, sentence in (
        ({"gradient_accumulation": 3}, "must be a multiple of gradient_accumulation in .training., got 8 and 3"),
        ({"bptt": 5000}, "bptt must be at most the .*, got 5000"),
        ({"batch": 100_000}, "The train text is too short"),
        ({"device": "abacus"}, "got 'abacus'"),
        ({"device": "cuda:99"}, "got 'cuda:99'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            begin(text, **settings)


@pytest.mark.parametrize(
    ("make", "settings", "sentence"),
    [
        (TrainConfig, {"epochs": 0}, "epochs must be at least 1 and at most 10000, got 0."),
        (TrainConfig, {"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        (TrainConfig, {"lr": "0.5"}, "lr must be a number, got '0.5'"),
        (TrainConfig, {"lr": float("nan")}, "lr must be a number, got nan"),
        (TrainConfig, {"average_from": 1.5}, "average_from must be at least 0 and at most 1, got 1.5"),
        (TrainConfig, {"counts": "x"}, "counts must be one of weights, multiply_adds, got 'x'"),
        (TrainConfig, {"scope": "x"}, "scope must be one of all, recurrent, got 'x'"),
        (TrainConfig, {"precision": "tf32", "device": "cpu"}, "must be a GPU"),
        (TrainConfig, {"finetune_from": 0.95}, "got 0.95 of 10 epochs"),
        (LanguageModelling, {"gradient_accumulation": 0}, "gradient_accumulation must be at least 1, got 0"),
        (LanguageModelling, {"bptt": 0}, "bptt must be at least 1, got 0"),
        (LanguageModelling, {"bptt_longest": 30}, "Set bptt_deviation, or leave bptt_longest out"),
        (DynamicEvaluation, {"bptt": 0}, "bptt must be at least 1, got 0"),
    ],
)
def test_values_are_refused_where_they_are_given(make, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**settings)


def test_the_choices_are_those_that_there_are():
    assert (tuple(SCOPES), tuple(COSTS)) == tuple(
        field.metadata["choices"] for field in fields(TrainConfig) if field.name in ("scope", "counts")
    )


def test_a_density_that_arrives_after_the_finetuning_begins_is_refused(text):
    """With random windows a fraction of the epochs is not that of the steps."""
    plan = small(text, training={"epochs": 4, "bptt": 30, "bptt_deviation": 8.0}).plan()
    refused = 0
    for seed in range(8):
        train = replace(plan.train, finetune_from=0.75, seed=seed)
        steps = [plan.task.steps(epoch, seed) for epoch in range(4)]
        if 0.75 * sum(steps) > sum(steps[:3]):
            refused += 1
            with pytest.raises(ValueError, match="must not be before the method reaches its final density"):
                Training(plan.task, train, METHODS["gmp"], sparsity=0.6)
        else:
            Training(plan.task, train, METHODS["gmp"], sparsity=0.6)
    assert 0 < refused < 8


def test_grasp_differentiates_every_network_twice(text):
    for model in ({"cell": "rhn", "depth": 2}, {"cell": "gru"}):
        training = begin(text, "grasp", model={"hidden": 8, "embedding": 8, **model})
        assert (
            sum(int(mask.sum()) for mask in training.sparsifier.masks.values())
            == training.sparsifier.weight_budget.target_cost
        )


def test_products_are_in_tf32_within_the_training_alone(text, tmp_path, monkeypatch):
    """As on a GPU: what is set is looked at where the training and where the evaluation read it."""
    seen = {True: set(), False: set()}
    task_loss = LanguageModelling.loss

    def loss(self, network, batch, carry):
        seen[network.training].add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return task_loss(self, network, batch, carry)

    plan = small(text, training={"epochs": 2, "precision": "tf32"}, search={"rungs": (1,), "keep": (2,)}).plan()
    monkeypatch.setattr(LanguageModelling, "loss", loss)
    monkeypatch.setattr("hyperpruning.training.device.device_of", lambda name: torch.device("cuda"))
    monkeypatch.setattr("hyperpruning.training.epochs.forward_precision", lambda config: nullcontext())
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    done = run_job(job_for(plan, tmp_path, None, 2))
    assert done.final is not None  # the test loss too
    assert seen == {True: {("high", True)}, False: {("highest", False)}}
    assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


def test_masks_stay_within_the_budget_between_all_updates(text):
    training = begin(text, "rigl", **RECIPES["all"])
    target = training.sparsifier.weight_budget.target_cost
    for before, after in pairwise(epochs(training)):
        assert before.active == after.active == target
