"""The training loop: a generator of epochs that can stop after any of them and continue later."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperpruning.kernels import float32_precision
from hyperpruning.sparsity.masking import density
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.training.averaging import averaged, is_averaging, non_monotone, start_averaging
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.device import device_of, forward_precision, matmul_precision, seeded
from hyperpruning.training.optimizers import make_optimizer
from hyperpruning.training.pruning import make_sparsifier, prunable_weights
from hyperpruning.training.record import EpochRecord
from hyperpruning.training.task import Task, as_step, loss_and_carry, loss_and_metric, metric_of, recipe_of

CHECK_EVERY = 50  # steps between two checks that the loss is finite: each check synchronises the GPU


class DivergedError(FloatingPointError):
    """The loss, or the metric that follows from it, is not finite."""


class Training:
    """A network, its optimizer and its Sparsifier, with the state of its training.

    Args:
        task: the task.
        config: the training settings.
        method: the pruning method; None trains a dense network.
        sparsity: fraction of zero weights over the prunable weights; only with a method.
    """

    def __init__(self, task: Task, config: TrainConfig, method: Method | None = None, *, sparsity: float = 0.0) -> None:
        self.task, self.config = task, config.with_recipe(recipe_of(task))
        self.device = device_of(config.device)
        self.network = task.network(config.seed).to(self.device)
        self.optimizer = self._optimizer()
        self.sparsifier: Sparsifier | None = None
        if method is not None:
            self.sparsifier = make_sparsifier(
                task, self.network, self.optimizer, self.config, method, sparsity=sparsity
            )
        self.epoch = -1  # the last recorded one; epoch 0 is the network before training
        self.valid_losses: list[float] = []  # from epoch 1 on, after the density has reached its target
        self.best_loss = float("inf")
        self.best: dict[str, Tensor] = {}  # on the CPU
        self.best_masks: dict[str, Tensor] = {}  # only if finetuning continues from them

    def _optimizer(self) -> Optimizer:
        config = self.config
        assert config.optimizer is not None
        assert config.lr is not None
        assert config.weight_decay is not None
        return make_optimizer(
            config.optimizer,
            self.network.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )

    @property
    def averaging(self) -> bool:
        """Whether averages of the weights are kept, and evaluated in place of the weights."""
        return is_averaging(self.optimizer)

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The network as it would be exported: averaged and masked weights, evaluation mode, float32."""
        pruned = nullcontext() if self.sparsifier is None else self.sparsifier.masked()
        with averaged(self.optimizer), pruned, float32_precision(), torch.no_grad():
            self.network.eval()
            try:
                yield self.network
            finally:
                self.network.train()

    def record(self, train_loss: float | None = None, dropped: int = 0) -> EpochRecord:
        """Evaluate, and keep the weights if they are the best so far."""
        with self.evaluated() as network:
            valid, metric = loss_and_metric(self.task.evaluate(network, "valid"))
            self._check_valid(valid)
            # a network that is denser than the target is never exported
            at_final_density = self.sparsifier is None or self.sparsifier.at_final_density
            if self.epoch > 0 and at_final_density:
                self.valid_losses.append(valid)
            if self.epoch > 0 and at_final_density and valid < self.best_loss:
                self.best_loss = valid
                state = network.state_dict(
                    keep_vars=True
                )  # tied weights are one tensor here, so that they are copied once
                copies = {value: value.detach().to("cpu", copy=True) for value in set(state.values())}
                self.best = {name: copies[value] for name, value in state.items()}
                if self.config.finetune_after is not None and self.sparsifier is not None:
                    self.best_masks = {name: mask.to("cpu", copy=True) for name, mask in self.sparsifier.masks.items()}
        masks = self.sparsifier.masks if self.sparsifier is not None else {}
        active = sum(int(mask.sum()) for mask in masks.values())
        active = active or prunable_weights(self.task, self.network, self.config)
        densities = density(masks, self.task.row_groups(self.network))
        ever_active = 1.0 if self.sparsifier is None else self.sparsifier.ever_active
        return EpochRecord(
            self.epoch, train_loss, valid, active, densities, dropped / active, ever_active, valid_metric=metric
        )

    def _check_valid(self, loss: float) -> None:
        """Check that the validation loss is finite, and the metric that follows from it: exp(710) is infinite."""
        metric = metric_of(self.task)
        for name, value in (("loss", loss), (metric.name, metric.value(loss) if metric.from_loss else 0.0)):
            if not math.isfinite(value):
                raise DivergedError(
                    f"The validation {name} must be finite, got {value} (loss {loss:g}) after epoch {self.epoch}. "
                    f"Lower the learning rate ({self.config.lr:g})."
                )

    def state_dict(self) -> dict[str, Any]:
        """All state that the rest of the training depends on (plain types and tensors)."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict() if self.sparsifier is not None else None,
            "epoch": self.epoch,
            "valid_losses": self.valid_losses,
            "best_loss": self.best_loss,
            "best": self.best,
            "best_masks": self.best_masks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; the training continues bit for bit."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.sparsifier is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])
        self.epoch, self.valid_losses = state["epoch"], list(state["valid_losses"])
        self.best_loss, self.best, self.best_masks = state["best_loss"], state["best"], state["best_masks"]

    def begin_finetuning(self) -> None:
        """Restore the best weights with their masks; averaging restarts with the next step."""
        self.network.load_state_dict(self.best)
        if self.sparsifier is not None:
            self.sparsifier.restore(self.best_masks)
        self.optimizer.state.clear()
        start_averaging(self.optimizer)


def epochs(training: Training, until: int | None = None) -> Iterator[EpochRecord]:
    """Train epoch by epoch.

    Args:
        training: continued in place.
        until: stop after this epoch; None goes to the end.

    Yields:
        the record of each epoch, beginning with epoch 0 (nothing trained) for a fresh training.

    Raises:
        DivergedError: the loss, or the metric that follows from it, is not finite.
    """
    until = training.config.epochs if until is None else min(until, training.config.epochs)
    while training.epoch < until:
        started = time.perf_counter()
        loss, dropped = _train_epoch(training) if training.epoch >= 0 else (None, 0)
        training.epoch += 1
        record = training.record(loss, dropped)
        yield replace(record, seconds=time.perf_counter() - started)


def _train_epoch(training: Training) -> tuple[float, int]:
    """Train one epoch; return the mean loss and the number of dropped weights."""
    config, epoch = training.config, training.epoch
    if epoch == config.finetune_after:
        training.begin_finetuning()
    if _averaging_starts(training):
        start_averaging(training.optimizer)
    with seeded(config.seed * 1_000_003 + epoch, training.device), matmul_precision(config):
        steps = training.task.steps(epoch, config.seed)
        return train_batches(training, counted(training.task.batches(epoch, config.seed), steps, epoch, config.seed))


def _averaging_starts(training: Training) -> bool:
    """Whether weights are averaged in the next epoch; never during soft shrinkage."""
    config, losses = training.config, training.valid_losses
    if training.sparsifier is not None and training.sparsifier.soft_shrinking:
        return False
    assert config.average_from is not None
    triggered = config.non_monotone and losses and non_monotone(losses, config.non_monotone)
    return bool(triggered) or training.epoch >= config.epochs_in(config.average_from)


def counted(batches: Iterable[Any], steps: int, epoch: int, seed: int) -> Iterator[Any]:
    """The batches of an epoch, which must be as many as its steps: mask updates and schedules count on it.

    Raises:
        ValueError: there are fewer, or there is another one after `steps`.
    """
    name, count = f"batches({epoch}, {seed}) must give steps({epoch}, {seed}) = {steps} batches", 0
    for batch in batches:
        if count == steps:
            raise ValueError(f"{name}, got more. Correct one of them.")
        yield batch
        count += 1
    if count < steps:
        raise ValueError(f"{name}, got {count}. Correct one of them.")


def train_batches(training: Training, batches: Iterable[Any]) -> tuple[float, int]:
    """Train on batches in order; return their mean loss and the number of dropped weights."""
    config, network, optimizer = training.config, training.network, training.optimizer
    assert config.max_grad_norm is not None
    total, count, dropped = torch.zeros((), dtype=torch.float64, device=training.device), 0, 0
    epoch = max(0, training.epoch)
    steps = training.task.steps(epoch, config.seed)
    carries: dict[int, Any] = {}
    for step in map(as_step, batches):
        optimizer.zero_grad()
        for number, part in enumerate(step.parts):
            with forward_precision(config):
                loss, carries[number] = loss_and_carry(training.task, network, part, carries.get(number))
            loss = loss / len(step.parts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(epoch, count, steps) * step.lr_factor
        count += 1
        if count % CHECK_EVERY == 0:
            _check_finite(training, total, count)
        nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        if training.sparsifier is not None and (update := training.sparsifier.step()) is not None:
            dropped += sum(update.dropped.values())
    _check_finite(training, total, count)
    return float(total) / count, dropped


def _check_finite(training: Training, total: Tensor, count: int) -> None:
    if not math.isfinite(float(total)):
        raise DivergedError(
            f"The training loss must be finite, got {float(total)} in epoch {training.epoch + 1} within the first "
            f"{count} steps. Lower the learning rate ({training.config.lr:g})."
        )
